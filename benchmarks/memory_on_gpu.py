"""Real peaks of random models on this machine's GPU, beside what the planner and the referee say of the same steps.

python -m benchmarks.memory_on_gpu [--minutes 25] [--model ID...] [--again]: each case runs in a process of its own,
those that need least first, until the minutes are over; another call goes on where the last one ended. Results are kept
in benchmarks/results/GPU/memory.json. No hub is asked: shapes are the catalogue's, weights random.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.memory_cases import MODELS, Case, cases, phases_of, predicted, request_of, workspace_bytes
from clusterlm.cluster import Gpu, find_gpu
from clusterlm.errors import ClusterlmError
from clusterlm.worker.trace import Trace
from clusterlm.worker.trace.apart import trace_apart
from clusterlm.worker.trace.cache import library_versions

RESULTS = Path(__file__).parent / "results"
GIB = 2**30
SECONDS_FOR_A_CASE = 240
LIBRARIES = ("accelerate", "bitsandbytes")
ABOUT = """
import json, torch
about = torch.cuda.get_device_properties(0)
print(json.dumps({
    "gpu": about.name,
    "memory_bytes": about.total_memory,
    "compute_capability": [about.major, about.minor],
    "vendor": "amd" if torch.version.hip else "nvidia",
    "cuda": torch.version.cuda or torch.version.hip,
}))
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0, help="no case begins after them")
    parser.add_argument("--model", nargs="+", default=list(MODELS), help="of the catalogue, or a config.json")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the referee counts real tensors"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--tokens", type=int, default=1024, help="of each sample")
    parser.add_argument("--again", action="store_true", help="measure anew what is kept already")
    options = parser.parse_args(arguments)
    gpu, conditions = this_gpu(options.device)
    file = options.results / gpu.key / "memory.json"
    kept = read(file, conditions) if not options.again else []
    if kept:
        print_table(kept)
    print_summary(run(ordered(tuple(options.model), options.tokens, gpu), gpu, kept, file, conditions, options))


def this_gpu(device: str) -> tuple[Gpu, dict[str, Any]]:
    """The GPU as it says itself, and the conditions that decide what is measured on it."""
    versions: dict[str, Any] = {**library_versions(), **{name: _version(name) for name in LIBRARIES}}
    if device == "cpu":
        gpu = find_gpu("a100-80")
        return Gpu(**{**asdict(gpu), "key": "cpu", "name": "cpu"}), {"gpu": "cpu", "versions": versions}
    # A process of its own: torch's context on the GPU would be counted with the cases.
    told = subprocess.run([sys.executable, "-c", ABOUT], capture_output=True, text=True, check=True).stdout
    conditions = {**json.loads(told), "versions": versions}
    return gpu_of(conditions), conditions


def gpu_of(conditions: dict[str, Any]) -> Gpu:
    """The measured GPU as the planner knows one, whether or not it is of its list."""
    major, minor = conditions["compute_capability"]
    return replace(
        find_gpu("a100-80"),  # whose speeds stand in: memory does not follow from them
        key=re.sub(r"[^a-z0-9]+", "-", conditions["gpu"].lower()).strip("-"),
        name=conditions["gpu"],
        memory_bytes=conditions["memory_bytes"],
        compute_capability=(major, minor),
        vendor=conditions["vendor"],
        bfloat16=major >= 8,
        source="measured",
    )


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def ordered(models: tuple[str, ...], tokens: int, gpu: Gpu) -> list[Case]:
    """By what the closed form says that they need."""
    asked = [Case(**{**asdict(case), "tokens": tokens}) for case in cases(models)]
    return sorted(asked, key=lambda case: predicted(case, gpu).allocated)


