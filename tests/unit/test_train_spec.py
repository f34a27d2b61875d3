"""What a training may be asked for: every setting is described, and a run file means what flags mean."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clusterlm.cli.train import train
from clusterlm.errors import UsageError
from clusterlm.spec import TrainSpec, make_spec, read_run_file

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "train-settings.md"
OF_THE_COMMAND = {"task", "model", "input", "output"}


def described() -> dict[str, bool]:
    """The settings of the reference, and whether each may change when a run is continued."""
    rows = [line.split("|")[1] for line in REFERENCE.read_text().splitlines() if line.startswith("| `")]
    return {name: "*" in row for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_setting_is_described_and_is_a_flag() -> None:
    settings = set(TrainSpec.model_fields) - OF_THE_COMMAND
    assert set(described()) == settings
    assert settings <= {parameter.name for parameter in train.params}


def test_the_reference_says_which_settings_may_change() -> None:
    assert {name for name, may_change in described().items() if may_change} == TrainSpec.NOT_IN_RESULTS - {"output"}


def test_a_run_file_that_was_written_asks_for_the_same(tmp_path: Path) -> None:
    asked = TrainSpec(model="m", input="/i", output="/o", method="lora", lora_targets=("q", "v"), report_to=("wandb",))
    (tmp_path / "run.toml").write_text(asked.to_toml())
    assert make_spec(TrainSpec, read_run_file(tmp_path / "run.toml")) == asked


def test_all_that_is_wrong_is_said_at_once() -> None:
    values = {"model": "m", "input": "i", "output": "o", "epochs": 2, "max_steps": 3, "merge": True, "eval_steps": 1}
    with pytest.raises(UsageError, match=r"epochs and max_steps.*eval_steps.*merge: belongs to LoRA"):
        make_spec(TrainSpec, values)


def test_adapters_learn_ten_times_as_fast_unless_told_otherwise() -> None:
    asked = TrainSpec(model="m", input="i", output="o")
    assert (asked.rate, asked.model_copy(update={"method": "lora"}).rate) == (2e-5, 2e-4)
    assert asked.model_copy(update={"method": "lora", "learning_rate": 3.0}).rate == 3.0
