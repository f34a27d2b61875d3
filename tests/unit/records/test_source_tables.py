"""Reading requests of Parquet files, saved datasets and folders of files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from clusterlm.errors import InputError, MissingPackage, UsageError
from clusterlm.records.request import Request
from clusterlm.records.source import open_source
from tests.unit.records.sources import errors, prompts, refusal, written

# ---------------------------------------------------------------------------------------------------- parquet, datasets


def test_parquet_rows_become_requests_and_other_columns_are_not_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"id": [10, 11, 12], "text": ["a", None, ""], "image": [b"\xff"] * 3})
    parquet.write_table(table, tmp_path / "in.parquet")
    assert list(open_source(tmp_path / "in.parquet")) == [
        Request(0, "10", prompt="a"),
        Request(1, "11", error="text is null"),
        Request(2, "12", error="text is empty"),
    ]
    assert errors(open_source(tmp_path / "in.parquet", column="image"))[0] == "image is of type bytes; text is wanted"
    assert "did you mean 'image'?" in refusal(UsageError, tmp_path / "in.parquet", column="imag")


def test_conversations_in_a_table_lose_the_keys_that_are_null(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    turns = [{"role": "user", "content": "Hi", "name": None}, {"role": "user", "content": "Ho", "name": "Jo"}]
    parquet.write_table(pyarrow.table({"messages": [turns]}), tmp_path / "in.parquet")
    assert "--column messages" in refusal(UsageError, tmp_path / "in.parquet")
    source = open_source(tmp_path / "in.parquet", column="messages")
    assert [request.messages for request in source] == [[{"role": "user", "content": "Hi"}, turns[1]]]


def test_a_damaged_parquet_file_is_told(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    assert "not a Parquet file" in refusal(InputError, written(tmp_path, "in.parquet", b"PAR1 nonsense"))
    assert "not a Parquet file" in refusal(InputError, written(tmp_path, "empty.parquet", b""))


def save_stream(folder: Path, name: str, texts: list[str]) -> None:
    """A file as save_to_disk writes it."""
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"text": texts})
    with pyarrow.ipc.new_stream(str(folder / name), table.schema) as stream:
        stream.write_table(table)


def save_dataset(folder: Path, *files: list[str]) -> Path:
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(files):05}.arrow" for number in range(len(files))]
    for name, texts in zip(names, files, strict=True):
        save_stream(folder, name, texts)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None, "_indices_data_files": None}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_a_saved_dataset_is_read_file_after_file(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "data", ["a", "b"], ["c"])
    assert list(open_source(folder)) == [
        Request(0, "0", prompt="a"),
        Request(1, "1", prompt="b"),
        Request(2, "2", prompt="c"),
    ]
    assert "there is no split 'train'" in refusal(UsageError, folder, split="train")
    (folder / "data-00001-of-00002.arrow").write_bytes(b"\xff\xff\xff\xff\x10\x00")
    assert "data-00001-of-00002.arrow: not an Arrow stream" in refusal(InputError, folder)
    (folder / "data-00001-of-00002.arrow").unlink()
    assert "No such file" in refusal(InputError, folder)


def test_a_dataset_of_splits_needs_one_unless_there_is_only_one(tmp_path: Path) -> None:
    save_dataset(tmp_path / "d" / "train", ["a"])
    save_dataset(tmp_path / "d" / "test", ["b"])
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert prompts(open_source(tmp_path / "d", split="test")) == ["b"]
    assert "2 splits: train, test" in refusal(UsageError, tmp_path / "d")
    assert "did you mean 'train'?" in refusal(UsageError, tmp_path / "d", split="trian")
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert prompts(open_source(tmp_path / "d")) == ["a"]


def test_a_dataset_that_the_datasets_package_saved_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="optional: the package datasets")
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"id": ["x", "y", "z"], "prompt": ["a", "b", "c"]})
    rows.select([2, 0]).save_to_disk(str(tmp_path / "saved"))
    assert [(request.id, request.prompt) for request in open_source(tmp_path / "saved")] == [("z", "c"), ("x", "a")]


def test_a_folder_of_data_files_is_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    written(tmp_path, "b.jsonl", '{"prompt": "b"}\n')
    written(tmp_path, "a.jsonl", '{"prompt": "a"}\n')
    written(tmp_path, "README.md", "# data\n")
    assert prompts(open_source(tmp_path)) == ["a", "b"]
    assert "split" in refusal(UsageError, tmp_path, split="train")
    written(tmp_path, "c.csv", "prompt\nc\n")
    assert "several formats: .csv, .jsonl" in refusal(InputError, tmp_path)


def test_a_file_of_a_folder_without_the_prompts_column_is_told(tmp_path: Path) -> None:
    written(tmp_path, "a.csv", "prompt\na\n")
    written(tmp_path, "b.csv", "promt\nb\n")
    assert "b.csv: there is no column 'prompt', but a.csv has it" in refusal(InputError, tmp_path)


def test_a_folder_without_data_is_told(tmp_path: Path) -> None:
    assert "no .parquet, .jsonl, .csv file is in it" in refusal(InputError, tmp_path)


def test_without_pyarrow_parquet_names_the_package_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackage, match=r"pip install 'clusterlm\[run\]'"):
        open_source(written(tmp_path, "in.parquet", b""))
