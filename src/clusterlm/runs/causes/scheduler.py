"""Causes that Slurm names: how it ended a job, and why it refuses one.

Its words in the log and at submission: slurmctld, slurmstepd, sbatch and srun 22.05 to 25.05.
"""

from __future__ import annotations

from clusterlm.runs.causes.cause import Cause

ENDED = (
    Cause(
        key="time-limit",
        signs=("*** … DUE TO TIME LIMIT ***",),
        states=frozenset({"TIMEOUT"}),
        sentence="the time limit[ of {time_limit}] was reached",
        fix="ask for more with --time, or let the next attempt continue: clusterlm runs resume",
        again="yes",
    ),
    Cause(
        key="stopped-in-time",
        statuses=frozenset({75}),
        sentence="it stopped by itself before the time limit[ of {time_limit}]: all that was finished is safe",
        fix="the next attempt continues; a longer --time needs fewer attempts",
        again="yes",
    ),
    Cause(
        key="preempted",
        signs=("*** … DUE TO PREEMPTION ***",),
        states=frozenset({"PREEMPTED"}),
        sentence="a job with a higher priority took its place[ on {node}]",
        fix="the next attempt continues; a --partition or --qos that is not preempted keeps its place",
        again="yes",
    ),
    Cause(
        key="node-failure",
        signs=("*** … DUE TO NODE FAILURE", "error: Node failure on"),
        states=frozenset({"NODE_FAIL", "BOOT_FAIL"}),
        numbers=(r"Node failure on (?P<node>[\w.-]+)", r" ON (?P<node>[\w.-]+) CANCELLED"),
        sentence="a node failed[: {node}]",
        fix='the next attempt continues[; should {node} fail again: --sbatch "--exclude={node}"]',
        again="yes",
    ),
    Cause(
        key="requeued",
        signs=("*** … DUE TO JOB REQUEUE ***",),
        states=frozenset({"REQUEUED"}),
        sentence="Slurm put the job back into the queue",
        fix="nothing: it starts again by itself and continues",
        again="yes",
    ),
    Cause(
        key="deadline",
        states=frozenset({"DEADLINE"}),
        sentence="the job could not end before its deadline",
        fix="submit it again without --deadline, or with a shorter --time",
        again="no",
    ),
    Cause(
        key="cancelled",
        signs=("error: *** JOB … CANCELLED AT",),
        states=frozenset({"CANCELLED", "REVOKED"}),
        sentence="the job was cancelled[ by {cancelled_by}]",
        fix="clusterlm runs resume continues it: all that was finished is safe",
        again="no",
    ),
    Cause(
        key="log-not-writable",
        signs=("Could not open stdout file", "IO setup failed"),
        signals=frozenset({53}),
        numbers=(r"Could not open stdout file (?P<file>\S+): (?P<why>.+)",),
        sentence="the job's log cannot be written on the node[: {file}: {why}]",
        fix="put OUTPUT where the compute nodes can write too (scratch or project, not a disk of the login node alone)",
        again="no",
    ),
)

REFUSED = (
    Cause(
        key="invalid-account",
        signs=(
            "Invalid account or account/partition combination specified",
            "Unable to allocate resources: Invalid account",
            "User's group not permitted to use this partition",
        ),
        sentence="Slurm does not let you charge this account, or not in this partition",
        fix="--account with one of yours: sacctmgr show associations user=$USER format=account,partition,qos",
        again="no",
    ),
    Cause(
        key="invalid-partition",
        signs=("nvalid partition name specified", "invalid partition specified"),
        numbers=(r"invalid partition specified: (?P<partition_asked>\S+)",),
        sentence="there is no such partition[: {partition_asked}]",
        fix="--partition with one of those that `sinfo --summarize` lists; clusterlm clusters probe mends the profile",
        again="no",
    ),
    Cause(
        key="invalid-qos",
        signs=("Invalid qos", "Invalid QOS", "QOS not permitted to use this partition"),
        sentence="Slurm does not let you use this QoS",
        fix="--qos with one of yours: sacctmgr show associations user=$USER format=account,partition,qos",
        again="no",
    ),
    Cause(
        key="time-too-long",
        signs=("Requested time limit is invalid", "Requested time limit exceeds"),
        sentence="the time that was asked for is longer than the partition allows",
        fix="a shorter --time (the run continues over several jobs), or a --partition with a longer limit",
        again="no",
    ),
    Cause(
        key="gres-refused",
        signs=("nvalid generic resource (gres) specification", "Invalid GRES", "Invalid gres", "Invalid Trackable RES"),
        sentence="Slurm does not know GPUs by the name that was used for them, or the job has none",
        fix="see how this site spells them: sinfo --format '%P %G'; clusterlm clusters probe mends the profile",
        again="no",
    ),
    Cause(
        key="nodes-not-available",
        signs=(
            "Requested node configuration is not available",
            "Node count specification invalid",
            "More processors requested than permitted",
            "Memory specification can not be satisfied",
            "Requested partition configuration not available",
        ),
        sentence="no node of the partition has what was asked for (GPUs, CPUs or memory)",
        fix="clusterlm plan MODEL --on auto lists what fits; clusterlm clusters probe tells where the profile is wrong",
        again="no",
    ),
    Cause(
        key="invalid-constraint",
        signs=("Invalid feature specification", "Invalid node name specified"),
        sentence="no node has the feature or the name that was asked for",
        fix="see which there are: sinfo --format '%N %f'; clusterlm clusters probe mends the profile",
        again="no",
    ),
    Cause(
        key="limit-of-jobs",
        signs=("Job violates accounting/QOS policy", "MaxSubmitJob", "Job violates accounting policy"),
        sentence="you have as many jobs, or as much in them, as your account or QoS allows",
        fix="wait until some have ended, or fewer --shards and a smaller --at-once; squeue --me shows yours",
        again="yes",
    ),
    Cause(
        key="controller-silent",
        signs=("Unable to contact slurm controller", "Socket timed out on send/recv operation"),
        sentence="Slurm's controller did not answer",
        fix="try again in some minutes; `scontrol ping` tells whether it is up",
        again="yes",
    ),
    Cause(
        key="refused-by-slurm",
        signs=("submission failed: ", "Unable to create step for job", "Unable to allocate resources: "),
        numbers=(r"(submission failed|Unable to create step for job \d+|Unable to allocate resources): (?P<why>.+)",),
        sentence="Slurm refuses the job[: {why}]",
        fix="mend what it names; `sbatch --test-only job.sbatch` in the run's folder asks again",
        again="no",
        vague=True,
    ),
)

SCHEDULER = (*ENDED, *REFUSED)
