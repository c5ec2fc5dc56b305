"""A whole federation on this machine, each server a process of its own, over TLS on loopback: for the demo, the benchmarks and the tests."""

from __future__ import annotations

import io
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, final

from aimer2.cli.main import aimer2
from aimer2.cli.site_options import open_decisions
from aimer2.client.coordinator import Coordinator
from aimer2.core.errors import Unreachable
from aimer2.identity.invitations import Invitation
from aimer2.identity.secret_files import write_secret
from aimer2.site.address_book import introduce
from aimer2.site.balance import Budget
from aimer2.site.folder import SiteFolder
from aimer2.site.ledger import Ledgers

RESEARCHER = "demo-researcher"
_READY_SECONDS = 30


@final
@dataclass(frozen=True, slots=True)
class Hospital:
    """One site: its rows as a file (or the index of its images), how they are read, what its policy approves."""

    name: str
    file: Path
    mapping: str
    policy: str
    names: Sequence[str] | None = None
    kind: Literal["csv", "images", "npz"] = "csv"


@final
class Federation:
    """Starts and ends the processes; every step is the command that a person would give."""

    def __init__(self, folder: Path, *, outlives_us: bool = False) -> None:
        """``outlives_us``: the processes go on when this one has ended."""
        self.folder = folder
        self._bound = () if outlives_us else ("--parent", str(os.getpid()))
        # To the kernel a parent is the thread that starts a process: one that lives as long as we do.
        self._starter = ThreadPoolExecutor(1, "starter")
        self.port = _free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.password = secrets.token_urlsafe(12)
        self._pin: Invitation | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def site(self, name: str) -> Path:
        return self.folder / name

    def make_coordinator(self, name: str = "Coordinator") -> None:
        """`coordinator init` and a researcher's account."""
        self.command("coordinator", "init", "--name", name, "--port", str(self.port), "--host", "127.0.0.1", "--url", self.url)
        password = self.folder / f"{RESEARCHER}.password"
        write_secret(password, self.password.encode())
        self.command("coordinator", "user", "add", RESEARCHER, "--role", "researcher", "--password-file", str(password))
        password.unlink()

    def run_coordinator(self) -> None:
        """Starts it, and returns when it answers."""
        self.start("coordinator", "coordinator", "run")
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and self.processes["coordinator"].poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise Unreachable("The coordinator did not start.", remedy=f"Look into {self.log('coordinator')}.")

    def make_sites(self, hospitals: Sequence[Hospital], *, strangers: bool = False) -> None:
        """Invites and enrols every hospital; each adds its data set, sets its policy, and takes the others' keys from their folders.

        ``strangers``: no site has verified another's key, as after real enrolments.
        """
        for hospital in hospitals:
            self.command("site", "init", self.invite(hospital.name), "--folder", str(self.site(hospital.name)))
            self._add_dataset(hospital)
            (self.site(hospital.name) / "policy.toml").write_text(hospital.policy, encoding="utf-8")
        if not strangers:
            self.introduce_sites([hospital.name for hospital in hospitals])

    def introduce_sites(self, names: Sequence[str]) -> None:
        """What the hospitals' people do by telephone: here one person is at all of them, and carries the keys past the coordinator."""
        decisions = [open_decisions(SiteFolder(self.site(name))) for name in names]
        introduce([each.address_book for each in decisions], by="Demo Person")
        for each in decisions:
            each.store.close()

    def set_budgets(self, names: Sequence[str], dataset: str, budget: Budget) -> None:
        """What a hospital's two responsible people do once for a data set: one proposes its privacy budget, the other confirms it."""
        for name in names:
            site = open_decisions(SiteFolder(self.site(name)))
            ledger = Ledgers(site.folder, site.key, site.audit, site.clock).own(dataset)
            ledger.propose(budget, by="Dr Ines Vogt")
            ledger.confirm(budget, by="Dr Otto Lang")
            site.store.close()

    def invite(self, site: str) -> str:
        told = self.command("coordinator", "invite", site)
        text = next(word for word in told.split() if word.startswith("aimer2-invite"))
        self._pin = Invitation.from_text(text)
        return text

    def run_site(self, name: str) -> None:
        self.start(name, "site", "run", "--folder", str(self.site(name)))

    def researcher(self) -> Coordinator:
        """The researcher's client, logged in."""
        if self._pin is None:
            self.invite("nobody")
        assert self._pin is not None
        client = Coordinator(self.url, fingerprint=self._pin.fingerprint, key=self._pin.coordinator_key)
        client.login(RESEARCHER, self.password)
        return client

    def command(self, *arguments: str) -> str:
        """Gives one command, in this process, and returns what it prints."""
        where = ("--folder", str(self.folder / "coordinator")) if arguments[0] == "coordinator" else ()
        told = io.StringIO()
        with redirect_stdout(told), redirect_stderr(io.StringIO()):
            aimer2.main([arguments[0], *where, *arguments[1:]], prog_name="aimer2", standalone_mode=False)
        return told.getvalue()

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A server process that lives until `stop`, its words in a log file."""
        self.processes[name] = self._starter.submit(self._begin, name, self._command(*arguments, *self._bound)).result()
        return self.processes[name]

    def _begin(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with open(self.log(name), "ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(), start_new_session=True)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def kill(self, name: str) -> None:
        """At once, as a power cut would."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Ends all processes; the sites first, so that they can say goodbye."""
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def _add_dataset(self, hospital: Hospital) -> None:
        mapping = self.folder / f"{hospital.name}.mapping.toml"
        mapping.write_text(hospital.mapping, encoding="utf-8")
        header = ["--names", ",".join(hospital.names)] if hospital.names else []
        where = ["--folder", str(self.site(hospital.name)), f"--{hospital.kind}", str(hospital.file), "--mapping", str(mapping)]
        self.command("site", "dataset", "add", "registry", *where, *header)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "aimer2", *arguments]

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, "AIMER2_COORDINATOR": str(self.folder / "coordinator"), "OMP_NUM_THREADS": "1"}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