def run(
    waiting: list[Case],
    gpu: Gpu,
    entries: list[dict[str, Any]],
    file: Path,
    conditions: dict[str, Any],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """What is kept already is not measured again; each entry is kept as soon as it is there."""
    end = time.monotonic() + 60 * options.minutes
    done = [entry["case"] for entry in entries]
    with ThreadPoolExecutor(1) as traces:
        for case in waiting:
            if asdict(case) in done:
                continue
            if time.monotonic() > end:
                print(f"the {options.minutes:g} minutes are over before {case.model}: {case.title}")
                break
            traced = traces.submit(trace_apart, request_of(case)) if case.method != "qlora" else None
            found = run_apart(case, options.device)
            entries.append(entry_of(case, gpu, found, traced))
            print_table(entries[-1:], heading=len(entries) == 1)
            write(file, conditions, entries)
    return entries


def run_apart(case: Case, device: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory_step", device]
    try:
        ended = subprocess.run(
            command,
            input=json.dumps(asdict(case)),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_FOR_A_CASE,
            cwd=Path(__file__).parents[1],
        )
    except subprocess.TimeoutExpired:
        return {"status": f"not ended after {SECONDS_FOR_A_CASE} s"}
    if ended.returncode:
        said = ended.stderr.strip().rpartition("\n")[2]
        return {"status": "failed", "message": said}
    found: dict[str, Any] = json.loads(ended.stdout.strip().rpartition("\n")[2])
    return found


def entry_of(case: Case, gpu: Gpu, found: dict[str, Any], traced: Future[Trace] | None) -> dict[str, Any]:
    told = predicted(case, gpu)
    entry: dict[str, Any] = {
        "case": asdict(case),
        "date": date.today().isoformat(),
        "measured": found,
        "predicted": {
            "phases": phases_of(told),
            "allocated": told.allocated,
            "reserved": [told.reserved_low, told.reserved_high],
            "needed": told.needed,
        },
        "workspace": workspace_bytes(case, gpu),
    }
    if traced is not None:
        try:
            entry["traced"] = traced.result().phases
        except ClusterlmError as problem:
            entry["traced"] = str(problem)
    return entry


def read(file: Path, conditions: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries of an earlier call under the same conditions; under others none, so that the file is written anew."""
    if not file.is_file():
        return []
    content = json.loads(file.read_text(encoding="utf-8"))
    return list(content["entries"]) if content["conditions"] == conditions else []


def write(file: Path, conditions: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    file.write_text(f'{{"conditions": {json.dumps(conditions)},\n"entries": [\n{lines}\n]}}\n', encoding="utf-8")


def print_table(entries: list[dict[str, Any]], *, heading: bool = True) -> None:
    if heading:
        print(
            f"{'model':26}{'step':32}{'measured':>10}{'plan':>9}{'trace':>9}  phases of the plan; reserved, card (GiB)"
        )
    for entry in entries:
        case = Case(**entry["case"])
        print(f"{case.model.rpartition('/')[2][:25]:26}{case.title:32}{_figures(entry)}", flush=True)


def print_summary(entries: list[dict[str, Any]]) -> None:
    for name in ("plan", "trace"):
        errors = sorted(abs(found[name]) for entry in entries if name in (found := errors_of(entry)))
        if errors:
            print(f"{name}: median {statistics.median(errors):.2%}, largest {errors[-1]:.2%} of {len(errors)}")


def errors_of(entry: dict[str, Any]) -> dict[str, float]:
    """Of the highest allocation, by the closed form and by the trace; empty where nothing was measured."""
    measured, traced = entry["measured"], entry.get("traced")
    if measured["status"] != "measured":
        return {}
    # What is counted on the CPU has no workspaces in it.
    workspace = entry["workspace"] if measured["reserved"] is not None else 0
    peak = max(measured["phases"].values())
    found = {"plan": (entry["predicted"]["allocated"] - entry["workspace"] + workspace) / peak - 1}
    if isinstance(traced, dict):
        found["trace"] = (max(traced.values()) + workspace) / peak - 1
    return found


def _figures(entry: dict[str, Any]) -> str:
    measured, told = entry["measured"], entry["predicted"]
    if measured["status"] != "measured":
        return f"{measured['status']}; planned {told['allocated'] / GIB:.3f} GiB"
    spared = entry["workspace"] if measured["reserved"] is None else 0
    errors = {name: f"{error:+.2%}" for name, error in errors_of(entry).items()}
    phases = ", ".join(
        f"{name} {(told['phases'][name] - spared) / value - 1:+.1%}"
        for name, value in measured["phases"].items()
        if name in told["phases"]
    )
    if measured["reserved"] is not None:
        low, high = (value / GIB for value in told["reserved"])
        card = (measured["card"] - measured["card_before"]) / GIB
        phases += (
            f"; {measured['reserved'] / GIB:.2f} in {low:.2f} to {high:.2f}, {card:.2f} of {told['needed'] / GIB:.2f}"
        )
    peak = max(measured["phases"].values())
    return f"{peak / GIB:10.3f}{errors['plan']:>9}{errors.get('trace', ''):>9}  {phases}"


if __name__ == "__main__":
    main()
