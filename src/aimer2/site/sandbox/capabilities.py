"""What this machine can enforce on a worker, found out by trying it on a process made for that."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

from aimer2.site.sandbox.confine import Confinement, confine

CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
SECONDS_TO_PROBE: Final = 30


@final
@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this machine can enforce. ``landlock`` is the interface version in force, 0 for none."""

    seccomp: bool
    landlock: int
    namespaces: bool
    user_switch: bool

    def describe(self) -> list[str]:
        """One sentence for each, with what to do where something is missing."""
        return [
            "seccomp: yes, a worker can't open a socket."
            if self.seccomp
            else "seccomp: NO, a worker could use the network; use Linux 5.0 or later on x86_64 or aarch64, outside of gVisor.",
            self._about_landlock(),
            "Network namespaces: yes, a worker gets a network without interfaces on top."
            if self.namespaces
            else "Network namespaces: no; seccomp alone keeps the network away. Allow unprivileged user namespaces to add them.",
            "User switch: yes, a worker can run as a user of its own."
            if self.user_switch
            else "User switch: no, workers run as the agent's user. Start the agent with CAP_SETUID and CAP_SETGID to add it.",
        ]

    def _about_landlock(self) -> str:
        if self.landlock == 0:
            return "Landlock: NO, a worker could read all that the agent's user may; use Linux 5.13 or later with landlock in its LSM list."
        if self.landlock < 6:
            return f"Landlock: version {self.landlock}, files are protected; signals to other processes only from version 6 (Linux 6.12)."
        return f"Landlock: version {self.landlock}, files and signals are protected."


NOTHING: Final = Capabilities(seccomp=False, landlock=0, namespaces=False, user_switch=False)


def capabilities() -> Capabilities:
    """Try everything on a child process; the caller stays as it is. A child that does not survive the attempt counts as nothing."""
    try:
        probed = subprocess.run(
            [sys.executable, "-P", "-m", "aimer2.site.sandbox"], capture_output=True, text=True, check=False, timeout=SECONDS_TO_PROBE
        )
    except subprocess.TimeoutExpired:
        return NOTHING
    return NOTHING if probed.returncode else Capabilities(**json.loads(probed.stdout))


def probe() -> Capabilities:
    """Confine the calling process for good and see what then really fails; only for the child that `capabilities` makes."""
    user_switch = _may_switch_user()
    enforced = confine(Confinement(namespaces=True))
    return Capabilities(
        seccomp=enforced.network != "none" and _no_socket(),
        landlock=enforced.files if _no_file() else 0,
        namespaces=enforced.network == "seccomp+namespace",
        user_switch=user_switch,
    )


def main() -> None:
    sys.stdout.write(json.dumps(asdict(probe())))


def _no_socket() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except PermissionError:
        return True
    return False


def _no_file() -> bool:
    try:
        Path(__file__).read_bytes()
    except PermissionError:
        return True
    return False


def _may_switch_user() -> bool:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return False
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return all(effective >> capability & 1 for capability in (CAP_SETGID, CAP_SETUID))
