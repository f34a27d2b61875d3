"""Environment: in what the worker runs on the nodes: modules, a container, settings of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["none", "apptainer", "singularity", "pyxis", "edf", "uenv"]
"""Who starts the container: the command of this name, or srun: --container-image, --environment, --uenv."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """By itself: the modules of the cluster's profile, and no container."""

    kind: Kind = "none"
    image: str | None = None
    """A file, an address, an Environment Definition File or a uenv, as `kind` takes it."""
    python: str = "python3"
    """Of the container."""
    package: str = ""
    """The folder of clusterlm itself, which the container sees without its neighbours on the host."""
    binds: tuple[str, ...] = ()
    """Folders that the container sees besides the run's and the models'."""
    modules: tuple[str, ...] | None = None
    """Instead of the profile's, and as those; None: the profile's."""
    exports: tuple[tuple[str, str], ...] = ()
    """Variables and their values, which win over what clusterlm would set."""

    @property
    def in_container(self) -> bool:
        return self.kind != "none"
