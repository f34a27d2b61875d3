"""RunFolder: all that was asked and all that happened, as files. The only place that knows paths inside a run.

answers.jsonl.run/
  run.toml          what was asked; `clusterlm generate run.toml` asks the same again
  run.json          the same checked, with what the results depend on: model and input by their content
  input.*           the requests, where they came from standard input
  results.jsonl     one line per finished request, appended and synced, in the order they finished
  data/ checkpoints/  of a training: its texts as tokens, and what a later attempt goes on from
  attempts/1/       environment.json (versions, device), progress.json; a second attempt follows an interrupted first
  finished.json     written last, when the output file is complete
  run.lock          held by the process at work
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from clusterlm.errors import RunError, nearest
from clusterlm.records.files import disk_problem, write_whole
from clusterlm.records.log import ResultLog
from clusterlm.runs.attempt import write_json
from clusterlm.runs.progress import Progress
from clusterlm.version import __version__

if TYPE_CHECKING:  # what reads input, and pydantic, take longer to import than a list of runs to print
    from clusterlm.runs.asked import Asked
    from clusterlm.spec import TaskSpec

STANDARD_STREAM = "-"
"""As OUTPUT: standard output."""

State = Literal["running", "finished", "interrupted"]

BEFORE_RUN = ("run.toml", "run.lock", "input.*", "*.partial")
"""What a process leaves that was killed while it made the folder; run.json, written last, makes it a run."""
BEFORE_WORK = (*BEFORE_RUN, "run.json", "data", "logs")
"""What a run holds of which nothing was done yet: what was asked, texts as tokens, what was said of them."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def results(self) -> Path:
        return self.path / "results.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Of a training: a folder each, the state that a later attempt goes on from."""
        return self.path / "checkpoints"

    @property
    def data(self) -> Path:
        """Of a training: its examples as tokens."""
        return self.path / "data"

    @property
    def script(self) -> Path:
        return self.path / "job.sbatch"

    @property
    def journal(self) -> Path:
        """Of the login side; each job has its own, in its attempt's folder."""
        return self.path / "journal.jsonl"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def log_of(self, job: str) -> Path:
        """What a job printed, all its attempts."""
        return self.logs / f"{job}.out"

    def result_files(self) -> list[Path]:
        """All that hold results: of a process started by hand, and of the processes of jobs."""
        own = [self.results] if self.results.exists() else []
        return own + [file for attempt in self.attempts() for file in sorted(attempt.glob("results*.jsonl"))]

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(".run")

    def read_asked(self) -> Asked[Any]:
        from clusterlm.runs.asked import asked_of

        return asked_of(self._read("run.json"))

    def read(self) -> dict[str, Any]:
        """The content of run.json."""
        content = self._read("run.json")
        if missing := {"spec", "requests", "model_name", "input_path", "created"} - content.keys():
            raise RunError(f"is damaged: run.json lacks {', '.join(sorted(missing))}", where=str(self.path))
        return content

    def task(self) -> str:
        """generate or train."""
        return str(self.read()["spec"].get("task", "generate"))

    def unit(self) -> str:
        """What it counts: records, or steps of a training."""
        return "steps" if self.task() == "train" else "records"

    def finished(self) -> Progress | None:
        """The last account, where the run came to its end."""
        return self._read_progress(self.path / "finished.json")

    def state(self) -> State:
        """Derived from the files alone, so that it cannot be wrong."""
        if self._is_locked():
            return "running"
        return "finished" if (self.path / "finished.json").exists() else "interrupted"

    @property
    def is_begun(self) -> bool:
        """Whether there is something to lose: an attempt, results, a checkpoint, a job."""
        return self.holds_other_than(BEFORE_WORK)

    def remove_unless_begun(self) -> None:
        """After a mistake that was found before any work: the corrected command then meets nothing."""
        with contextlib.suppress(RunError), self.locked():
            if not self.is_begun:
                shutil.rmtree(self.path, ignore_errors=True)

    def holds_other_than(self, patterns: tuple[str, ...]) -> bool:
        return any(not any(map(entry.match, patterns)) and not _is_empty(entry) for entry in self.path.iterdir())

    def progress_by_hand(self) -> Progress | None:
        """Of the whole run, as the last process wrote it that was started by hand."""
        by_hand = [path for path in self.attempts() if not (path / "attempt.json").exists()]
        return self._read_progress(by_hand[-1] / "progress.json") if by_hand else None

    def attempts(self) -> list[Path]:
        folder = self.path / "attempts"
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted((path for path in found if path.name.isdigit()), key=lambda path: int(path.name))

    def environment(self) -> dict[str, Any] | None:
        """Of the last attempt that got as far as to work."""
        files = (attempt / "environment.json" for attempt in reversed(self.attempts()))
        file = next((file for file in files if file.exists()), None)
        return dict(json.loads(file.read_bytes())) if file else None

    def begin_attempt(self, environment: dict[str, Any]) -> Path:
        """A new one of a process that was started by hand."""
        attempt = self.new_attempt()
        write_json(attempt / "environment.json", environment)
        return attempt

    def new_attempt(self) -> Path:
        """Its folder, made by this process alone: tasks of an array begin at the same moment."""
        attempts = self.path / "attempts"
        try:
            attempts.mkdir(parents=True, exist_ok=True)
            number = len(self.attempts())
            while True:
                number += 1
                with contextlib.suppress(FileExistsError):
                    (attempts / str(number)).mkdir()
                    return attempts / str(number)
        except OSError as error:
            hint = "free space, or ask for the right to write"
            raise RunError(disk_problem(error), where=str(attempts), hint=hint) from None

    def write_finished(self, progress: Progress) -> None:
        write_json(self.path / "finished.json", {"finished": _now(), **asdict(progress)})

    @contextlib.contextmanager
    def locked(self, name: str = "run.lock", *, shared: bool = False) -> Iterator[None]:
        """RunError when another process works on this run; a killed process holds no lock.

        `shared`: by a job, beside other jobs of the run but beside no process that was started by hand.
        """
        with self._open_lock(name) as lock:
            if not _lock(lock, shared=shared):
                hint = f"wait for it, or look at it: clusterlm runs show {self.path}"
                raise RunError("another process works on this run", where=str(self.path), hint=hint)
            yield

    def _open_lock(self, name: str) -> IO[str]:
        try:
            return open(self.path / name, "a")
        except OSError as error:
            raise RunError(disk_problem(error), where=str(self.path / name)) from None

    def _read_progress(self, file: Path) -> Progress | None:
        if not file.exists():
            return None
        content = json.loads(file.read_bytes())
        return Progress(**{name: content[name] for name in Progress.__dataclass_fields__ if name in content})

    def _is_locked(self) -> bool:
        try:
            with open(self.path / "run.lock") as lock:
                return not _lock(lock, shared=True)
        except OSError:
            return False

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.path / name).read_bytes()))
        except (OSError, ValueError) as problem:
            raise RunError(f"is no run folder: {problem}", where=str(self.path)) from None


