"""What a batch script does: modules and settings, then the launch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from clusterlm.cluster.gpu import gpus
from clusterlm.cluster.profile import Cluster, NodeType
from clusterlm.slurm.header import account_of
from clusterlm.slurm.job import Job
from clusterlm.slurm.launch import launch

VARIABLE = re.compile(r"\$\{?(\w+)\}?")
HUB_CACHE_ON = ("scratch", "fast", "project")
"""Uses of a storage area, the best for the models of the Hugging Face hub first."""
DEFAULT_HUB_CACHE = "${XDG_CACHE_HOME:-$HOME/.cache}/huggingface"
CACHES = {
    "nvidia": ("CUDA_CACHE_PATH",),
    "amd": ("MIOPEN_USER_DB_PATH", "MIOPEN_CUSTOM_CACHE_DIR"),
}
"""Variables that name the folder of the vendor's compiled kernels, by default in the home."""
Settings = list[tuple[str, str]]
"""Names of variables, and values as they stand in the script."""


def body(cluster: Cluster, job: Job) -> Iterator[list[str]]:
    """Blocks of lines."""
    node = cluster.nodes[job.node_type]
    yield ["set -euo pipefail"]
    if job.run is not None:
        yield _names(job, job.run)
    yield _modules(cluster, job)
    yield _settings(cluster, job, node)
    if job.run is None:
        yield [f"srun {shlex.join(job.command)}"]
        return
    yield _begin(job)
    yield _caches(job, node)
    yield from launch(job, vendor(node))
    yield _end()


def vendor(node: NodeType) -> str:
    known = gpus().get(node.gpu)
    return known.vendor if known else "nvidia"


def _names(job: Job, run: str) -> list[str]:
    return [
        "trap : TERM USR1 # this shell waits for the worker, which stops by itself",
        f"run={shlex.quote(run)}",
        f"python={shlex.quote(job.python)}",
    ]


def _modules(cluster: Cluster, job: Job) -> list[str]:
    entries = job.environment.modules
    if entries is None:
        entries = cluster.software.modules if cluster.software else ()
    if not entries:
        return []
    lines = [f"module {shlex.join(entry.split() if ' ' in entry else ('load', entry))}" for entry in entries]
    return ["set +u # the module command reads variables that are not set", *lines, "set -u"]


def _settings(cluster: Cluster, job: Job, node: NodeType) -> list[str]:
    own = dict(job.environment.exports)
    lines = []
    for settings, reason in _groups_of_settings(cluster, job, node):
        if kept := [f"{name}={value}" for name, value in settings if name not in own]:
            lines.append(f"export {' '.join(kept)} # {reason}")
    return [*lines, *(f"export {name}={shlex.quote(value)}" for name, value in own.items())]


def _groups_of_settings(cluster: Cluster, job: Job, node: NodeType) -> Iterator[tuple[Settings, str]]:
    """What belongs together, and why it is set."""
    cache = _hub_cache(cluster, job)
    if cache and cluster.access.internet is not False:
        token = '"${HF_TOKEN_PATH:-${HF_HOME:-$HOME/.cache/huggingface}/token}"'
        yield [("HF_TOKEN_PATH", token)], "where `hf auth login` puts it"
    if cache:
        yield [("HF_HOME", f'"${{HF_HOME:-{cache}}}"')], "models, away from the home with its quota"
    elif job.run is not None:
        yield [("HF_HOME", f'"${{HF_HOME:-{DEFAULT_HUB_CACHE}}}"')], "models"
    if cluster.access.internet is False:
        offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
        yield [(name, "1") for name in offline], "these nodes do not reach the internet"
    if job.run is not None:
        yield [("HF_HUB_DISABLE_TELEMETRY", "1"), ("DO_NOT_TRACK", "1")], "nobody is told of this run"
        yield [("PYTHONUNBUFFERED", "1")], "the log shows what happens when it happens"
        yield [("PYTHONSAFEPATH", "1")], "files of the folder it was submitted from are no modules"
        yield [("SLURM_EXPORT_ENV", "ALL")], "srun passes on what is set here, whatever sbatch was told"
    if job.cpus_per_task is not None:
        reason = "srun does not take it over since Slurm 22.05"
        yield [("SRUN_CPUS_PER_TASK", '"$SLURM_CPUS_PER_TASK"')], reason
    if job.run is not None:
        yield [("OMP_NUM_THREADS", _threads(job, node))], "of one process, one for each core"
    if job.run is not None and job.ranks > 1:
        yield [("TORCH_CPP_LOG_LEVEL", "ERROR")], "no warning for each connection between the ranks"
    if job.run is not None and job.nodes > 1 and node.network_interface:
        names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
        yield [(name, shlex.quote(node.network_interface)) for name in names], "the network between the nodes"


