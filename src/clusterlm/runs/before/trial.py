"""What Slurm itself says of the finished script, before it is given to it."""

from __future__ import annotations

import difflib
import getpass
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from clusterlm.cluster import Cluster
from clusterlm.errors import SlurmError, nearest
from clusterlm.runs.before.site import partition_in_slurm
from clusterlm.runs.order import Order
from clusterlm.slurm import client, queue
from clusterlm.slurm.header import account_of
from clusterlm.slurm.observation import KEEPS_ACCOUNTS
from clusterlm.slurm.own_options import name_of, read_option
from clusterlm.slurm.values import Association, SlurmNode
from clusterlm.units import show_slurm_time, slurm_seconds

AT_ONCE = timedelta(minutes=1)
NOT_AVAILABLE = "Requested node configuration is not available"
"""--test-only says it also where the nodes are only down, drained or reserved; sbatch then takes the job, which waits.
Seen with Slurm 22.05."""
TOO_MANY = "MaxSubmit"
"""In the names of the limits of how many jobs a user may have in the queue."""
OUT_OF_SERVICE = ("DOWN", "DRAIN", "FAIL", "MAINT", "RESERVED", "NOT_RESPONDING", "POWERED_DOWN", "FUTURE")
MOST_NODES = 5
"""In a sentence."""


def of_trial(made: Order, cluster: Cluster, slurm: Mapping[str, str]) -> Iterator[str]:
    """SlurmError where Slurm would not take the job; else when it would start it."""
    with tempfile.TemporaryDirectory(prefix="clusterlm-") as folder:
        script = Path(folder) / "job.sbatch"
        script.write_text(made.script)
        try:
            yield _expected(queue.test_only(script, *_array(made, slurm)).start)
        except client.Silence as silence:
            yield f"not tried with sbatch --test-only: {silence.problem}"
        except SlurmError as refusal:
            yield from _refused(refusal, made, cluster, str(script))


def _array(made: Order, slurm: Mapping[str, str]) -> list[str]:
    """As many tasks as the longest array of the submit has."""
    shards = made.submission.shards
    if shards == 1:
        return []
    last = min(shards, int(slurm.get("MaxArraySize", shards))) - 1
    return [f"--array=0-{last}" + (f"%{made.submission.at_once}" if made.submission.at_once else "")]


def _expected(start: datetime | None) -> str:
    if start is None:
        return "Slurm would take it, and does not say when it would start"
    if start - datetime.now().astimezone() < AT_ONCE:
        return "Slurm expects to start it at once"
    return f"Slurm expects to start it at {start:%Y-%m-%d %H:%M}, as the queue is now"


def _refused(refusal: SlurmError, made: Order, cluster: Cluster, script: str) -> Iterator[str]:
    if NOT_AVAILABLE in refusal.problem and (able := _able_nodes(made, cluster)):
        troubled = [
            f"{node.name} is {node.state}" for node in able if any(word in node.state for word in OUT_OF_SERVICE)
        ]
        more = f" and {len(troubled) - MOST_NODES:,} more" if len(troubled) > MOST_NODES else ""
        which = f": {', '.join(troubled[:MOST_NODES])}{more}" if troubled else ""
        yield (
            f"Slurm cannot start it on the nodes as they are now{which}; it waits until they are free "
            "(sinfo -R says why a node is out, scontrol show reservation what is planned)"
        )
        return
    where, hint = refusal.where, refusal.hint
    if where == script:
        where = "job.sbatch"
    if TOO_MANY in refusal.problem and made.submission.shards > 1:
        where, hint = "--shards", f"each of the {made.submission.shards:,} shards is a job: fewer --shards"
    elif where in ("--account", "--qos"):
        hint = (_accounts if where == "--account" else _qos)(made, cluster) or hint
    raise SlurmError(refusal.problem, where=where, hint=hint) from None


