"""What is learned of a file: its texts, the completions, the assistant's turns; and what is cut or left out."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest

from clusterlm.errors import RunError
from clusterlm.records.examples import open_examples
from clusterlm.worker.training.data.encoding import Encoder
from clusterlm.worker.training.data.tokens import Tokens, read_tokens, write_tokens
from tests.engines.zoo import make_tokenizer


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def learned_of(path: Path, rows: Sequence[Any]) -> list[tuple[str, str]]:
    """Of each example the text, and that part of it that is learned."""
    tokenizer = make_tokenizer()
    encoded = Encoder(tokenizer, "model").encode(open_examples(write(path, rows)))
    return [(tokenizer.decode(one.tokens), tokenizer.decode(one.tokens[one.learned])) for one in encoded]


def test_a_text_is_learned_whole_with_its_end(tmp_path: Path) -> None:
    assert learned_of(tmp_path / "a.jsonl", [{"text": "The value"}]) == [("The value<|end|>", "The value<|end|>")]


def test_of_prompt_and_completion_the_completion_is_learned(tmp_path: Path) -> None:
    rows = [{"prompt": "What is it? ", "completion": "A value."}]
    assert learned_of(tmp_path / "a.jsonl", rows) == [("What is it? A value.<|end|>", "A value.<|end|>")]


def test_of_a_conversation_the_turns_of_the_assistant_are_learned(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A model."},
        {"role": "user", "content": "Of what?"},
        {"role": "assistant", "content": "Of text."},
    ]
    ((text, learned),) = learned_of(tmp_path / "a.jsonl", [{"messages": messages}])
    assert text.startswith("<|system|>Be kind.<|user|>Who are you?<|assistant|>A model.")
    assert learned == "A model.Of text.<|end|>", "this template marks no ends; what ends the last turn is the end token"


def tokens_of(folder: Path, lengths: Sequence[int], limit: int, too_long: Any) -> Tokens:
    tokenizer = make_tokenizer()
    rows = [{"text": "a" * 1, "length": length} for length in lengths]
    examples = open_examples(write(folder / "rows.jsonl", rows))
    encoded = [
        type(one)(one.index, numpy.arange(length, dtype=numpy.int32), numpy.ones(length, dtype=bool))
        for one, length in zip(Encoder(tokenizer, "model").encode(examples), lengths, strict=True)
    ]
    write_tokens(folder / "tokens", {"limit": limit}, encoded, limit, too_long)
    return read_tokens(folder / "tokens")


def test_a_disk_too_small_for_the_tokens_is_told_and_nothing_half_is_left(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the first write beyond the limit is the last
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(RunError, match="no space left") as caught:
            tokens_of(tmp_path, [50_000], 100_000, "split")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handled)
    assert caught.value.where == str(tmp_path / "tokens.arrow")
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("too_long", "lengths", "cut", "dropped"),
    [("split", [5, 10, 10, 3], 1, 0), ("truncate", [5, 10], 1, 0), ("drop", [5], 0, 1)],
)
def test_what_is_too_long_is_split_truncated_or_dropped_and_counted(
    tmp_path: Path, too_long: str, lengths: list[int], cut: int, dropped: int
) -> None:
    tokens = tokens_of(tmp_path, [5, 23], 10, too_long)
    assert [len(row["tokens"]) for row in tokens.rows] == lengths == tokens.lengths.tolist()
    assert (tokens.table.examples, tokens.table.cut, tokens.table.dropped) == (2, cut, dropped)
    assert tokens.table.tokens == sum(lengths)


def test_a_single_token_has_nothing_to_learn(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path, [1, 4], 10, "split")
    assert tokens.lengths.tolist() == [4]
    assert tokens.table.dropped == 1


def test_tokens_are_written_once_for_the_same_content(tmp_path: Path) -> None:
    tokens_of(tmp_path, [5, 6], 10, "split")
    before = (tmp_path / "tokens.arrow").stat().st_mtime_ns
    tokens_of(tmp_path, [7], 10, "split")
    assert (tmp_path / "tokens.arrow").stat().st_mtime_ns == before
    tokens_of(tmp_path, [7], 9, "split")
    assert read_tokens(tmp_path / "tokens").lengths.tolist() == [7]
