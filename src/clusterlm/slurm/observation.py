"""Observation: all that a cluster's Slurm says of itself and of one user, read at once."""

from __future__ import annotations

import datetime
import getpass
from dataclasses import dataclass, replace

from clusterlm.errors import SlurmError
from clusterlm.slurm import client
from clusterlm.slurm.values import Association, Qos, SlurmNode, SlurmPartition

KEEPS_ACCOUNTS = "accounting_storage/slurmdbd"


@dataclass(frozen=True)
class Observation:
    """All that Slurm says of itself at one moment."""

    cluster_name: str
    version: str
    date: str
    user: str
    nodes: tuple[SlurmNode, ...]
    partitions: tuple[SlurmPartition, ...]
    always_whole_nodes: bool
    """This Slurm gives nothing but whole nodes."""
    highest_weight_counts: bool
    """Billing is the highest of the weighted resources, not their sum."""
    accounts_enforced: bool
    """Every job must be charged to an account."""
    qos: tuple[Qos, ...] = ()
    associations: tuple[Association, ...] = ()
    default_account: str | None = None
    asked: tuple[str, ...] = ("scontrol",)
    """Commands that answered."""
    silent: str | None = None
    """Why accounting could not be asked, where it is kept."""

    @property
    def default_qos(self) -> str:
        ordered = sorted(self.associations, key=lambda association: association.account != self.default_account)
        named = (association.default_qos for association in ordered if association.default_qos)
        return next(named, "normal")  # Slurm's own default


def observe() -> Observation:
    """SlurmError where there is no Slurm or it does not answer; without accounting its part is left out."""
    settings = client.configuration()
    seen = Observation(
        cluster_name=client.name_in(settings),
        version=settings.get("SLURM_VERSION", "of an unknown version"),
        date=datetime.date.today().isoformat(),
        user=getpass.getuser(),
        nodes=client.nodes(),
        partitions=client.partitions(),
        always_whole_nodes=settings.get("SelectType") == "select/linear",
        highest_weight_counts="MAX_TRES" in settings.get("PriorityFlags", ""),
        accounts_enforced="associations" in settings.get("AccountingStorageEnforce", ""),
    )
    if settings.get("AccountingStorageType") != KEEPS_ACCOUNTS:
        return seen
    return _with_accounting(seen)


def _with_accounting(seen: Observation) -> Observation:
    try:
        return replace(
            seen,
            qos=client.qos(),
            associations=client.associations(seen.user, seen.cluster_name),
            default_account=client.default_account(seen.user),
            asked=("scontrol", "sacctmgr"),
        )
    except SlurmError as problem:
        return replace(seen, silent=problem.problem)
