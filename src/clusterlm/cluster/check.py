"""What is wrong with a user's cluster file: everything at once, each with its path and its line."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from clusterlm.cluster.gpu import gpus
from clusterlm.cluster.profile import (
    Access,
    Billing,
    Cluster,
    NodeType,
    Partition,
    Request,
    Software,
    Source,
    Sourced,
    Storage,
)
from clusterlm.errors import UsageError, did_you_mean, nearest

Place = tuple[str, ...]
"""('nodes', 'a100', 'gpus'): the way to a value in the file."""

TABLES: dict[str, type] = {
    "sources": Source,
    "nodes": NodeType,
    "partitions": Partition,
    "request": Request,
    "access": Access,
    "billing": Billing,
    "storage": Storage,
    "software": Software,
}
IS_NOT = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "dict": "a table",
    "dataclass": "a table",
}
"""By the first word of pydantic's name of an error: what the value should have been."""
LIMITS = ("gpus", "nodes")
DATE = re.compile(r"\d{4}-\d\d(-\d\d)?")
KEY = r"""(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)"""
HEADER = re.compile(rf"\s*\[\s*({KEY}(?:\s*\.\s*{KEY})*)\s*\]")
ENTRY = re.compile(rf"\s*({KEY}(?:\s*\.\s*{KEY})*)\s*=")


def checked(path: Path, text: str, values: dict[str, Any], known: Collection[str]) -> Cluster:
    """The Cluster that the file means, beside those that are known by name. UsageError lists all that is wrong."""
    from pydantic import TypeAdapter, ValidationError

    if "name" in values:
        raise UsageError(f"{_line(lines_of(text), ('name',))}name: a profile is called as its file is", where=str(path))
    try:
        # As JSON: only there does pydantic's strict mode take a list for a tuple. A date without quotes becomes text.
        content = json.dumps({**values, "name": path.stem}, default=str)
        cluster = TypeAdapter(Cluster).validate_json(content, strict=True)
    except ValidationError as problem:
        found = [_explained(error) for error in problem.errors()]
    else:
        found = list(contradictions(cluster, known))
        if not found:
            return cluster
    lines = lines_of(text)
    told = [f"{_line(lines, place)}{'.'.join(place)}: {problem}" for place, problem in found]
    raise UsageError(f"\n{path}: ".join(told), where=str(path))


def contradictions(cluster: Cluster, known: Collection[str]) -> Iterator[tuple[Place, str]]:
    """What does not go together, though each value is of the right kind."""
    yield from _service(cluster, known)
    for place, table in _tables(cluster):
        yield from _sources(cluster, place, table)
    for name, source in cluster.sources.items():
        if not DATE.fullmatch(source.date):
            yield ("sources", name, "date"), f"{source.date!r} is not a date: write 2026-11 or 2026-11-21"
    for name, node in cluster.nodes.items():
        yield from _node(cluster, ("nodes", name), node)
    for name, partition in cluster.partitions.items():
        yield from _partition(cluster, ("partitions", name), partition)


def _service(cluster: Cluster, known: Collection[str]) -> Iterator[tuple[Place, str]]:
    if cluster.status == "retired" and not (cluster.until or cluster.successor):
        yield ("status",), "a retired cluster needs `until` or `successor`"
    if cluster.successor and cluster.successor not in known:
        yield ("successor",), f"no cluster is called {cluster.successor!r}"
    for name in ("nodes", "partitions"):
        if not getattr(cluster, name) and (cluster.slurm or name == "nodes"):
            yield (name,), "there is none"


def _tables(cluster: Cluster) -> Iterator[tuple[Place, Sourced]]:
    yield (), cluster
    for name in ("nodes", "partitions", "storage"):
        for key, table in getattr(cluster, name).items():
            yield (name, key), table
    for name in ("request", "access", "billing", "software"):
        if (table := getattr(cluster, name)) is not None:
            yield (name,), table


