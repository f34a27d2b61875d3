"""Options for sbatch that the user adds: read as sbatch reads them, refused where they would break the run."""

from __future__ import annotations

from clusterlm.errors import UsageError

Option = tuple[str, str]
"""('--nodes=', '2'); a flag has no value: ('--exclusive', '')."""

SHORT = {
    "A": "account",
    "a": "array",
    "b": "begin",
    "B": "extra-node-info",
    "C": "constraint",
    "c": "cpus-per-task",
    "D": "chdir",
    "d": "dependency",
    "e": "error",
    "F": "nodefile",
    "G": "gpus",
    "H": "hold",
    "h": "help",
    "i": "input",
    "I": "immediate",
    "J": "job-name",
    "k": "no-kill",
    "L": "licenses",
    "M": "clusters",
    "m": "distribution",
    "N": "nodes",
    "n": "ntasks",
    "O": "overcommit",
    "o": "output",
    "p": "partition",
    "Q": "quiet",
    "q": "qos",
    "S": "core-spec",
    "s": "oversubscribe",
    "t": "time",
    "u": "usage",
    "V": "version",
    "v": "verbose",
    "W": "wait",
    "w": "nodelist",
    "x": "exclude",
}
OTHER_NAMES = """
acctg-freq batch bb bbf cluster-constraint comment container container-id contiguous cores-per-socket cpu-freq
cpus-per-gpu deadline delay-boot exclusive export export-file extra get-user-env gid gpu-bind gpu-freq gpus-per-node
gpus-per-socket gpus-per-task gres gres-flags hint ignore-pbs kill-on-invalid-dep mail-type mail-user mcs-label mem
mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-requeue ntasks-per-core ntasks-per-gpu ntasks-per-node
ntasks-per-socket open-mode parsable power prefer priority profile propagate reboot requeue reservation resv-ports
segment signal sockets-per-node spread-job stepmgr switches test-only thread-spec threads-per-core time-min tmp
tres-bind tres-per-task uid use-min-nodes wait-all-nodes wckey wrap
"""
LONG = frozenset(SHORT.values()) | frozenset(OTHER_NAMES.split())
"""Of sbatch; a name may be cut short as long as only one of them begins so."""

BY_SHARDS = "clusterlm makes the array itself: --shards"
BY_CHAIN = "the job itself queues what follows it"
BY_PLAN = "the plan counts on it: say it to clusterlm, --nodes or --gpus-per-node, not to sbatch"
IN_RUN = "what the job prints is read in the run's folder"
NO_SUBMIT = "clusterlm must hear of the job's number"
BREAKS = {
    "array": BY_SHARDS,
    "dependency": BY_CHAIN,
    "kill-on-invalid-dep": BY_CHAIN,
    "hold": "what follows the job would be held, too; after the submit: scontrol hold JOB",
    "output": IN_RUN,
    "error": IN_RUN,
    "input": IN_RUN,
    "open-mode": "a job that goes on must not overwrite what it printed before",
    "signal": "the worker is told in time by clusterlm's own",
    "comment": "clusterlm finds its jobs by theirs",
    "export": "the job needs the variables that clusterlm sets",
    "export-file": "the job needs the variables that clusterlm sets",
    "clusters": "clusterlm follows jobs on the cluster that it is on: log in there",
    "nodes": BY_PLAN,
    "ntasks": BY_PLAN,
    "ntasks-per-core": BY_PLAN,
    "ntasks-per-gpu": BY_PLAN,
    "ntasks-per-node": BY_PLAN,
    "ntasks-per-socket": BY_PLAN,
    "gpus": BY_PLAN,
    "gpus-per-node": BY_PLAN,
    "gpus-per-socket": BY_PLAN,
    "gpus-per-task": BY_PLAN,
    "tres-per-task": BY_PLAN,
    "wrap": "the script is clusterlm's",
    "wait": "clusterlm does not wait: clusterlm runs watch",
    "parsable": NO_SUBMIT,
    "quiet": NO_SUBMIT,
    "test-only": f"{NO_SUBMIT}; to look before you submit: --dry-run",
    "help": NO_SUBMIT,
    "usage": NO_SUBMIT,
    "version": NO_SUBMIT,
}
INSTEAD_OF = {
    "mem-per-cpu": "mem",
    "mem-per-gpu": "mem",
    "cpus-per-gpu": "cpus-per-task",
    "no-requeue": "requeue",
    "oversubscribe": "exclusive",
}
"""The user's, and the one of clusterlm's that cannot stand beside it."""


def read_option(text: str) -> Option:
    """UsageError where it is none, or would break the run."""
    name, value = _parted(text.strip())
    if reason := BREAKS.get(name):
        raise UsageError(f"--{name} would break the run", where=f"--sbatch {text!r}", hint=reason)
    if name == "gres" and any(part.startswith("gpu") for part in value.split(",")):
        raise UsageError("GPUs in --gres would break the run", where=f"--sbatch {text!r}", hint=BY_PLAN)
    return (f"--{name}=", value) if value else (f"--{name}", "")


def name_of(option: Option) -> str:
    return option[0].strip("-=")


def has(options: tuple[str, ...], name: str) -> bool:
    """Whether the user's own options set it."""
    return any(name_of(read_option(text)) == name for text in options)


def with_own(written: list[Option], texts: tuple[str, ...]) -> list[Option]:
    """Clusterlm's options, in which the user's replace those of their name; new ones follow."""
    own = {name_of(option): option for option in map(read_option, texts)}
    gone = {INSTEAD_OF[name] for name in own if name in INSTEAD_OF}
    result = []
    for option in written:
        name = name_of(option)
        if name == "gres" and name in own:  # beside the GPUs, as local disks are asked for
            result.append((option[0], f"{option[1]},{own.pop(name)[1]}"))
        elif name not in gone:
            result.append(own.pop(name, option))
    return [*result, *own.values()]


def _parted(text: str) -> Option:
    """The whole long name, and the value."""
    if text.startswith("--") and len(text) > 2:
        words, equals, value = text[2:].partition("=")
        if not equals:
            words, _, value = words.partition(" ")
        return _whole(words.strip()), value.strip()
    if len(text) > 1 and text[0] == "-" and text[1] in SHORT:
        return SHORT[text[1]], text[2:].strip()
    raise UsageError(
        "is no option of sbatch", where=f"--sbatch {text!r}", hint='one option: --sbatch "--reservation=x"'
    )


def _whole(name: str) -> str:
    """'dep' is 'dependency': sbatch takes names that are cut short. Names it does not know may be a plugin's."""
    if name in LONG:
        return name
    begin_so = [known for known in sorted(LONG) if known.startswith(name)]
    breaking = [known for known in begin_so if known in BREAKS]
    return begin_so[0] if len(begin_so) == 1 else breaking[0] if breaking else name
