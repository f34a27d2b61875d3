"""A cluster's profile as text and JSON; a "?" follows what no source that was read confirms."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from clusterlm.cluster import Cluster, NodeType, Partition, gpus
from clusterlm.cluster.profile import Sourced
from clusterlm.report.table import aligned

WIDTH = 100
LIST_COLUMNS = ("NAME", "SITE", "GPUS PER NODE", "PARTITIONS", "FACTS", "?", "")
LEGEND = '"?" marks what no source that was read confirms: check it on the cluster, or with the site.'
NO_FACT = {"name", "source", "other_sources", "unverified", "checked", "notes"}

GRES = {"gpus-per-node": "--gpus-per-node={n}", "typed": "--gres=gpu:{type}:{n}", "untyped": "--gres=gpu:{n}"}


def cluster_summary(cluster: Cluster, path: Path, *, own: bool) -> dict[str, Any]:
    """One line of the list as JSON values."""
    tables = list(_tables(cluster))
    return {
        "name": cluster.name,
        "title": cluster.title,
        "site": cluster.site,
        "status": cluster.status,
        "until": cluster.until,
        "successor": cluster.successor,
        "own": own,
        "path": str(path),
        "nodes": [{"gpu": node.gpu, "gpus": node.gpus, "unit": node.unit} for node in cluster.nodes.values()],
        "partitions": len(cluster.partitions),
        "facts": sum(_facts(table) for table in tables),
        "unverified": sum(len(table.unverified) for table in tables),
        "checked": cluster.checked,
    }


def clusters_table(summaries: Sequence[dict[str, Any]]) -> str:
    """One line per cluster, the retired ones last."""
    ordered = sorted(summaries, key=lambda summary: (summary["status"] == "retired", summary["name"]))
    rows = [
        (
            summary["name"],
            summary["site"],
            ", ".join(f"{node['gpus']}x {node['gpu']}" for node in summary["nodes"]),
            str(summary["partitions"]),
            str(summary["facts"]),
            str(summary["unverified"]),
            _standing(summary),
        )
        for summary in ordered
    ]
    return aligned([LIST_COLUMNS, *rows], numbers=(3, 4, 5))


def cluster_json(cluster: Cluster, path: Path) -> dict[str, Any]:
    """All of a profile as JSON values, by the names of its file."""
    return {"schema": 1, "path": str(path), **asdict(cluster)}


def cluster_text(cluster: Cluster) -> str:
    """All about one cluster."""
    parts = [
        _head(cluster),
        _nodes(cluster),
        _section("PARTITIONS", _partitions(cluster)),
        _section("HOW TO ASK", _asking(cluster)),
        _section("BILLING", _billing(cluster)),
        _section("STORAGE", _storage(cluster)),
        _section("SOFTWARE", _software(cluster)),
        _section("ACCESS", _access(cluster)),
        _section("NOTES", "\n".join(_wrapped(note, "- ") for note in cluster.notes)),
        _section("SOURCES", _sources(cluster)),
        LEGEND if any(table.unverified for table in _tables(cluster)) else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _head(cluster: Cluster) -> str:
    lines = [f"{cluster.title} ({cluster.name})" + (f": {cluster.site}" if cluster.site else "")]
    if cluster.status == "retired":
        last = f" Its last day was {cluster.until}." if cluster.until else ""
        follows = f" Its successor: clusterlm clusters show {cluster.successor}"
        lines.append("No longer in service." + last + (follows if cluster.successor else ""))
    if not cluster.slurm:
        lines.append("No Slurm: jobs run directly.")
    else:
        lines.append(f"Compared with the site's Slurm: {cluster.checked or 'never'}.")
    return "\n".join(lines)


def _nodes(cluster: Cluster) -> str:
    """Node types side by side; what is known of none has no line."""
    types = cluster.nodes
    unit = cluster.billing.unit if cluster.billing else ""
    lines: list[tuple[str, Callable[[NodeType], str]]] = [
        ("GPUs", _gpus_of),
        ("nodes", lambda node: _marked(node, "count", "{:,}")),
        ("architecture", lambda node: node.architecture if node.architecture != "x86_64" else ""),
        ("cores", _cores),
        ("host memory", _host_memory),
        ("local disk", lambda node: _marked(node, "local_disk_gib", "{:,.0f} GiB")),
        ("between GPUs", lambda node: _marked(node, "gpu_link_gb_per_second", "{:,.0f} GB/s")),
        ("network", _network),
        ("price", lambda node: _marked(node, "billing_units_per_gpu_hour", f"{{:g}} {unit} per {node.unit} and hour")),
        ("selected with", _selected),
    ]
    rows = [(name, *(show(node) for node in types.values())) for name, show in lines]
    return aligned([("NODES", *types), *((f"  {row[0]}", *row[1:]) for row in rows if any(row[1:]))])


def _gpus_of(node: NodeType) -> str:
    gpu = gpus().get(node.gpu)
    name = f"{gpu.name}, {gpu.memory_bytes / 2**30:.1f} GiB usable" if gpu else "any GPU"
    return f"{node.gpus} x {name}" + ("?" if {"gpu", "gpus"} & set(node.unverified) else "")


def _cores(node: NodeType) -> str:
    cpus = _marked(node, "cpus", "{} CPUs to Slurm")
    each = _marked(node, "cores_per_gpu", f"{{}} a {node.unit}")
    return ", ".join(part for part in (_marked(node, "cores", "{}"), each, cpus) if part)


def _host_memory(node: NodeType) -> str:
    each = _marked(node, "host_memory_per_gpu_gib", f"{{:g}} a {node.unit}")
    return ", ".join(part for part in (_marked(node, "host_memory_gib", "{:g} GiB"), each) if part)


def _network(node: NodeType) -> str:
    interface = _marked(node, "network_interface", "interface {}")
    return ", ".join(part for part in (_marked(node, "network_gb_per_second", "{:g} GB/s"), interface) if part)


def _selected(node: NodeType) -> str:
    options = (_marked(node, "constraint", "--constraint={}"), _marked(node, "nodelist", "--nodelist={}"))
    return " ".join(part for part in options if part)


def _partitions(cluster: Cluster) -> str:
    rows = [
        (name, part.purpose, ", ".join(part.nodes), _limit(part), _size(cluster, part), _jobs(part))
        for name, part in cluster.partitions.items()
    ]
    table = _without_empty(("NAME", "FOR", "NODES", "LONGEST", "SIZE OF A JOB", "JOBS AT ONCE"), rows)
    rules = [_wrapped(f"{name}: {part.rule}", "- ") for name, part in cluster.partitions.items() if part.rule]
    return "\n".join([aligned(table), *rules])


def _limit(partition: Partition) -> str:
    if partition.limit is None:
        return "not known"
    seconds = partition.limit_seconds
    return ("no limit" if seconds is None else in_words(seconds)) + _doubt(partition, "limit")


def in_words(seconds: int) -> str:
    """172800 -> '2 days', 129600 -> '36 h', 5400 -> '1:30 h', 900 -> '15 min'."""
    if seconds % 86400 == 0 and seconds > 86400:
        return f"{seconds // 86400} days"
    if seconds % 3600 == 0:
        return f"{seconds // 3600} h"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}:{minutes:02} h" if hours else f"{minutes} min"


def _size(cluster: Cluster, partition: Partition) -> str:
    whole = "whole " if partition.whole_nodes else ""
    nodes = _range(partition, "nodes", f"{whole}node")
    if partition.whole_nodes:
        nodes = nodes or "whole nodes"
        nodes += "" if nodes.endswith("?") else _doubt(partition, "whole_nodes")
    gpus_asked = _range(partition, "gpus", cluster.nodes[partition.nodes[0]].unit)
    return ", ".join(part for part in (gpus_asked, nodes) if part) or "any"


def _range(partition: Partition, what: str, unit: str) -> str:
    least, most = getattr(partition, f"min_{what}"), getattr(partition, f"max_{what}")
    doubt = _doubt(partition, f"min_{what}") or _doubt(partition, f"max_{what}")
    if most is None:
        return f"{least:,} {unit}s or more{doubt}" if least > 1 else ""
    if most == 1:
        return f"1 {unit}{doubt}"
    span = f"up to {most:,}" if least == 1 else f"{most:,}" if least == most else f"{least:,} to {most:,}"
    return f"{span} {unit}s{doubt}"


def _jobs(partition: Partition) -> str:
    running, waiting = _marked(partition, "max_running", "{} running"), _marked(partition, "max_submitted", "{} in all")
    return ", ".join(part for part in (running, waiting) if part)


def _asking(cluster: Cluster) -> str:
    if not cluster.slurm:
        return ""
    request = cluster.request
    account = f"--account={request.account_name or 'PROJECT'}{_doubt(request, 'account')}" if request.account else ""
    rows = [(f"  {name}", _options(cluster, name, part, account)) for name, part in cluster.partitions.items()]
    remarks = [] if request.memory else [f"no --mem: the site sets it{_doubt(request, 'memory')}"]
    if not request.partial_nodes:
        remarks.append(f"a job on several nodes must take whole ones{_doubt(request, 'partial_nodes')}")
    if request.short_job_hours:
        short = in_words(round(request.short_job_hours * 3600))
        remarks.append(f"jobs of up to {short} have nodes of their own{_doubt(request, 'short_job_hours')}")
    return "\n".join([aligned(rows), *(_wrapped(remark, "- ") for remark in remarks)])


def _options(cluster: Cluster, name: str, partition: Partition, account: str) -> str:
    request = cluster.request
    asked = name if partition.partition is None else partition.partition
    types = [cluster.nodes[node].gres_type for node in partition.nodes]
    options = [
        f"--partition={asked}{_doubt(partition, 'partition')}" if asked else "",
        _marked(partition, "qos", "--qos={}"),
        account,
        GRES[request.gres].format(type=types[0], n="N") + _doubt(request, "gres"),
    ]
    return " ".join(option for option in options if option)


def _billing(cluster: Cluster) -> str:
    billing = cluster.billing
    if billing is None:
        return ""
    return _wrapped(f"{_marked(billing, 'unit')}: {_marked(billing, 'rule')}" if billing.rule else billing.unit)


def _storage(cluster: Cluster) -> str:
    rows = [
        (
            _marked(area, "path"),
            area.use,
            _marked(area, "quota_gib", "{:,.0f} GiB"),
            _marked(area, "quota_files", "{:,} files"),
            _marked(area, "purge_days", "{} days"),
        )
        for area in cluster.storage.values()
    ]
    notes = [_wrapped(f"{area.path}: {area.note}", "- ") for area in cluster.storage.values() if area.note]
    table = _without_empty(("PATH", "USE", "QUOTA", "FILES", "CLEANED AFTER"), rows)
    return "\n".join([aligned(table), *notes]) if rows else ""


def _without_empty(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Columns that say nothing are left out."""
    kept = [number for number in range(len(columns)) if any(row[number] for row in rows)]
    return [[row[number] for number in kept] for row in (columns, *rows)]


