"""What a hospital's IT installs with: a hardened systemd unit, and a folder of wheels for machines without the internet."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal, TypeAlias

from aimer2 import __version__
from aimer2.core.errors import Conflict, NotAvailable
from aimer2.core.said import say
from aimer2.site.folder import SiteFolder

Process: TypeAlias = Literal["agent", "console"]
_COMMANDS: Final[dict[Process, tuple[str, str]]] = {"agent": ("aimer2-site", "run"), "console": ("aimer2-console", "console")}

# ProtectProc and ProcSubset would hide what a worker's libraries read; RestrictNamespaces would forbid the worker its empty network.
_UNIT: Final = """\
# AIMER2 {process} of this hospital. Copy to /etc/systemd/system/{name}.service, then:
#   systemctl daemon-reload && systemctl enable --now {name}
[Unit]
Description=AIMER2 site {process}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User={user}
Environment=AIMER2_SITE={folder}
# Environment=HTTPS_PROXY=http://proxy.hospital.example:3128
ExecStart={python} -I -m aimer2 site {command} --folder {folder}
Restart=always
RestartSec=5
KillMode=mixed
TimeoutStopSec=30
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={folder}
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
LimitCORE=0

[Install]
WantedBy=multi-user.target
"""

_INSTALL: Final = """\
#!/bin/sh
# Installs AIMER2 {version} from this folder alone; no network is used. Usage: sh install.sh [TARGET]   (default /opt/aimer2)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${{1:-/opt/aimer2}}
(cd "$here" && sha256sum --check --quiet SHA256SUMS)
{python} -m venv "$target"
"$target/bin/python" -m pip install --no-index --find-links "$here/wheels" --constraint "$here/constraints.txt" '{requirement}'
echo "Installed. Next: $target/bin/aimer2 site init INVITATION"
"""


def unit(folder: SiteFolder, user: str, process: Process = "agent") -> str:
    """A systemd unit that runs agent or console with as little of the machine as it needs; the console starts workers as the agent does."""
    name, command = _COMMANDS[process]
    return _UNIT.format(folder=folder.path, user=user, python=sys.executable, process=process, name=name, command=command)


def make_bundle(target: Path, extras: str, constraints: Path | None) -> None:
    """Wheels of this very version and of all that it needs, with an install script.

    Needs the package index once, here; made on the same kind of machine (Python, processor) as it is installed on. Raises Conflict where the
    folder exists, NotAvailable where a wheel cannot be had.
    """
    if target.exists():
        raise Conflict(say("{target} exists and is not overwritten.", target=target))
    wheels = target / "wheels"
    wheels.mkdir(parents=True)
    requirement = f"aimer2[{extras}]=={__version__}" if extras else f"aimer2=={__version__}"
    pins = target / "constraints.txt"
    pins.write_text(constraints.read_text(encoding="utf-8") if constraints else _freeze(), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--dest", str(wheels), "--constraint", str(pins), requirement]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        raise NotAvailable("pip could not fetch every wheel:\n" + "\n".join(told.stderr.strip().splitlines()[-5:]), remedy="Check the package index.")
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (target / "install.sh").write_text(_INSTALL.format(version=__version__, requirement=requirement, python=python), encoding="utf-8")
    write_sums(target)


def write_sums(target: Path) -> None:
    """`SHA256SUMS` over every file of the bundle."""
    from_here = sorted(path for path in target.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{_digest(path)}  {path.relative_to(target)}\n" for path in from_here]
    (target / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _freeze() -> str:
    told = subprocess.run([sys.executable, "-m", "pip", "freeze", "--exclude-editable"], capture_output=True, text=True, check=True)
    return "".join(f"{line}\n" for line in told.stdout.splitlines() if "==" in line and not line.startswith("aimer2"))
