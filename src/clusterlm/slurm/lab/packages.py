"""The programs that a lab starts, and the packages that have them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from clusterlm.errors import MissingPackage

WHERE_DAEMONS_ARE = ("/usr/sbin", "/sbin", "/usr/local/sbin")
"""Often not in the PATH of an ordinary user."""
PACKAGE_OF = {
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "scontrol": "slurm-wlm",
    "munged": "munge",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setsid": "util-linux",
    "slurmdbd": "slurmdbd",
    "sacctmgr": "slurm-wlm",
    "mariadbd": "mariadb-server",
    "mariadb": "mariadb-client-core",
}
BASIC = ("slurmctld", "slurmd", "scontrol", "munged", "setsid")
NETWORK = ("ip", "unshare", "nsenter")
ACCOUNTING = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb")
DEBIAN_PLUGINS = "*/slurm-wlm"


def search_path() -> str:
    """PATH, and where the daemons are."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *WHERE_DAEMONS_ARE])


def require_packages(*, network: bool, accounting: bool) -> None:
    """MissingPackage with the line that installs what is missing."""
    wanted = BASIC + (NETWORK if network else ()) + (ACCOUNTING if accounting else ())
    programs = [program for program in wanted if shutil.which(program, path=search_path()) is None]
    packages = [PACKAGE_OF[program] for program in programs]
    if accounting and _lacks_plugin():
        programs, packages = [*programs, "accounting_storage_mysql.so"], [*packages, "slurm-wlm-mysql-plugin"]
    if programs:
        raise MissingPackage(
            f"a lab needs {', '.join(programs)}",
            hint=f"apt-get install --no-install-recommends {' '.join(dict.fromkeys(packages))}\n"
            "      (as root, on Debian and Ubuntu; another distribution calls the packages otherwise)",
        )


def _lacks_plugin(libraries: Path = Path("/usr/lib")) -> bool:
    """On Debian it is a package of its own; elsewhere it comes with slurmdbd."""
    folders = list(libraries.glob(DEBIAN_PLUGINS))
    if not folders:
        return shutil.which("slurmdbd", path=search_path()) is None
    return not any((folder / "accounting_storage_mysql.so").exists() for folder in folders)