def _sources(cluster: Cluster, place: Place, table: Sourced) -> Iterator[tuple[Place, str]]:
    defaults = {field.name: field.default for field in fields(table)}
    for field, source in (("source", table.source), *table.other_sources.items()):
        if source not in cluster.sources:
            where = (*place, "source") if field == "source" else (*place, "other_sources", field)
            yield where, f"there is no source {source!r} ({did_you_mean(source, cluster.sources)})"
    for listed, names in (("unverified", table.unverified), ("other_sources", table.other_sources)):
        for name in names:
            if name not in defaults:
                yield (*place, listed), f"there is no field {name!r} ({did_you_mean(name, defaults)})"
            elif getattr(table, name) is None:
                yield (*place, listed), f"{name!r} is not set in this table"


def _node(cluster: Cluster, place: Place, node: NodeType) -> Iterator[tuple[Place, str]]:
    if node.gpu != "any" and node.gpu not in gpus():
        yield (*place, "gpu"), f"no GPU is called {node.gpu!r} ({did_you_mean(node.gpu, gpus())})"
    if node.gpus < 1:
        yield (*place, "gpus"), "a node type needs at least one GPU"
    if cluster.request.gres == "typed" and node.gres_type is None:
        yield (*place, "gres_type"), 'is missing: the site is asked with gres = "typed"'
    if node.billing_units_per_gpu_hour is not None and cluster.billing is None:
        yield (*place, "billing_units_per_gpu_hour"), "needs a table [billing] that names the unit"


def _partition(cluster: Cluster, place: Place, partition: Partition) -> Iterator[tuple[Place, str]]:
    for name in partition.nodes:
        if name not in cluster.nodes:
            yield (*place, "nodes"), f"there is no node type {name!r} ({did_you_mean(name, cluster.nodes)})"
    if not partition.nodes:
        yield (*place, "nodes"), "names no node type"
    try:
        _ = partition.limit_seconds
    except UsageError as problem:
        yield (*place, "limit"), f"{problem.problem}; {problem.hint}"
    for what in LIMITS:
        least, most = getattr(partition, f"min_{what}"), getattr(partition, f"max_{what}")
        if most is not None and most < least:
            yield (*place, f"max_{what}"), f"{most} is less than min_{what} = {least}"


def _explained(error: Any) -> tuple[Place, str]:
    place = tuple(str(part) for part in error["loc"])
    kind, value = error["type"], error["input"]
    if kind in ("missing", "missing_argument"):
        return place, "is missing"
    if kind == "unexpected_keyword_argument":
        close = nearest(place[-1], _fields_of(place[:-1]))
        return place, "there is no such field" + (f" (did you mean {close!r}?)" if close else "")
    if kind == "literal_error":
        return place, f"{value!r} is none of {error['ctx']['expected']}"
    wanted = IS_NOT.get(kind.split("_")[0])
    return place, f"{value!r:.80} is not {wanted}" if wanted else error["msg"]


def _fields_of(place: Place) -> list[str]:
    """Names that may stand in the table at this place."""
    kind = TABLES.get(place[0]) if place else Cluster
    return [field.name for field in fields(kind)] if kind is not None else []


def lines_of(text: str) -> dict[Place, int]:
    """Where each table and each key of a TOML text first stands, from 1."""
    lines: dict[Place, int] = {}
    table: Place = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := HEADER.match(line):
            table = _keys(header[1])
            lines.setdefault(table, number)
        elif entry := ENTRY.match(line):
            lines.setdefault((*table, *_keys(entry[1])), number)
    return lines


def _keys(dotted: str) -> Place:
    return tuple(key.strip("\"'") for key in re.findall(KEY, dotted))


def _line(lines: dict[Place, int], place: Place) -> str:
    """'line 14: ' of the value, or of the nearest table around it."""
    for length in range(len(place), 0, -1):
        if place[:length] in lines:
            return f"line {lines[place[:length]]}: "
    return ""
