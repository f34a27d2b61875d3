"""Finding and reading the profile of a cluster: a user's own first, then the one that is shipped."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import is_dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from clusterlm.cluster.profile import Cluster
from clusterlm.errors import UsageError, did_you_mean


def find_cluster(name: str) -> Cluster:
    """The profile of that name, or of the file where `name` is a path. UsageError with the nearest names."""
    return read_cluster(path_of_cluster(name))


def path_of_cluster(name: str) -> Path:
    if name.endswith(".toml") or "/" in name:
        return Path(name).expanduser()
    known = known_clusters()
    path = known.get(name) or known.get(name.lower())
    if path is None:
        hint = f"{did_you_mean(name, known)} (one of your own: {users_folder() / 'NAME.toml'})"
        raise UsageError(f"no cluster is called {name!r}", where="--on", hint=hint)
    return path


def read_cluster(path: Path) -> Cluster:
    """UsageError that lists all that is wrong with a user's file; the shipped ones are checked by the tests."""
    text = _text(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise UsageError(f"this is not TOML: {problem}", where=str(path)) from None
    if path.parent == shipped_folder():
        return build(path.stem, values)
    from clusterlm.cluster.check import checked  # a user's file alone needs pydantic, which takes 0.1 s to load

    return checked(path, text, values, known_clusters())


def known_clusters() -> dict[str, Path]:
    """Where the profile of each name is; a user's own goes before the site's, and that before a shipped one."""
    sites = {path.stem: path for path in sorted(sites_folder().glob("*.toml"))}
    own = {path.stem: path for path in sorted(users_folder().glob("*.toml"))}
    return shipped_clusters() | sites | own


def readable_clusters() -> tuple[dict[str, Cluster], tuple[UsageError, ...]]:
    """All profiles that can be read, by name, and what is wrong with the others: one broken file hides no other."""
    clusters, broken = {}, []
    for name, path in known_clusters().items():
        try:
            clusters[name] = read_cluster(path)
        except UsageError as problem:
            broken.append(problem)
    return clusters, tuple(broken)


def shipped_clusters() -> dict[str, Path]:
    return {path.stem: path for path in sorted(shipped_folder().glob("*.toml"))}


@cache
def shipped_folder() -> Path:
    return Path(__file__).parents[1] / "clusters"


def users_folder() -> Path:
    settings = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(settings).expanduser() / "clusterlm" / "clusters"


def sites_folder() -> Path:
    """Beside the slurm.conf of the cluster that Slurm's commands speak to."""
    configured = os.environ.get("SLURM_CONF")
    return (Path(configured).parent if configured else Path("/etc/slurm")) / "clusterlm"


def recognise(clusters: Sequence[Cluster], cluster_name: str | None, host: str) -> Cluster | None:
    """The one that Slurm's ClusterName fits, else the one that the host's name fits; None: none, or several.

    Of several, the user's own one.
    """
    by_slurm = [cluster for cluster in clusters if _fits(cluster_name, cluster.access.cluster_names)]
    fitting = by_slurm or [cluster for cluster in clusters if _fits(host, cluster.access.hosts)]
    if len(fitting) > 1:
        fitting = [cluster for cluster in fitting if (users_folder() / f"{cluster.name}.toml").exists()]
    return fitting[0] if len(fitting) == 1 else None


def _fits(name: str | None, patterns: tuple[str, ...]) -> bool:
    return bool(name) and any(fnmatch(str(name).lower(), pattern.lower()) for pattern in patterns)


def build(name: str, values: dict[str, Any]) -> Cluster:
    """The values of a file that is known to be right."""
    cluster = _built(Cluster, {"name": name, **values})
    assert isinstance(cluster, Cluster)
    return cluster


def _built(kind: Any, value: Any) -> Any:
    """`value` of a TOML file as the dataclass, dict of dataclasses, tuple or plain value that `kind` says."""
    if is_dataclass(kind):
        assert isinstance(kind, type)
        hints = _hints(kind)
        return kind(**{key: _built(hints[key], entry) for key, entry in value.items()})
    if get_origin(kind) is dict:
        return {key: _built(get_args(kind)[1], entry) for key, entry in value.items()}
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict):
        return _built(next(part for part in get_args(kind) if is_dataclass(part)), value)
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError("there is no such cluster file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"cannot be read: {problem}", where=str(path)) from None
