"""How a run's worker starts on the nodes: one process, or ranks that find each other; in a container or not."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from clusterlm.slurm.environment import Environment
from clusterlm.slurm.job import Job

FOLD = " \\\n  "
JOIN_SECONDS = 900
"""Python's first start on a node takes minutes where the network disk is busy; torchrun by itself waits one."""
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
    parts = [_srun(job), "bash -c 'on_node \"$@\"' node" if on_node else "", _container(place, vendor), *_worker(job)]
    yield ["status=0", FOLD.join(part for part in parts if part) + " || status=$?"]


def _meeting_point() -> list[str]:
    return [
        "# The ranks meet on the first node, at a port that follows from the job's number and is free there.",
        'read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        "port=$((10000 + SLURM_JOB_ID % 20000))",
        'while (: < "/dev/tcp/$first/$port") 2> /dev/null; do port=$((port + 1)); done',
    ]


def _on_node(job: Job, vendor: str) -> list[str]:
    """What each node's shell does before it becomes the program."""
    lines = []
    if job.ranks > 1:
        lines.append("trap '' USR1 # it is for the ranks; torchrun would die of it")
    if job.nodes > 1:
        lines.append("# torchrun's --local-addr and --rdzv-conf, which differ from node to node")
        lines.append('export PET_LOCAL_ADDR="$SLURMD_NODENAME"')
        lines.append(f'export PET_RDZV_CONF="is_host=$((SLURM_NODEID == 0)),read_timeout={JOIN_SECONDS}"')
    if vendor == "amd":
        lines.append("# HIP counts anew what ROCR_VISIBLE_DEVICES leaves: a second list of the same numbers hides GPUs")
        others = "unset HIP_VISIBLE_DEVICES CUDA_VISIBLE_DEVICES GPU_DEVICE_ORDINAL"
        lines.append(f'if [ -n "${{ROCR_VISIBLE_DEVICES:-}}" ]; then {others}; fi')
    if job.environment.kind in ("apptainer", "singularity"):
        lines.append('mkdir -p "$XDG_CACHE_HOME"')
    if not lines:
        return []
    return ["on_node() {", *(f"  {line}" for line in lines), '  exec "$@"', "}", "export -f on_node"]


def _srun(job: Job) -> str:
    place = job.environment
    words = ["srun"]
    if job.nodes > 1:
        words += [f"--nodes={job.nodes}", f"--ntasks={job.nodes}", "--ntasks-per-node=1"]
    words.append("--kill-on-bad-exit=1")
    if job.cpus_per_task is None:
        words.append("--cpu-bind=none")
    image = shlex.quote(place.image or "")
    if place.kind == "pyxis":
        words += [f"--container-image={image}", f"--container-mounts={','.join(_seen(place))}"]
    elif place.kind == "edf":
        words.append(f"--environment={image}")
    elif place.kind == "uenv":
        words += [f"--uenv={image}", "--view=default"]
    return " ".join(words)


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
    binds = [f"--bind {path}" for path in ('"$XDG_CACHE_HOME"', *_seen(place))]
    words = [place.kind, "exec", *(["--nv"] if vendor == "nvidia" else []), *binds, shlex.quote(place.image or "")]
    return " ".join(words)


def _seen(place: Environment) -> list[str]:
    """Folders for the container, each as FROM:TO."""
    own = [shlex.quote(path if ":" in path else f"{path}:{path}") for path in place.binds]
    package = shlex.quote(f"{place.package}:{IN_CONTAINER}/clusterlm")
    return ['"$run:$run"', '"$HF_HOME:$HF_HOME"', package, *own]


def _worker(job: Job) -> list[str]:
    """The words of the worker, a line each."""
    worker = '-m clusterlm.worker "$run"'
    python = _python(job.environment)
    if job.ranks == 1:
        return [f"{python} {worker}"]
    ranks = f"--nnodes={job.nodes} --nproc-per-node={job.ranks_per_node} --max-restarts=0"
    if job.nodes == 1:
        return [f"{python} -m torch.distributed.run --standalone {ranks}", worker]
    meeting = '--rdzv-backend=c10d --rdzv-endpoint="$first:$port" --rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"'
    return [f"{python} -m torch.distributed.run {ranks}", meeting, worker]


def _python(place: Environment) -> str:
    """The container's own, which finds clusterlm, and not what stands in the user's ~/.local."""
    if not place.in_container:
        return '"$python"'
    linked = place.kind in ("edf", "uenv")
    path = f'"{LINKED}"' if linked else IN_CONTAINER
    return f"env PYTHONPATH={path} PYTHONNOUSERSITE=1 {shlex.quote(place.python)}"
