"""Every error that a user can meet: what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable


class ClusterlmError(Exception):
    """A problem that the user can mend; `cli` prints it without a traceback and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, problem: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"\nhint: {self.hint}" if self.hint else ""
        return f"{place}{self.problem}{advice}"


class UsageError(ClusterlmError):
    """The command or the run file asks for something that does not exist or contradicts itself."""

    exit_code = 2


class InputError(ClusterlmError):
    """The file of requests cannot be used."""


class ModelError(ClusterlmError):
    """The model cannot be found, is incomplete, or cannot do what was asked."""


class RunError(ClusterlmError):
    """A run folder does not allow what was asked: another run, other settings, in use, disk full."""


class SlurmError(ClusterlmError):
    """Slurm is not here, does not answer, or refuses what was asked."""


class MissingPackage(ClusterlmError):
    """A part of clusterlm was asked for that is not installed."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is most likely a slip of, or None."""
    import difflib  # only an error needs it

    by_lower_case = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.6)
    return by_lower_case[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint: the nearest name where there is one, else the names there are."""
    names = list(known)
    close = nearest(name, names)
    return f"did you mean {close!r}?" if close else f"there is: {', '.join(names) or 'nothing'}"