def _able_nodes(made: Order, cluster: Cluster) -> list[SlurmNode]:
    """All that could do the job by what they have, whatever their state; [] where they are too few."""
    job, node_type = made.job, cluster.nodes[made.job.node_type]
    partition = partition_in_slurm(cluster, job)

    def is_able(node: SlurmNode) -> bool:
        kinds = {node_type.gres_type.lower()} if node_type.gres_type else None
        gpus = sum(gpu.count for gpu in node.gpus if kinds is None or (gpu.type or "").lower() in kinds)
        return (
            (not partition or partition in node.partitions)
            and gpus >= job.gpus_per_node
            and node.cpus >= (job.cpus_per_task or 0)
            and node.memory_mib >= 1024 * (job.memory_gib or 0)
        )

    try:
        able = [node for node in client.nodes() if is_able(node)]
    except SlurmError:
        return []
    return able if len(able) >= job.nodes else []


# --------------------------------------------------------------------------------------------------- accounts and QoS


def of_qos(made: Order, cluster: Cluster, slurm: Mapping[str, str]) -> Iterator[str]:
    """Limits of the QoS that is asked for: Slurm takes a job that passes them, and lets it wait for ever."""
    name = made.job.qos or cluster.partitions[made.job.partition].qos
    if not name or not _keeps_accounts(slurm) or "limits" not in slurm.get("AccountingStorageEnforce", ""):
        return
    try:
        found = next((one for one in client.qos() if one.name == name.lower()), None)
    except SlurmError:
        return  # sbatch has the last word
    if found is None:
        return
    job, gpus = made.job, made.job.nodes * made.job.gpus_per_node
    limit = slurm_seconds(found.limit) if found.limit else None
    may_wait = "such a job may wait for ever"
    if limit is not None and job.seconds > limit:
        longest, asked = show_slurm_time(limit), show_slurm_time(job.seconds)
        yield f"QoS {name} lets a job run for {longest}, not {asked}: {may_wait}; --time {longest} does not"
    for most, whose in ((found.most_of_job, "a job"), (found.most_of_user, "a user"), (found.most_of_all, "all users")):
        for amount, tres, what in ((gpus, "gres/gpu", "GPUs"), (job.nodes, "node", "nodes")):
            if tres in most and amount > most[tres]:
                yield f"QoS {name} gives {whose} {most[tres]:,} {what}, not {amount:,}: {may_wait}"


def _keeps_accounts(slurm: Mapping[str, str]) -> bool:
    return slurm.get("AccountingStorageType") == KEEPS_ACCOUNTS


def _accounts(made: Order, cluster: Cluster) -> str | None:
    """Which there are, the nearest first; None where accounting does not say."""
    asked = _asked(made, "account") or account_of(cluster, made.job)
    own = _associations()
    names = sorted({one.account for one in own})
    if not names:
        return None
    bound = sorted({one.partition for one in own if one.account == asked and one.partition})
    if asked and asked.lower() in names:
        only = (
            f" {asked} may be charged in {', '.join(bound)} alone." if bound else f" {asked} may not be charged there."
        )
        others = [name for name in names if name != asked.lower()]
        return f"another --partition or account.{only}" + (f" You may charge: {', '.join(others)}" if others else "")
    return _choice("you may charge", asked, names, "--account")


def _qos(made: Order, cluster: Cluster) -> str | None:
    asked = _asked(made, "qos") or made.job.qos or cluster.partitions[made.job.partition].qos
    account = (_asked(made, "account") or account_of(cluster, made.job) or "").lower()
    own = _associations()
    of_account = [one for one in own if one.account == account] or own
    names = sorted({name for one in of_account for name in one.qos})
    if not names:
        return None
    with_account = f" with account {account}" if account and of_account is not own else ""
    return _choice(f"you may use{with_account}", asked, names, "--qos")


def _associations() -> tuple[Association, ...]:
    try:
        return client.associations(getpass.getuser(), client.cluster_name())
    except SlurmError:
        return ()


def _asked(made: Order, name: str) -> str | None:
    """By the user's own options for sbatch, which win."""
    options = (read_option(text) for text in made.job.options)
    return next((option[1] for option in options if name_of(option) == name), None)


def _choice(may: str, asked: str | None, names: Iterable[str], flag: str) -> str:
    def unlike(name: str) -> float:
        return -difflib.SequenceMatcher(None, name, (asked or "").lower()).ratio()

    ordered = sorted(names, key=unlike) if asked else list(names)
    close = nearest(asked, ordered) if asked else None
    guess = f"did you mean {flag} {close}? " if close else ""
    return f"{guess}{may}: {', '.join(ordered)}"
