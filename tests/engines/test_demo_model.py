"""The built-in model: small, real, the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from clusterlm.worker import demo_model
from clusterlm.worker.demo_model import ensure_demo_model
from clusterlm.worker.demo_training import make_demo_model

STEPS = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> demo_model.DemoModel:
    return make_demo_model(tmp_path_factory.mktemp("demo") / "model", steps=STEPS)


def test_training_lowers_the_loss_on_text_it_has_not_seen(made: demo_model.DemoModel) -> None:
    assert made.loss_before == pytest.approx(7.6, abs=0.3)  # an untrained model knows nothing: ln(2048) = 7.62
    assert made.loss_after < made.loss_before - 0.3


def test_it_is_an_ordinary_folder_with_a_chat_template(made: demo_model.DemoModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(made.folder)
    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    assert model.num_parameters() == made.parameters
    assert 1e6 < made.parameters < 9e6
    text = "Blanks  and\nlines, \u00fcml\u00e4ut, \u4e2d\u6587 and \U0001f642."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    messages = [{"role": "user", "content": "Hi"}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat == "<|user|>Hi<|end|><|assistant|>"
    assert "PSF" in (made.folder / "README.md").read_text()


def test_the_same_seed_makes_the_same_weights(made: demo_model.DemoModel, tmp_path: Path) -> None:
    again = make_demo_model(tmp_path / "model", steps=STEPS)
    assert (again.folder / "model.safetensors").read_bytes() == (made.folder / "model.safetensors").read_bytes()


def test_a_broken_off_training_leaves_nothing(tmp_path: Path) -> None:
    def break_off(step: int, steps: int, loss: float, seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo_model(tmp_path / "model", steps=3, on_progress=break_off)
    assert list(tmp_path.iterdir()) == []


def test_it_is_made_once_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERLM_CACHE", str(tmp_path))
    monkeypatch.setitem(demo_model.RECIPE, "steps", 2)
    first = ensure_demo_model()
    weights = first.folder / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert ensure_demo_model() == first
    assert weights.stat().st_mtime_ns == written