def folder_for(spec: TaskSpec) -> RunFolder:
    """Beside the output file; for standard output in the user's state folder, one for each different command."""
    if spec.output != STANDARD_STREAM:
        return RunFolder(Path(f"{Path(spec.output).absolute()}.run"))
    digest = sha256(json.dumps(spec.settings(), sort_keys=True).encode()).hexdigest()[:12]
    return RunFolder(_state_folder() / "runs" / f"{digest}.run")


def open_run(run: RunFolder, asked: Asked[Any], *, restart: bool) -> int:
    """Make the folder, or check that it belongs to the same command; the number of results that it holds already."""
    if (run.path / "run.json").exists():
        # A damaged folder cannot be compared, but thrown away.
        changed = [] if restart else _differences(run, asked)
        if restart or (changed and not run.is_begun):
            with run.locked():
                if restart:
                    _remove_output(asked)
                shutil.rmtree(run.path)
        elif changed:
            hint = "--restart throws the old results away and begins anew; another OUTPUT keeps them"
            problem = f"this run was begun with others: {'; '.join(changed)}"
            raise RunError(problem, where=str(run.path), hint=hint)
    if (run.path / "run.json").exists():
        _renew(run, asked)
    else:
        _refuse_foreign(run, asked)
        _create(run, asked)
    _remember(run)
    return _count_results(run)


def _remove_output(asked: Asked[Any]) -> None:
    output = asked.output_path
    if output.is_dir():
        shutil.rmtree(output)
    elif asked.spec.output != STANDARD_STREAM:
        output.unlink(missing_ok=True)


def _count_results(run: RunFolder) -> int:
    files = run.result_files()
    if files == [run.results]:  # each line is one: quicker than to read what they say
        with open(run.results, "rb") as results:
            return sum(1 for _ in results)
    with ResultLog(None, files) as log:
        return len(log)


def _differences(run: RunFolder, asked: Asked[Any]) -> list[str]:
    """What decides the results, and is not what it was."""
    old, new = run.read_asked().identity, asked.identity
    # As JSON both: a tuple has become a list.
    changed = [name for name in {**old, **new} if json.dumps(old.get(name)) != json.dumps(new.get(name))]
    return [_difference(name, old.get(name), new.get(name)) for name in changed]


