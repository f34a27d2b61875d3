"""Why runs end badly: a table with one row a cause. Where a line shows two of them, the first row counts."""

from __future__ import annotations

from clusterlm.runs.causes.cause import Cause
from clusterlm.runs.causes.machine import MACHINE
from clusterlm.runs.causes.network import NETWORK
from clusterlm.runs.causes.scheduler import SCHEDULER
from clusterlm.runs.causes.software import SOFTWARE

CAUSES: tuple[Cause, ...] = (*SCHEDULER, *MACHINE, *SOFTWARE, *NETWORK)