def _threads(job: Job, node: NodeType) -> str:
    """CPUs of the node's share, over its processes and the hardware threads of a core, rounded up."""
    there = "SLURM_CPUS_ON_NODE" if job.cpus_per_task is None else "SLURM_CPUS_PER_TASK"
    threads_of_core = node.cpus // node.cores if node.cpus and node.cores else 1
    parts = job.ranks_per_node * threads_of_core
    return f'"${there}"' if parts == 1 else f"$((({there} + {parts - 1}) / {parts}))"


def _hub_cache(cluster: Cluster, job: Job) -> str | None:
    """A folder as it stands between double quotes; None where the site has none, or only in an account's folder."""
    areas = sorted(
        (area for area in cluster.storage.values() if area.use in HUB_CACHE_ON),
        key=lambda area: HUB_CACHE_ON.index(area.use),
    )
    if not areas:
        return None
    path, account = areas[0].path, account_of(cluster, job)
    shared = set(VARIABLE.findall(path)) <= {"PROJECT"}
    if "PROJECT" in VARIABLE.findall(path):
        if account is None:
            return None
        path = VARIABLE.sub(lambda found: account if found[1] == "PROJECT" else found[0], path)
    literal = re.sub(r'([\\"`}])', r"\\\1", path)
    return f"{literal}/$USER/huggingface" if shared else f"{literal}/huggingface"


def _begin(job: Job) -> list[str]:
    lines = ["# Has the job continued should it be cut off, and makes the folder of this attempt."]
    first_shard = ""
    if job.tasks is not None:
        lines.append("# $1: the shard of task 0, where Slurm's arrays are too short for all shards.")
        first_shard = ' "${1:-0}"'
    begin = f'CLUSTERLM_ATTEMPT=$("$python" -m clusterlm job begin "$run"{first_shard})'
    return [*lines, begin, "export CLUSTERLM_ATTEMPT"]


def _caches(job: Job, node: NodeType) -> list[str]:
    """Of compiled code."""
    own = {name for name, _ in job.environment.exports}
    folders = {"XDG_CACHE_HOME": "", "TRITON_CACHE_DIR": "/triton", "TORCHINDUCTOR_CACHE_DIR": "/inductor"}
    folders |= {name: f"/{vendor(node)}" for name in CACHES.get(vendor(node), ())}
    return [
        "# Caches of compiled code: on a network disk, and shared by jobs, they break.",
        f'caches=$(mktemp -d "{_local_disk(job)}/clusterlm.XXXXXXXX")',
        "export caches",
        "trap 'rm -rf -- \"$caches\"' EXIT",
        *(f'export {name}="$caches{folder}"' for name, folder in folders.items() if name not in own),
    ]


def _local_disk(job: Job) -> str:
    """/tmp is what every container has of its host."""
    return "/tmp" if job.environment.in_container else "${TMPDIR:-/tmp}"


def _end() -> list[str]:
    return [
        "trap '' TERM USR1 # what follows takes a moment and is not interrupted",
        '"$python" -m clusterlm job end "$run" "$status" || status=$?',
        'exit "$status"',
    ]