def _difference(name: str, old: Any, new: Any) -> str:
    return f"{name} changed" if name.startswith("content of") else f"{name} was {old!r}, now {new!r}"


def _refuse_foreign(run: RunFolder, asked: Asked[Any]) -> None:
    if asked.spec.output != STANDARD_STREAM and Path(asked.spec.output).exists():
        hint = "name another OUTPUT, or move that file away"
        raise RunError("exists, and no run of clusterlm made it", where=asked.spec.output, hint=hint)
    if run.path.exists() and run.holds_other_than(BEFORE_RUN):
        raise RunError("exists, and is no run folder", where=str(run.path), hint="name another OUTPUT")


def _create(run: RunFolder, asked: Asked[Any]) -> None:
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(disk_problem(error), where=str(run.path)) from None
    input_path = asked.input_path
    if asked.spec.input == STANDARD_STREAM:
        input_path = run.path / f"input{asked.input_path.suffix}"
        shutil.copyfile(asked.input_path, input_path)
    places = asked.other_places | {"input": str(input_path.absolute())}
    if asked.spec.output != STANDARD_STREAM:
        places["output"] = str(asked.output_path.absolute())
    content = {
        "clusterlm": __version__,
        "created": _now(),
        **{
            name: str(getattr(asked, name))
            for name in ("model_name", "model_path", "model_fingerprint", "input_digest")
        },
        "input_path": str(input_path.absolute()),
        "requests": asked.requests,
    }
    _write(run, asked.spec.model_copy(update=places), content)


def _renew(run: RunFolder, asked: Asked[Any]) -> None:
    """What changes no result is as it was asked for last."""
    content = run.read()
    last = asked.spec.model_dump(mode="json", include=set(asked.spec.NOT_IN_RESULTS - {"output"}))
    spec = {**content["spec"], **last}
    if spec != content["spec"]:
        _write(run, type(asked.spec)(**spec), content)


def _write(run: RunFolder, spec: TaskSpec, content: dict[str, Any]) -> None:
    write_whole(run.path / "run.toml", lambda file: file.write(spec.to_toml().encode()))
    write_json(run.path / "run.json", {**content, "spec": spec.model_dump(mode="json")})


def known_runs() -> list[RunFolder]:
    """The runs that this user began and that still exist, the oldest first."""
    return [run for run in _remembered() if _is_there(run.path)]


def _is_empty(path: Path) -> bool:
    """Of a folder."""
    return path.is_dir() and next(path.iterdir(), None) is None


def _is_there(path: Path) -> bool:
    return os.access(path / "run.json", os.R_OK)  # False, too, where a folder on the way is closed to this user


def _remembered() -> list[RunFolder]:
    try:
        lines = (_state_folder() / "runs.txt").read_text().splitlines()
    except OSError:
        return []
    return [RunFolder(Path(line)) for line in dict.fromkeys(lines)]


def find_run(name: str) -> RunFolder:
    """By the path of the run folder or of its output, or by its name in the list."""
    for path in (Path(name), Path(f"{name}.run")):
        if _is_there(path):
            return RunFolder(path.absolute())
    known = known_runs()
    matches = [run for run in known if run.name == name]
    if not matches:
        raise _missing(name, sorted({run.name for run in known}))
    return matches[-1]


def _missing(name: str, known: list[str]) -> RunError:
    """What this user began and what is gone, or closed to them, goes before what was never there."""
    names = {Path(name).absolute(), Path(f"{name}.run").absolute()}
    for run in reversed(_remembered()):
        if run.name == name or run.path in names:
            hint = (
                f"jobs of it that are with Slurm still: squeue --me --name={run.name}; they end when they find it gone"
            )
            problem = "cannot be read" if os.path.lexists(run.path) else "is there no more"
            return RunError(f"the folder of this run {problem}", where=str(run.path), hint=hint)
    close = nearest(name, known)
    guess = f"did you mean {close!r}? " if close else ""
    return RunError("there is no such run", where=name, hint=f"{guess}clusterlm runs list shows them")


def _remember(run: RunFolder) -> None:
    """A list of places alone; whether and how a run exists is always read from its folder."""
    if run in known_runs():
        return
    with contextlib.suppress(OSError):  # a full or read-only home must not stop a run
        _state_folder().mkdir(parents=True, exist_ok=True)
        with open(_state_folder() / "runs.txt", "a") as file:
            file.write(f"{run.path}\n")


def _state_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "clusterlm"


def _lock(file: IO[str], *, shared: bool = False) -> bool:
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        # A file system without locks (some Lustre mounts) cannot tell: better to work than to refuse.
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
