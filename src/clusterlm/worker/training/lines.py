"""Files of JSON lines that grow while a training goes, and that a kill may tear."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from clusterlm.errors import RunError
from clusterlm.records.files import disk_problem


def append_line(path: Path, content: dict[str, Any]) -> None:
    """RunError where the disk refuses."""
    try:
        with open(path, "a+b") as file:
            is_torn = False
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                is_torn = file.read(1) != b"\n"
            file.write(b"\n" * is_torn + json.dumps(content).encode() + b"\n")
    except OSError as problem:
        raise RunError(disk_problem(problem), where=str(path), hint="free space; the same command continues") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Without those that a kill tore; empty where there is no file."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            continue
    return found
