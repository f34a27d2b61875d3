"""Cluster, NodeType, Partition: what a site offers and asks for, as its profile (clusters/NAME.toml) has it.

Every table of a profile names its `source`, a key of `sources`, and in `unverified` those of its fields that are widely
stated but were not seen in a source that was read. docs/reference/cluster-file.md explains every field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from clusterlm.units import slurm_seconds

Gres = Literal["gpus-per-node", "typed", "untyped"]
"""`--gpus-per-node=4`, `--gres=gpu:v100:4`, `--gres=gpu:4`."""
Purpose = Literal["batch", "test", "interactive"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A text that facts were read in."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    title: str
    url: str = ""
    date: str
    """Of the text, as YYYY-MM or YYYY-MM-DD; of the reading where the text has none."""


@dataclass(frozen=True, kw_only=True)
class Sourced:
    """A table of facts: where they are from, and which of them nobody confirmed."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    source: str
    """A key of the profile's `sources`."""
    other_sources: dict[str, str] = field(default_factory=dict, hash=False)
    """Fields of this table that another source has: field = key of `sources`."""
    unverified: tuple[str, ...] = ()
    """Fields of this table that no source that was read confirms."""


@dataclass(frozen=True, kw_only=True)
class NodeType(Sourced):
    """Nodes that are alike: their GPUs, and what a job gets of them."""

    gpu: str
    """A key of gpus.toml; "any": whatever the user names."""
    gpus: int
    """As Slurm counts them: a GCD where the site's Slurm says GPU to a GCD."""
    unit: str = "GPU"
    """What one of them is called: GPU, or GCD."""
    gres_type: str | None = None
    """The type in `--gres=gpu:TYPE:N`, to the letter."""
    count: int | None = None
    """Nodes of this type."""
    architecture: Literal["x86_64", "aarch64"] = "x86_64"
    cores: int | None = None
    """That a job may use."""
    cpus: int | None = None
    """As Slurm counts them, where that is not `cores`: hardware threads."""
    cores_per_gpu: int | None = None
    """Most that a job gets for each GPU; None where a job may take any share of the node."""
    host_memory_gib: float | None = None
    """That jobs may use of one node, rounded down."""
    host_memory_per_gpu_gib: float | None = None
    """Most that a job gets for each GPU; None where it may take any share of the node."""
    local_disk_gib: float | None = None
    """Of $TMPDIR."""
    constraint: str | None = None
    """For `--constraint`, where the partition alone does not select the type."""
    nodelist: str | None = None
    """For `--nodelist`, where only the name of a node selects the type."""
    gpu_link_gb_per_second: float | None = None
    """From one GPU to the others of its node, one direction; None: as the GPU usually has it."""
    network_gb_per_second: float | None = None
    """From one node into the network, one direction."""
    network_interface: str | None = None
    """For NCCL and Gloo."""
    billing_units_per_gpu_hour: float | None = None


@dataclass(frozen=True, kw_only=True)
class Partition(Sourced):
    """Where jobs are queued: its limits, and the nodes in it."""

    nodes: tuple[str, ...]
    """Node types in it; a job uses one of them."""
    limit: str | None = None
    """Longest time, as Slurm writes it: 2-00:00:00, 36:00:00, 15:00, UNLIMITED; None: not known."""
    purpose: Purpose = "batch"
    partition: str | None = None
    """For `--partition`; None: the table's name, "": none is asked for."""
    qos: str | None = None
    """For `--qos`."""
    whole_nodes: bool = False
    """Jobs get and pay whole nodes."""
    min_gpus: int = 1
    max_gpus: int | None = None
    min_nodes: int = 1
    max_nodes: int | None = None
    max_running: int | None = None
    max_submitted: int | None = None
    rule: str | None = None
    """What else the site asks of a job here, in a sentence."""

    @cached_property
    def limit_seconds(self) -> int | None:
        """None: no limit, or none that is known."""
        return None if self.limit is None else slurm_seconds(self.limit)


@dataclass(frozen=True, kw_only=True)
class Request(Sourced):
    """How the site's Slurm wants to be asked."""

    gres: Gres = "gpus-per-node"
    account: bool = False
    """--account is needed."""
    account_name: str | None = None
    """The one account that all jobs use."""
    memory: bool = True
    """--mem may be given; elsewhere the site sets it."""
    partial_nodes: bool = True
    """A job on several nodes may take a part of each."""
    short_job_hours: float | None = None
    """Jobs up to this long have nodes of their own, and start sooner."""


@dataclass(frozen=True, kw_only=True)
class Billing(Sourced):
    """What the site counts, and how."""

    unit: str
    """BU, SBU, GPU-hour ...; what one costs per GPU and hour stands with each node type."""
    rule: str = ""


@dataclass(frozen=True, kw_only=True)
class Storage(Sourced):
    """One place for files: its quota, and when it is cleaned."""

    path: str
    use: Literal["home", "project", "scratch", "fast", "local"]
    quota_gib: float | None = None
    quota_files: int | None = None
    purge_days: int | None = None
    read_gb_per_second: float | None = None
    """One node's client, large files."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Software(Sourced):
    """Modules and containers that have torch."""

    modules: tuple[str, ...] = ()
    """`module load` these, in order; an entry with a blank is a whole `module` command, such as `use /path`."""
    container: str | None = None
    binds: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Access(Sourced):
    """What its nodes reach, and by which names a machine of the cluster is known."""

    internet: bool | None = None
    """Compute nodes reach the internet; None: not known."""
    login_limit: str = ""
    """What a login node allows, in a sentence."""
    cluster_names: tuple[str, ...] = ()
    """Slurm's ClusterName, for `--on auto`."""
    hosts: tuple[str, ...] = ()
    """Names of its hosts, with * and ?, for `--on auto`."""


@dataclass(frozen=True, kw_only=True)
class Cluster(Sourced):
    """`source` is that of title, site, status, until and successor."""

    name: str
    """The file's own name."""
    title: str
    site: str = ""
    """Who runs it, and in which country."""
    status: Literal["current", "retired"] = "current"
    until: str | None = None
    """Last day of service, where it is known."""
    successor: str | None = None
    slurm: bool = True
    sources: dict[str, Source]
    nodes: dict[str, NodeType]
    partitions: dict[str, Partition]
    request: Request
    access: Access
    billing: Billing | None = None
    storage: dict[str, Storage] = field(default_factory=dict)
    software: Software | None = None
    checked: str = ""
    """By whom and when the profile was compared with the site's Slurm; empty: never."""
    notes: tuple[str, ...] = ()
    """What else a user of this cluster should know, in sentences."""
