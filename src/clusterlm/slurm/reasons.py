"""Why a job waits: Slurm's word for it, in ours, with what to do about it."""

from __future__ import annotations

import re

NOTHING_TO_DO = "nothing to do"
LESS = "cancel it and ask for less"
ADMIN = "ask the site's support"

ROWS: tuple[tuple[str, str, str], ...] = (
    # what Slurm says (the first that fits counts), what it means, what to do
    ("Resources", "next in line, as soon as enough of what it asks for is free", NOTHING_TO_DO),
    ("Priority", "other jobs are before it", "shorter and smaller jobs start earlier: --time, --gpus"),
    ("(None|Scheduling|Cleaning|Prolog)", "Slurm is about to look at it", NOTHING_TO_DO),
    ("BeginTime", "waits for its time to begin", "a job put back into the queue waits two minutes"),
    ("DependencyNeverSatisfied", "the job that it waits for ended otherwise than it must", "cancel it"),
    ("Dependency", "waits for the end of another job", NOTHING_TO_DO),
    ("JobArrayTaskLimit", "as many shards run at once as were asked for", "more at once: --at-once"),
    ("JobHeldUser", "held by its user", "release it: scontrol release JOB"),
    ("JobHeldAdmin", "held by the site or for too low a priority", ADMIN),
    (
        "(launch[ _]failed|JobHoldMaxRequeue|job[ _]requeued[ _]in[ _]held)",
        "held after it could not be started, often a broken node",
        "scontrol release JOB; ask the site's support if it comes back",
    ),
    # ------------------------------------------------------------------------------------- nodes, partitions, outages
    (
        "ReqNodeNotAvail.*(Reserved|May be)",
        "would run into a reservation, often for maintenance",
        "a job that ends before it starts: a shorter --time",
    ),
    ("ReqNodeNotAvail.*Unavailable", "nodes that it could use are down or drained", "wait, or another partition"),
    ("ReqNodeNotAvail", "nodes that it could use are reserved, down or drained", "a shorter --time may start before"),
    (
        "Nodes[ _]required",
        "the nodes that it could use are down, drained or for jobs that go first",
        "wait, or another partition",
    ),
    ("(PartitionDown|PartitionInactive)", "its partition takes or starts no jobs now", "wait, or another partition"),
    ("PartitionTimeLimit", "its time limit is longer than its partition allows", "cancel it; a shorter --time"),
    ("(PartitionNodeLimit|PartitionConfig)", "its partition allows no such job", "cancel it; other --nodes"),
    ("Reservation$", "waits for its reservation to begin", NOTHING_TO_DO),
    ("ReservationDeleted", "its reservation is gone", "cancel it"),
    ("(NodeDown|FrontEndDown)", "a node that it needs is down", "wait, or another partition"),
    ("BadConstraints", "no node has all that it asks for", "cancel it; see clusterlm clusters probe"),
    ("MaxMemPerLimit", "asks for more memory a CPU or node than its partition allows", LESS),
    ("Licenses", "waits for a licence", NOTHING_TO_DO),
    ("BurstBuffer", "waits for its burst buffer", NOTHING_TO_DO),
    ("DeadLine", "cannot end before its deadline", "cancel it"),
    # ----------------------------------------------------------------------------- limits of accounts, users and QoS
    ("(Assoc|QOS)Grp.*RunMinutes", "the running jobs of the {who} have reserved all time that they may", NOTHING_TO_DO),
    (
        "(Assoc|QOS)Grp(.*Minutes|Wall)",
        "the budget of the {who} is used up or too small for it",
        "sshare shows it; another --account, or ask for more",
    ),
    ("(Assoc|QOS)GrpSubmit", "all jobs of the {who} in the queue are as many as may be", "wait until some end"),
    ("(Assoc|QOS)Grp", "all jobs of the {who} together have as much as they may", "it starts when others end"),
    ("(Assoc|QOS)MaxSubmit", "you have as many jobs in the queue as you may", "wait until some end"),
    ("QOSMax.*PerUser|QOSMaxJobs|AssocMaxJobs|QOSJobLimit", "you have as much at once as you may", "others must end"),
    ("QOSMax.*PerAccount", "your account has as much at once as it may in this QoS", "it starts when others end"),
    ("(Assoc|QOS)MaxWall", "its time limit is longer than the {who} allows", "cancel it; a shorter --time"),
    ("(Assoc|QOS)Max.*(PerJob|PerNode)", "asks for more than the {who} allows one job", LESS),
    ("QOSMin", "asks for less than the least that its QoS takes", "cancel it; ask for more, or another --qos"),
    ("AssociationJobLimit", "you have as many jobs as you may", "it starts when others end"),
    ("(AssociationResourceLimit|QOSResourceLimit)", "a limit of the {who} is reached", "it starts when others end"),
    ("(AssociationTimeLimit|QOSTimeLimit)", "the time of the {who} is used up or too short for it", "a shorter --time"),
    ("QOSUsageThreshold", "your account has used too much lately for this QoS", "wait, or another --qos"),
    ("(InvalidAccount|AccountNotAllowed)", "its account may not use this partition", "cancel it; another --account"),
    ("(InvalidQOS|QOSNotAllowed)", "its QoS may not be used here", "cancel it; another --qos"),
    ("AccountingPolicy", "a limit of your account or QoS is reached", "it starts when others end"),
)
"""Source of the words: `man squeue`, JOB REASON CODES, and src/common/job_state_reason.c of Slurm 20.11 to 25.05."""


def words(reason: str | None) -> str:
    """'Priority' -> 'other jobs are before it (Priority): shorter ...'; what is not known stays as it is."""
    if reason is None:
        return "Slurm says no reason yet"
    for pattern, meaning, remedy in ROWS:
        if re.match(pattern, reason):
            who = "QoS" if reason.startswith("QOS") else "account"
            advice = "" if remedy == NOTHING_TO_DO else f": {remedy}"
            return f"{meaning.format(who=who)} ({reason}){advice}"
    return reason
