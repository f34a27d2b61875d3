"""What a row of a file teaches: a text, a completion of its prompt, or a conversation; whatever the file's format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from clusterlm.errors import InputError, UsageError
from clusterlm.records.examples import Example, open_examples

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_line_of_text_is_an_example_and_so_is_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("One.\n\nTwo.\n")
    assert [one.text for one in open_examples(path)] == ["One.", "Two."]
    assert [one.text for one in open_examples(path, whole_file=True)] == ["One.\n\nTwo."]


def test_tables_of_every_format_hold_the_same_examples(tmp_path: Path) -> None:
    from datasets import Dataset

    columns = {"label": [1, 2], "text": ["One.", "Two."]}
    (tmp_path / "a.csv").write_text("label,text\n1,One.\n2,Two.\n")
    (tmp_path / "a.tsv").write_text("label\ttext\n1\tOne.\n2\tTwo.\n")
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    Dataset.from_dict(columns).save_to_disk(tmp_path / "a")
    write(tmp_path / "a.jsonl", [{"label": 1, "text": "One."}, {"label": 2, "text": "Two."}])
    (tmp_path / "a.json").write_text(json.dumps([{"text": "One."}, {"text": "Two."}]))
    for name in ("a.csv", "a.tsv", "a.parquet", "a", "a.jsonl", "a.json"):
        examples = open_examples(tmp_path / name)
        assert (examples.form, [one.text for one in examples]) == ("text", ["One.", "Two."]), name


FORMS: list[tuple[dict[str, Any], dict[str, Any], Example]] = [
    ({"text": "a"}, {}, Example(0, text="a")),
    ({"prompt": "a", "completion": "b"}, {}, Example(0, prompt="a", completion="b")),
    ({"messages": CHAT}, {}, Example(0, messages=CHAT)),
    ({"prompt": CHAT[:1], "completion": CHAT[1:]}, {}, Example(0, messages=CHAT)),
    ({"text": "a", "prompt": "b", "completion": "c"}, {}, Example(0, prompt="b", completion="c")),
    ({"body": "a", "text": "b"}, {"column": "body"}, Example(0, text="a")),
    ({"talk": CHAT}, {"column": "talk"}, Example(0, messages=CHAT)),
    ({"q": "a", "n": 3}, {"template": "{q} {{is}} {n}"}, Example(0, text="a {is} 3")),
]


@pytest.mark.parametrize(("row", "options", "example"), FORMS, ids=str)
def test_the_columns_say_what_is_learned(
    row: dict[str, Any], options: dict[str, Any], example: Example, tmp_path: Path
) -> None:
    assert list(open_examples(write(tmp_path / "a.jsonl", [row]), **options)) == [example]


def test_rows_that_cannot_be_used_keep_their_numbers_and_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "a"}, {"text": " "}, {"text": "b"}, {"label": 1}, {"text": 7}])
    examples = open_examples(path)
    assert [(one.index, one.text) for one in examples] == [(0, "a"), (2, "b")]
    summary = examples.check()
    assert (summary.rows, summary.usable, summary.characters) == (5, 2, 2)
    assert dict(summary.unusable) == {
        "text is blank": 1,
        "text is null": 1,
        "text is a number; text is wanted": 1,
    }
    assert summary.first_unusable[0] == f"{path}:2: text is blank"
    assert "3 of 5 rows are left out" in summary.lines()[0]


def test_another_text_is_another_digest(tmp_path: Path) -> None:
    first, second, more = (
        open_examples(write(tmp_path / f"{name}.jsonl", [{"text": text, "id": 3} for text in texts])).check().digest
        for name, texts in (("a", "xy"), ("b", "xz"), ("c", "xyz"))
    )
    assert len({first, second, more}) == 3
    assert open_examples(write(tmp_path / "d.jsonl", [{"text": text} for text in "xy"])).check().digest == first


def test_a_file_without_any_row_to_learn_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of its 2 rows can be learned: 2 x text is empty"):
        open_examples(write(tmp_path / "a.jsonl", [{"text": ""}] * 2)).check()
    with pytest.raises(UsageError, match="the columns are: label"):
        open_examples(write(tmp_path / "a.jsonl", [{"label": 1}]))
