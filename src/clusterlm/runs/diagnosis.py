"""Why a run ended badly, in one sentence with one fix: by Slurm's word, the processes' own, and the end of the log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clusterlm.runs.causes.cause import Cause, filled
from clusterlm.runs.causes.signs import Sign, found_in, signs_in
from clusterlm.runs.causes.table import CAUSES

SOME_FAILED = 3
STOPPED_IN_TIME = 75
BY_SIGNAL = 128
"""A shell adds this to the number of the signal that ended a process."""
GOES_ON = frozenset(
    {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING"}
)
"""States of jobs that have not ended."""
OUR_ERRORS = frozenset({"ClusterlmError", "UsageError", "InputError", "ModelError", "RunError", "SlurmError"})
OUR_ERRORS |= {"MissingPackage"}
"""Errors that say themselves what is wrong and what to do."""
STARTED_ANEW = re.compile(r"^.*\*\*\* .* DUE TO (?:PREEMPTION|NODE FAILURE|JOB REQUEUE).*$", re.MULTILINE)
"""After such a line a log may go on with the next start of the same job."""
NOISE = re.compile(
    r"^(srun: |slurmstepd: |\[?[EWI]\d{4}[ T]|=+$|-+$|\*+$|Failures:|Root Cause|\[\d+\]:$"
    r"|  (time|host|rank|exitcode|error_file)\s*: )"
)
"""Lines that are there whatever the cause is."""
LONGEST = 300
"""Letters of a sentence's quotation."""
CRASHED = "crashed"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a job's end. All of it may be missing: sites without accounting forget, nodes fail."""

    state: str | None = None
    """Slurm's word, without the rest of 'CANCELLED by 1000'."""
    exit_status: int | None = None
    signal: int | None = None
    cancelled_by: str | None = None
    step_out_of_memory: bool = False
    """Slurm says so of a step, while the job itself only FAILED."""
    log_tail: str = ""
    outcome: Mapping[str, Any] | None = None
    """outcome.json of the process that ended worst."""
    submit_error: str | None = None
    """What sbatch said to a job that it did not take."""
    new_results: int = 0
    """Records that the attempt finished."""
    node: str | None = None
    partition: str | None = None
    time_limit: str | None = None
    log: str | None = None
    """Where the whole log is."""

    @property
    def made_progress(self) -> bool:
        return self.new_results > 0 or bool((self.outcome or {}).get("new_results"))

    def fields(self) -> dict[str, str | None]:
        names = ("cancelled_by", "node", "partition", "time_limit", "log")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Diagnosis:
    cause: str
    """The key of its row in the table of causes, or `unknown`."""
    sentence: str
    fix: str
    evidence: str
    """The line that decided."""
    worth_another_try: bool


def diagnose(evidence: Evidence) -> Diagnosis | None:
    """None where all is well, or not at its end."""
    if evidence.submit_error is not None:
        return _of_submission(evidence, evidence.submit_error)
    if _is_well(evidence):
        return None
    return _by_slurm(evidence) or _by_outcome(evidence) or _by_log(evidence) or _unknown(evidence)


def _is_well(evidence: Evidence) -> bool:
    if evidence.state in GOES_ON:
        return True
    if (evidence.outcome or {}).get("outcome") == "failed":
        return False
    return evidence.state == "COMPLETED" or (evidence.state is None and evidence.exit_status == 0)


def _of_submission(evidence: Evidence, said: str) -> Diagnosis:
    sign = found_in(said).first
    if sign is not None:
        return _diagnosis(sign.cause, evidence, sign)
    line = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it did not say why")
    return _diagnosis(_row("refused-by-slurm"), evidence, None, line, why=line)


# --------------------------------------------------------------------------------------------------------- Slurm's word


def _by_slurm(evidence: Evidence) -> Diagnosis | None:
    """Where the job's end came from outside of it."""
    state = "OUT_OF_MEMORY" if evidence.step_out_of_memory else evidence.state
    cause = next((cause for cause in CAUSES if state in cause.states), None)
    failed = (evidence.outcome or {}).get("outcome") == "failed"
    if cause is None or (cause.key == "time-limit" and failed):  # the others of its ranks waited for it until then
        return None
    sign = next((sign for sign in signs_in(evidence.log_tail) if sign.cause is cause), None)
    return _diagnosis(cause, evidence, sign, f"Slurm: {state}")


# ---------------------------------------------------------------------------------------------------- the process's own


def _by_outcome(evidence: Evidence) -> Diagnosis | None:
    outcome = evidence.outcome or {}
    if outcome.get("outcome") == "failed":
        return _by_failure(evidence, outcome)
    if evidence.exit_status == SOME_FAILED:
        return _some_failed(outcome)
    if outcome.get("outcome") == "stopped" and evidence.exit_status in (None, 0, outcome.get("exit_status")):
        return _by_stop(evidence, str(outcome.get("reason")))
    return None  # another process ended worse, and had no time to say it


def _by_failure(evidence: Evidence, outcome: Mapping[str, Any]) -> Diagnosis | None:
    kind, problem = str(outcome.get("kind")), str(outcome.get("problem"))
    where = f"{outcome['where']}: " if outcome.get("where") else ""
    said = f"{kind}: {where}{problem}"
    found = found_in(said)
    if kind in OUR_ERRORS:
        sign = found.first
        fix = outcome.get("hint") or (sign and filled(sign.cause.fix, evidence.fields())) or "mend what it names"
        return Diagnosis(sign.cause.key if sign else "error", f"{where}{problem}", str(fix), said, False)
    if found.first is not None:
        return _diagnosis(found.first.cause, evidence, found.first)
    if found.consequence is not None:
        return _by_log(evidence) or _diagnosis(found.consequence.cause, evidence, found.consequence)
    return _in_its_own_words(evidence, said)