def _software(cluster: Cluster) -> str:
    software = cluster.software
    if software is None:
        return ""
    doubt = _doubt(software, "modules")
    lines = [f"module {entry if ' ' in entry else f'load {entry}'}{doubt}" for entry in software.modules]
    lines += [f"container {_marked(software, 'container')}"] if software.container else []
    lines += [f"binds {', '.join(software.binds)}{_doubt(software, 'binds')}"] if software.binds else []
    lines += [software.note + (" (?)" if "note" in software.unverified else "")] if software.note else []
    return "\n".join(_wrapped(line) for line in lines)


def _access(cluster: Cluster) -> str:
    access, lines = cluster.access, []
    if access.internet is not None and cluster.slurm:
        reached = (
            "reach the internet" if access.internet else "do not reach the internet: bring models and packages before"
        )
        lines.append(f"Compute nodes {reached}" + (" (?)" if "internet" in access.unverified else ""))
    if access.login_limit:
        lines.append(f"Login nodes: {_marked(access, 'login_limit')}")
    return "\n".join(_wrapped(line) for line in lines)


def _sources(cluster: Cluster) -> str:
    return "\n".join(
        "\n".join(
            [_wrapped(f"{source.title} ({source.date}): {', '.join(_used_for(cluster, key))}", "- ")]
            + ([f"    {source.url}"] if source.url else [])
        )
        for key, source in cluster.sources.items()
    )


