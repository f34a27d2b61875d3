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


def in_container(image: str, package: str, binds: tuple[str, ...] = ()) -> Environment:
    """Started as the image's name suggests. `singularity` is also a name of Apptainer's command."""
    kind: Kind = "singularity"
    if image.endswith(".toml"):
        kind = "edf"
    elif image.endswith(".sqsh") or "#" in image or ":" in image.rsplit("/", 1)[-1]:
        kind = "pyxis"
    return Environment(kind=kind, image=image, package=package, binds=binds)
