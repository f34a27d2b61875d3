"""The built-in model: a tokenizer and a small Llama, trained in about a minute on English that every CPython installs.

It is real (any tool that reads Hugging Face folders loads it) and knows nothing: for trying things out where no hub can
be reached, and for tests.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from clusterlm.worker.demo_recipe import CHAT_TEMPLATE, RECIPE, DemoModel, OnProgress, documents

CONTINUATION_PROMPTS = (
    "The value of the expression",
    "A class definition is",
    "If the object does not have",
)


def ensure_demo_model(on_progress: OnProgress | None = None) -> DemoModel:
    """The cached one, or a new one where this machine has none yet."""
    folder = demo_model_folder()
    if not (folder / "demo.json").exists():
        from clusterlm.worker.demo_training import make_demo_model  # torch: seconds, and only the first time

        make_demo_model(folder, on_progress=on_progress)
    return DemoModel(folder=folder, **json.loads((folder / "demo.json").read_text()))


def demo_model_folder() -> Path:
    """In the user's cache; another recipe or another text is another folder."""
    cache = os.environ.get("CLUSTERLM_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    recipe = json.dumps(RECIPE, sort_keys=True) + CHAT_TEMPLATE + "".join(documents())
    return Path(cache).expanduser() / "clusterlm" / f"demo-model-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