def _used_for(cluster: Cluster, source: str) -> list[str]:
    """Kinds of tables that come from this source, and single fields of tables that else come from others."""
    whole = [name for name, table in _named_tables(cluster) if table.source == source]
    single: dict[str, list[str]] = {}
    for name, table in _named_tables(cluster):
        single.setdefault(name, []).extend(field for field, other in table.other_sources.items() if other == source)
    parts = {name: f"{name} ({', '.join(dict.fromkeys(found))})" for name, found in single.items() if found}
    return list(dict.fromkeys(name if name in whole else parts[name] for name in [*whole, *parts]))


def _section(title: str, body: str) -> str:
    lines = (line if line.startswith("  ") else f"  {line}" for line in body.splitlines())
    return "\n".join([title, *lines]) if body else ""


def _wrapped(text: str, bullet: str = "") -> str:
    indent = " " * (len(bullet) + 2)
    return textwrap.fill(text, WIDTH, initial_indent=f"  {bullet}", subsequent_indent=indent, break_long_words=False)


def _marked(table: Sourced, field: str, form: str = "{}") -> str:
    """The value of that field as text, with its doubt; '' where there is none."""
    value = getattr(table, field)
    return "" if value is None else form.format(value) + _doubt(table, field)


def _doubt(table: Sourced, field: str) -> str:
    return "?" if field in table.unverified else ""


def _standing(summary: dict[str, Any]) -> str:
    parts = ["your own"] if summary["own"] else []
    if summary["status"] == "retired":
        parts.append("retired" + (f", now {summary['successor']}" if summary["successor"] else ""))
    if summary["checked"]:
        parts.append(f"checked {summary['checked']}")
    return "; ".join(parts)


def _tables(cluster: Cluster) -> Iterable[Sourced]:
    return (table for _, table in _named_tables(cluster))


def _named_tables(cluster: Cluster) -> Iterable[tuple[str, Sourced]]:
    """Each table with the word for its kind."""
    many: dict[str, dict[str, Any]] = {name: getattr(cluster, name) for name in ("nodes", "partitions", "storage")}
    yield "service", cluster
    yield from ((name, table) for name, tables in many.items() for table in tables.values())
    for name in ("request", "access", "billing", "software"):
        if (table := getattr(cluster, name)) is not None:
            yield name, table


def _facts(table: Sourced) -> int:
    """How many of its values are said, rather than left open."""
    said = [field for field in fields(table) if field.name not in NO_FACT]
    values = [(getattr(table, field.name), field.default) for field in said]
    plain = [(value, default) for value, default in values if not isinstance(value, dict | Sourced)]
    return sum(value != (None if default is MISSING else default) for value, default in plain)
