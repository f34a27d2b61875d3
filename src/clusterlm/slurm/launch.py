"""How a run's worker starts on the nodes: one process, or ranks that find each other; in a container or not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from clusterlm.slurm.environment import Environment
from clusterlm.slurm.job import Job

FOLD = " \\\n  "
ON_NODE = 'bash -c "$(declare -f on_node); on_node \\"\\$@\\"" node'
"""As text, since a container's environment may lack exported functions."""
TORCHRUN = """\
(trap '' USR1 && exec "$@") &
torchrun=$!
# Slurm's signals reach this shell alone. It hands them to the ranks: torchrun would not wait until they have stopped.
trap '{ kill -USR1 $(cat "/proc/$torchrun/task/$torchrun/children"); } 2> /dev/null' USR1
trap '{ kill -TERM $(cat "/proc/$torchrun/task/$torchrun/children"); } 2> /dev/null' TERM
while kill -0 "$torchrun" 2> /dev/null; do wait "$torchrun"; done
wait "$torchrun"
"""
"""What each node's shell does around torchrun. Under proctrack/cgroup Slurm signals only what it started itself."""
IN_CONTAINER = "/opt/clusterlm"
"""Where a container has the package, and nothing else."""
LINKED = "$run/package"
"""The same where a container sees the host's folders as they are."""


def launch(job: Job, vendor: str) -> Iterator[list[str]]:
    """Blocks of lines, after which the worker's exit status is in `status`."""
    place = job.environment
    if job.nodes > 1:
        yield _meeting_point()
    on_node = _on_node(job, vendor)
    yield on_node
    yield _before_container(place)
    parts = [_srun(job), _container(place, vendor), ON_NODE if on_node else "", *_worker(job)]
    yield ["status=0", FOLD.join(part for part in parts if part) + " || status=$?"]


def _meeting_point() -> list[str]:
    return [
        "# The ranks meet on the first node, at a port that follows from the job's number and is free there.",
        'read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        "port=$((10000 + SLURM_JOB_ID % 20000))",
        'while (: < "/dev/tcp/$first/$port") 2> /dev/null; do port=$((port + 1)); done',
    ]


def _on_node(job: Job, vendor: str) -> list[str]:
    """What each node's shell does around the program, or before it becomes the program."""
    lines = []
    if job.nodes > 1:
        lines.append('export PET_NODE_RANK="$SLURM_NODEID" # torchrun\'s --node-rank')
    if vendor == "amd":
        lines.append("# HIP counts anew what ROCR_VISIBLE_DEVICES leaves: a second list of numbers would hide GPUs.")
        others = "unset HIP_VISIBLE_DEVICES CUDA_VISIBLE_DEVICES GPU_DEVICE_ORDINAL"
        lines.append(f'if [ -n "${{ROCR_VISIBLE_DEVICES:-}}" ]; then {others}; fi')
    if job.ranks > 1:
        lines += TORCHRUN.splitlines()
        if job.nodes > 1:
            lines += ["status=$?", 'rm -rf -- "$caches" # of this node', 'return "$status"']
    elif lines:
        lines.append('exec "$@"')
    if not lines:
        return []
    return ["# shellcheck disable=SC2317 # bash -c calls it", "on_node() {", *(f"  {line}" for line in lines), "}"]


def _srun(job: Job) -> str:
    place = job.environment
    words = ["srun"]
    if job.nodes > 1:
        words += [f"--nodes={job.nodes}", f"--ntasks={job.nodes}", "--ntasks-per-node=1"]
    words.append("--kill-on-bad-exit=1")
    if job.cpus_per_task is None:
        words.append("--cpu-bind=none")
    image = shlex.quote(place.image or "")
    if place.kind == "edf":
        words.append(f"--environment={image}")
    elif place.kind == "uenv":
        words += [f"--uenv={image}", "--view=default"]
    lines = [" ".join(words)]
    if place.kind == "pyxis":
        lines += [f"--container-image={image}", f'--container-mounts="{",".join(_seen(place))}"']
    return FOLD.join(lines)


def _before_container(place: Environment) -> list[str]:
    """What the container needs to be there."""
    lines = ['mkdir -p "$HF_HOME"'] if place.in_container else []
    if place.kind in ("edf", "uenv"):
        link = f'ln -s {shlex.quote(place.package)} "{LINKED}/clusterlm"'
        lines += [f'mkdir -p "{LINKED}"', f'[ -e "{LINKED}/clusterlm" ] || {link} || true # another task made it']
    return lines


def _container(place: Environment, vendor: str) -> str:
    """Started on the node. An AMD image brings its own ROCm: the host's (--rocm) would shadow it."""
    if place.kind not in ("apptainer", "singularity"):
        return ""
    words = [place.kind, "exec", *(["--nv"] if vendor == "nvidia" else [])]
    binds = [f'--bind "{path}"' for path in _seen(place)]
    return FOLD.join([" ".join(words), *binds, shlex.quote(place.image or "")])


def _seen(place: Environment) -> list[str]:
    """Folders for the container, each as FROM:TO, as they stand between double quotes."""
    own = [_literal(path if ":" in path else f"{path}:{path}") for path in place.binds]
    return ["$run:$run", "$HF_HOME:$HF_HOME", f"{_literal(place.package)}:{IN_CONTAINER}/clusterlm", *own]


def _literal(text: str) -> str:
    return re.sub(r'([\\"`$])', r"\\\1", text)


def _worker(job: Job) -> list[str]:
    """The words of the worker, a line each."""
    worker = '-m clusterlm.worker "$run"'
    python = _python(job.environment)
    if job.ranks == 1:
        return [f"{python} {worker}"]
    ranks = f"--nnodes={job.nodes} --nproc-per-node={job.ranks_per_node} --max-restarts=0"
    if job.nodes == 1:
        return [f"{python} -m torch.distributed.run --standalone {ranks}", worker]
    meeting = '--master-addr="$first" --master-port="$port" --rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"'
    return [f"{python} -m torch.distributed.run {ranks}", meeting, worker]


def _python(place: Environment) -> str:
    """The container's own, which finds clusterlm, and not what stands in the user's ~/.local."""
    if not place.in_container:
        return '"$python"'
    linked = place.kind in ("edf", "uenv")
    path = f'"{LINKED}"' if linked else IN_CONTAINER
    return f"env PYTHONPATH={path} PYTHONNOUSERSITE=1{FOLD}{shlex.quote(place.python)}"