def _some_failed(outcome: Mapping[str, Any]) -> Diagnosis:
    count = outcome.get("failed_records")
    some = f"{count:,}" if isinstance(count, int) and count else "some"
    sentence = f"the work is done, but {some} of the records failed"
    return Diagnosis("records-failed", sentence, "see 'error' in the answers", f"exit status {SOME_FAILED}", False)


def _by_stop(evidence: Evidence, reason: str) -> Diagnosis:
    """It stopped between two steps because it was asked to; the log may say by whom."""
    if reason in ("time limit", "SIGUSR1"):
        return _diagnosis(_row("stopped-in-time"), evidence, None, f"outcome: stopped ({reason})")
    signs = [sign for sign in signs_in(evidence.log_tail) if sign.cause.states]
    if signs:
        last = next(sign for sign in signs if sign.begin == signs[-1].begin)
        return _diagnosis(last.cause, evidence, last)
    return Diagnosis(
        "stopped",
        f"it was asked to stop ({reason}): all that was finished is safe",
        "clusterlm runs resume continues it",
        f"outcome: stopped ({reason})",
        True,
    )


# -------------------------------------------------------------------------------------------------------------- the log


def _by_log(evidence: Evidence) -> Diagnosis | None:
    starts = list(STARTED_ANEW.finditer(evidence.log_tail))
    last = evidence.log_tail[starts[-1].end() :] if starts else evidence.log_tail
    found = found_in(last)
    by_sign = None if found.first is None else _diagnosis(found.first.cause, evidence, found.first)
    surest = by_sign or _by_status(evidence)
    if surest is not None and surest.cause == CRASHED and found.own_words:
        # A library may also crash while its process ends by an exception, which says more.
        return _in_its_own_words(evidence, found.own_words[-1], found.own_words[0])
    if surest is not None:
        return surest
    if starts and (sign := found_in(starts[-1][0]).first) is not None:
        return _diagnosis(sign.cause, evidence, sign)
    if found.own_words:
        return _in_its_own_words(evidence, found.own_words[-1], found.own_words[0])
    sign = found.consequence or found.warning
    return _diagnosis(sign.cause, evidence, sign) if sign else None


def _by_status(evidence: Evidence) -> Diagnosis | None:
    status = evidence.exit_status or 0
    signal = evidence.signal or (status - BY_SIGNAL if status > BY_SIGNAL else None)
    if status == STOPPED_IN_TIME:
        return _diagnosis(_row("stopped-in-time"), evidence, None, f"exit status {status}")
    cause = next((cause for cause in CAUSES if signal in cause.signals or status in cause.statuses), None)
    said = f"signal {signal}" if signal else f"exit status {status}"
    return _diagnosis(cause, evidence, None, said) if cause else None


# ---------------------------------------------------------------------------------------------------------- what to say


def _row(key: str) -> Cause:
    return next(cause for cause in CAUSES if cause.key == key)


def _diagnosis(
    cause: Cause, evidence: Evidence, sign: Sign | None, decided_by: str = "", **known: str | None
) -> Diagnosis:
    fields = evidence.fields() | _numbers(cause, sign) | known
    return Diagnosis(
        cause=cause.key,
        sentence=_shortened(filled(cause.sentence, fields)),
        fix=filled(cause.fix, fields),
        evidence=_shortened(sign.line if sign else decided_by),
        worth_another_try=cause.again == "yes" or (cause.again == "after progress" and evidence.made_progress),
    )


def _numbers(cause: Cause, sign: Sign | None) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for pattern in cause.numbers if sign else ():
        match = re.search(pattern, sign.around) if sign else None
        for name, value in (match.groupdict() if match else {}).items():
            found.setdefault(name, value)
    if bytes_wanted := found.get("bytes"):
        found["wanted"] = f"{int(bytes_wanted) / 2**30:.1f} GiB"
    if driver := found.get("driver"):  # 11040 is CUDA 11.4
        found["cuda"] = f"{int(driver) // 1000}.{int(driver) % 1000 // 10}"
    return found


def _in_its_own_words(evidence: Evidence, said: str, first: str | None = None) -> Diagnosis:
    """`said` is worth printing, but no row of the table knows it."""
    where = f": {evidence.log}" if evidence.log else ""
    return Diagnosis(
        "unknown", f"the program failed: {_shortened(said)}", f"read the log{where}", _shortened(first or said), True
    )


def _unknown(evidence: Evidence) -> Diagnosis:
    """Neither Slurm nor the log knows: its last line is all there is."""
    lines = [line.strip() for line in evidence.log_tail.splitlines() if line.strip() and not NOISE.match(line)]
    error = next((number for number, line in enumerate(lines) if line.startswith("error: ")), None)
    if error is not None:
        hints = [line.removeprefix("hint: ") for line in lines[error + 1 :] if line.startswith("hint: ")]
        fix = hints[0] if hints else "mend what it names"
        return Diagnosis("error", _shortened(lines[error].removeprefix("error: ")), fix, lines[error], False)
    where = f": {evidence.log}" if evidence.log else ""
    if lines:
        sentence = f"nobody says why it ended; the last line of its log is: {_shortened(lines[-1])}"
        return Diagnosis("unknown", sentence, f"read the log{where}", _shortened(lines[-1]), True)
    ended = f" with exit status {evidence.exit_status}" if evidence.exit_status else ""
    sentence = f"it was cut off{ended} without a word"
    return Diagnosis("unknown", sentence, f"the next attempt continues; the log is empty{where}", "", True)


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
