"""Accounting of a lab: MariaDB without a network, slurmdbd, an account that everyone of the lab may charge."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from clusterlm.errors import SlurmError
from clusterlm.slurm import client
from clusterlm.slurm.lab import machines
from clusterlm.slurm.lab.daemons import answers, failed, logged_in, start, wait_until
from clusterlm.slurm.lab.layout import Layout

SYSTEM_TABLES = ("/usr/share/mysql", "/usr/share/mariadb")
"""Where MariaDB's own tables are described: slurmdbd needs that of procedures. A whole installation takes 5 s."""
ACCOUNTS = ("proj", "other")
QOS = ("low Priority=0 PreemptMode=requeue GraceTime=5", "high Priority=1000 Preempt=low,normal")


def start_accounting(layout: Layout, users: Iterable[str]) -> None:
    """Before the controller starts: it asks for the accounts."""
    start(layout, "mariadbd", ["setsid", "--fork", "mariadbd", f"--defaults-file={layout.mariadb_conf}"])
    connects = partial(answers, socket.AF_UNIX, str(layout.database_socket))
    wait_until(connects, lambda: failed(layout, "mariadbd", "MariaDB does not answer"))
    _make_system_tables(layout)
    by_socket = {"MYSQL_UNIX_PORT": str(layout.database_socket), "SLURM_CONF": str(layout.slurm_conf)}
    start(layout, "slurmdbd", ["slurmdbd"], layout.controller, **by_socket)
    connects = partial(answers, socket.AF_INET, (layout.controller.address, layout.accounting_port))
    wait_until(connects, lambda: failed(layout, "slurmdbd", "slurmdbd does not answer"))
    _fill(layout, users)


def _make_system_tables(layout: Layout) -> None:
    files = [Path(folder) / "mysql_system_tables.sql" for folder in SYSTEM_TABLES]
    tables = next((file for file in files if file.exists()), None)
    if tables is None:
        raise SlurmError("MariaDB's mysql_system_tables.sql is missing", where=", ".join(SYSTEM_TABLES))
    statements = "create database mysql; use mysql; set @auth_root_socket = null;\n" + tables.read_text()
    command = ["mariadb", "--no-defaults", f"--socket={layout.database_socket}"]
    done = subprocess.run(
        command, input=statements, env=machines.settings(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SlurmError(f"the database refuses its tables: {done.stderr.strip()}", where=str(tables))


def _fill(layout: Layout, users: Iterable[str]) -> None:
    cluster = layout.cluster
    commands = [f"add cluster {cluster}", *(f"add qos {qos}" for qos in QOS)]
    commands += [f"add account {','.join(ACCOUNTS)} Cluster={cluster} QOS=normal,low,high"]
    commands += [f"add user {','.join(users)} Account={ACCOUNTS[0]} DefaultAccount={ACCOUNTS[0]} Cluster={cluster}"]
    with logged_in(layout):
        for command in commands:
            client.ask("sacctmgr", "--immediate", *command.split())
