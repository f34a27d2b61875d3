"""Conversations are learned through the model's template, and answered as they were taught."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cli.running import clusterlm, lines_of

CAPITALS = {"France": "Paris", "Italy": "Rome", "Norway": "Oslo", "Greece": "Athens", "Poland": "Warsaw"}
SURE = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes!"}]


def taught(country: str) -> list[dict[str, str]]:
    question = {"role": "user", "content": f"Capital of {country}?"}
    return [{"role": "system", "content": "Be brief."}, question, {"role": "assistant", "content": CAPITALS[country]}]


def write(path: Path, conversations: list[list[dict[str, str]]]) -> Path:
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    return path


def test_a_model_answers_as_its_conversations_taught_it(model: Path, tmp_path: Path) -> None:
    conversations = [[*taught(country), *more] for more in ([], SURE) for country in CAPITALS]
    data = write(tmp_path / "taught.jsonl", conversations)
    settings = ("--max-steps", 40, "--global-batch-size", 10, "--learning-rate", 0.01)
    done = clusterlm("train", model, data, "-o", tmp_path / "chat", *settings)
    assert done.exit_code == 0, done.output
    asked = write(tmp_path / "asked.jsonl", [messages[:-1] for messages in conversations])
    answers = tmp_path / "answers.jsonl"
    found = clusterlm("generate", tmp_path / "chat", asked, "-o", answers, "--max-new-tokens", 12)
    assert found.exit_code == 0, found.output
    assert [line["text"] for line in lines_of(answers)] == [*CAPITALS.values(), *["Yes!"] * len(CAPITALS)]
    # As a user of a terminal asks, from a pipe: the second message is understood by the first.
    spoken = clusterlm("chat", tmp_path / "chat", "--system", "Be brief.", input="Capital of Italy?\n\nSure?\n")
    assert (spoken.exit_code, spoken.stdout) == (0, "Rome\nYes!\n"), spoken.output
    assert {line["finish_reason"] for line in lines_of(answers)} == {"stop"}, "it has learned to end, too"


def test_a_model_without_a_template_cannot_talk(model: Path, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    shutil.copytree(model, mute)
    (mute / "chat_template.jinja").unlink()
    refused = clusterlm("chat", mute, input="Hi\n")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "has no chat template" in refused.stderr


def test_a_conversation_ends_where_the_context_does(model: Path) -> None:
    full = clusterlm("chat", model, "--max-new-tokens", 2, input="Hi\n" + "word " * 600 + "\n")
    assert full.exit_code == 1
    assert "context is 512 tokens" in full.stderr
    assert "begin a new conversation" in full.stderr
