"""clusterlm generate --on CLUSTER with a model of the hub: one that cannot be had is told before anything is queued."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.hub import COMMIT, running_hub

GATED = {"meta-llama/Llama-9-8B": 401, "meta-llama/Llama-9-70B": 403}
"""Without a token, and with that of somebody who was not let in."""


def submit(model: str, folder: Path, **variables: str) -> CompletedProcess[str]:
    """For nodes that reach no network. In a process of its own: huggingface_hub reads these variables when imported."""
    (folder / "prompts.txt").write_text("A class\n")
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {"HF_HOME": str(folder / "hub"), "NO_PROXY": "127.0.0.1", **variables}
    command = [sys.executable, "-m", "clusterlm", "generate", model, "prompts.txt", "-o", "answers.jsonl"]
    command += ["--on", "leonardo", "--account", "project"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert not list(folder.glob("answers*")), "nothing is written"
    return done


@pytest.mark.parametrize("model", GATED)
def test_a_gated_model_is_told_with_the_way_to_get_it(model: str, tmp_path: Path) -> None:
    about = {"id": model, "sha": COMMIT, "siblings": [{"rfilename": "config.json"}], "gated": "manual"}
    listed = [{"type": "file", "path": "config.json", "size": 1, "oid": COMMIT}]
    known = {  # all that everybody may read of it
        f"api/models/{model}/revision/main": {"": json.dumps(about).encode()},
        f"api/models/{model}/tree/{COMMIT}": {"": json.dumps(listed).encode()},
    }
    refused = {f"{model}/resolve/{COMMIT}/config.json": (GATED[model], "GatedRepo")}
    with running_hub(known, refused) as hub:
        done = submit(model, tmp_path, HF_ENDPOINT=hub.url)
    assert done.returncode == 1
    assert f"error: {model}: the owner lets only registered users have this model\n" in done.stderr
    assert f"hint: ask for access at https://huggingface.co/{model}, then run: hf auth login\n" in done.stderr


def test_a_model_that_is_not_on_the_disk_is_told_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    done = submit("some/new", tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "error: some/new: is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids asking the hub" in done.stderr
    assert "hint: on a machine with internet: hf download some/new; or name a local folder" in done.stderr
