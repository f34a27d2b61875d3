"""Why a job waits, in words, with what to do."""

from __future__ import annotations

import re

import pytest

from clusterlm.slurm.reasons import ROWS, words

# Reasons that Slurm 22.05 can print, from the texts in its library (without burst buffers, energy and unknown TRES).
PRINTED = """
AccountNotAllowed AssocGrpBillingMinutes AssocGrpBillingRunMinutes AssocGrpCPUMinutesLimit AssocGrpCPURunMinutesLimit
AssocGrpCpuLimit AssocGrpGRES AssocGrpGRESMinutes AssocGrpGRESRunMinutes AssocGrpJobsLimit AssocGrpMemLimit
AssocGrpNodeLimit AssocGrpNodeMinutes AssocGrpSubmitJobsLimit AssocGrpWallLimit AssocMaxBillingPerJob
AssocMaxCpuMinutesPerJobLimit AssocMaxCpuPerJobLimit AssocMaxGRESMinutesPerJob AssocMaxGRESPerJob AssocMaxGRESPerNode
AssocMaxJobsLimit AssocMaxNodePerJobLimit AssocMaxSubmitJobLimit AssocMaxWallDurationPerJobLimit AssociationJobLimit
AssociationResourceLimit AssociationTimeLimit BadConstraints BeginTime BurstBufferResources Cleaning DeadLine Dependency
DependencyNeverSatisfied InvalidAccount InvalidQOS JobArrayTaskLimit JobHeldAdmin JobHeldUser JobHoldMaxRequeue Licenses
MaxMemPerLimit NodeDown PartitionConfig PartitionDown PartitionInactive PartitionNodeLimit PartitionTimeLimit Priority
Prolog QOSGrpBillingMinutes QOSGrpCPUMinutesLimit QOSGrpCPURunMinutesLimit QOSGrpCpuLimit QOSGrpGRES QOSGrpGRESMinutes
QOSGrpGRESRunMinutes QOSGrpJobsLimit QOSGrpMemLimit QOSGrpNodeLimit QOSGrpSubmitJobsLimit QOSGrpWallLimit QOSJobLimit
QOSMaxCpuMinutesPerJobLimit QOSMaxCpuPerJobLimit QOSMaxCpuPerNode QOSMaxCpuPerUserLimit QOSMaxGRESMinutesPerJob
QOSMaxGRESPerJob QOSMaxGRESPerNode QOSMaxGRESPerUser QOSMaxJobsPerUserLimit QOSMaxMemoryPerJob QOSMaxMemoryPerUser
QOSMaxNodePerJobLimit QOSMaxNodePerUserLimit QOSMaxSubmitJobPerUserLimit QOSMaxWallDurationPerJobLimit
QOSMinCpuNotSatisfied QOSMinGRES QOSMinMemory QOSMinNode QOSNotAllowed QOSResourceLimit QOSTimeLimit QOSUsageThreshold
ReqNodeNotAvail Reservation ReservationDeleted Resources
"""


@pytest.mark.parametrize("reason", PRINTED.split())
def test_every_reason_has_words_and_keeps_slurms_own(reason: str) -> None:
    assert f" ({reason})" in words(reason)


@pytest.mark.parametrize(
    "reason, part",
    [
        ("Resources", "next in line"),
        ("QOSMaxJobsPerUserLimit", "you have as much at once as you may"),
        ("QOSMaxSubmitJobPerUserLimit", "as many jobs in the queue as you may"),
        ("AssocGrpGRESMinutes", "the budget of the account is used up"),
        ("AssocGrpBillingMinutes", "another --account"),
        ("QOSGrpGRESMinutes", "the budget of the QoS is used up"),
        ("QOSGrpCPURunMinutesLimit", "the running jobs of the QoS have reserved all time"),
        ("ReqNodeNotAvail, May be reserved for other job", "maintenance"),
        ("ReqNodeNotAvail,_UnavailableNodes:nid[001-004]", "down or drained"),
        ("Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved", "go first"),
        ("PartitionTimeLimit", "a shorter --time"),
        ("DependencyNeverSatisfied", "cancel it"),
        ("launch failed requeued held", "scontrol release"),
        ("JobHeldUser", "scontrol release"),
        ("JobHeldAdmin", "support"),
        ("JobArrayTaskLimit", "--at-once"),
    ],
)
def test_the_words_say_what_to_do(reason: str, part: str) -> None:
    assert part in words(reason)


def test_a_reason_that_is_not_known_stays_as_it_is() -> None:
    assert words("SomethingNew") == "SomethingNew"
    assert words(None) == "Slurm says no reason yet"


def test_no_row_is_hidden_by_one_before_it() -> None:
    examples = [*PRINTED.split(), "Scheduling", "launch failed requeued held", "FrontEndDown", "AccountingPolicy"]
    examples += ["ReqNodeNotAvail, Reserved", "ReqNodeNotAvail, UnavailableNodes:a", "Nodes required for job"]
    examples += ["QOSMaxGRESPerAccount"]
    used = {next(pattern for pattern, _, _ in ROWS if re.match(pattern, example)) for example in examples}
    assert used == {pattern for pattern, _, _ in ROWS}
