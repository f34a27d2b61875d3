"""The storage areas of a site's profile, as paths on its login nodes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from clusterlm.cluster import Cluster
from clusterlm.cluster.profile import Storage

FOR_WORK = ("scratch", "project", "fast", "home")
"""Uses of an area, the best for runs and models first."""
VARIABLE = re.compile(r"\$\{?\w+\}?")


def area_of(path: Path, cluster: Cluster) -> Storage | None:
    """The one that the path lies in; of several the deepest."""
    texts = {str(path.absolute()), str(path.resolve())}
    lengths = {
        name: max((len(found[0]) for text in texts if (found := _pattern(area).match(text))), default=0)
        for name, area in cluster.storage.items()
    }
    deepest = max(lengths, key=lambda name: lengths[name], default=None)
    return cluster.storage[deepest] if deepest is not None and lengths[deepest] else None


def _pattern(area: Storage) -> re.Pattern[str]:
    """Variables that this process does not have stand for a name; a path that begins with such a one is not known."""
    path = os.path.expandvars(area.path).rstrip("/")
    if not path.startswith("/"):
        return re.compile(r"(?!)")
    names = [re.escape(part) for part in VARIABLE.split(path)]
    return re.compile("[^/]+".join(names) + "(?=/|$)")


def advice(cluster: Cluster) -> str:
    """Where files should be that the nodes read."""
    areas = sorted(
        (area for area in cluster.storage.values() if area.use in FOR_WORK), key=lambda area: FOR_WORK.index(area.use)
    )
    paths = [f"{os.path.expandvars(area.path)} ({area.use})" for area in areas[:2]]
    return (
        f"below {' or '.join(paths)}" if paths else "where the nodes see it too: in your home, or on the site's scratch"
    )
