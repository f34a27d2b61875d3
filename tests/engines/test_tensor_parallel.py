"""What two real processes hold when transformers cuts a model by its plan, beside what is counted for one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clusterlm.model.find import find_model
from clusterlm.planning.parallel import TENSOR_PLANS, rank_shape
from tests.engines.zoo import ARCHITECTURES, make_model

PROGRAM = """
import json, sys, torch
from transformers import AutoModelForCausalLM

held = {}
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, tp_plan="auto", dtype=torch.float32)
    parameters = {id(one): one for one in model.parameters()}.values()
    held[folder] = sum((one.to_local() if hasattr(one, "to_local") else one).numel() for one in parameters)
if torch.distributed.get_rank() == 0:
    open(sys.argv[1], "w").write(json.dumps(held))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_a_rank_holds_as_many_parameters_as_counted(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ARCHITECTURES if name in TENSOR_PLANS}
    assert len(folders) >= 12
    for name, folder in folders.items():
        make_model(folder, name)
    (tmp_path / "hold.py").write_text(PROGRAM)
    result = tmp_path / "held.json"
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(tmp_path / "hold.py"), str(result), *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    held = json.loads(result.read_text())
    counted = {str(folder): rank_shape(find_model(str(folder)), 2).parameters for folder in folders.values()}
    assert held == counted
