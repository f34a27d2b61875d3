"""What is told of an end; that nothing is told fails the test."""

from __future__ import annotations

from clusterlm.runs.diagnosis import Diagnosis, Evidence, diagnose


def told(evidence: Evidence) -> Diagnosis:
    found = diagnose(evidence)
    assert found is not None, evidence.log_tail
    return found
