"""A real coordinator and real agents as processes on loopback, over TLS."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from aimer2.blobs.folder import FolderStore
from aimer2.core.study import Study
from aimer2.identity.invitations import Invitation
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.messages.package import digest as digest_of
from aimer2.site.folder import SiteFolder
from aimer2.site.reports import read_report
from aimer2.study.pack import pack

RULE = '[[rule]]\nname = "all of heart"\nset_by = "Dr Rule"\ndecision = "approve"\ndatasets = ["heart"]\nallow_code = true\n'
ENTRY = "import sys\nfrom aimer2.cli.{group} import {group}\n{group}(sys.argv[1:], standalone_mode=False)"


class World:
    """One coordinator, one researcher, one hospital called north."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.url = f"https://127.0.0.1:{probe.getsockname()[1]}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.site = SiteFolder(folder / "north")
        self.pool = urllib3.PoolManager(cert_reqs="CERT_NONE")
        self.token = ""

    def command(self, group: str, *arguments: str, told: str = "", fails: bool = False) -> str:
        done = subprocess.run(self._command(group, *arguments), input=told.encode(), capture_output=True, env=self._environment(), check=False)
        assert bool(done.returncode) == fails, done.stderr.decode()
        return (done.stdout + done.stderr).decode()

    def start(self, name: str, group: str, *arguments: str) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(self._command(group, *arguments), stdout=log, stderr=log, env=self._environment())

    def _command(self, group: str, *arguments: str) -> list[str]:
        return [sys.executable, "-c", ENTRY.format(group=group), *arguments]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "AIMER2_COORDINATOR": str(self.folder / "coordinator"), "AIMER2_SITE": str(self.site.path)}

    def set_up(self, rows: str) -> None:
        port = self.url.rpartition(":")[2]
        self.command("coordinator", "init", "--port", port, "--url", self.url)
        self.command("coordinator", "user", "add", "ada", "--role", "researcher", "--password-file", "-", told="correct horse battery")
        self.run_coordinator()
        text = next(word for word in self.command("coordinator", "invite", "north").split() if word.startswith("aimer2-invite"))
        assert Invitation.from_text(text).site == "north"
        self.command("site", "init", text)
        (self.folder / "heart.csv").write_text(rows)
        told = self.command("site", "dataset", "add", "heart", "--csv", str(self.folder / "heart.csv"), "--patient", "id")
        assert "60 patients" in told
        self.token = self.ask("POST", "/v1/sessions", {"user": "ada", "password": "correct horse battery"})["access_token"]

    def run_coordinator(self) -> None:
        self.start("coordinator", "coordinator", "run")
        self.wait(self._answers)

    def _answers(self) -> bool:
        try:
            return self.pool.request("GET", self.url + "/health", retries=False, timeout=1).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def run_site(self) -> None:
        self.start("north", "site", "run")

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        given = {"Authorization": f"Bearer {self.token}", **headers}
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        response = self.pool.request(method, self.url + path, body=content, headers=given)
        assert response.status < 300, response.data
        return json.loads(response.data) if response.data else None

    def submit(self, study: Study, code: str | None = None) -> str:
        place = self.folder / "researcher"
        place.mkdir(exist_ok=True)
        if code is not None:
            (place / "model.py").write_text(code)
        blobs = FolderStore(place / "blobs")
        roster = {entry["site"]: entry["key"] for entry in self.ask("GET", "/v1/sites")}
        package: Package = pack(study, place, roster, blobs)
        for ref in (package.initial, *package.files.values()):
            data = bytes(blobs.open(ref).view())
            self.ask("PUT", f"/v1/blobs/{ref.sha256}", data, **{"Upload-Offset": "0", "Upload-Length": str(len(data))})
        self.ask("POST", "/v1/studies", package.model_dump(mode="json"))
        return digest_of(package)

    def state(self, digest: str) -> str:
        return str(self.ask("GET", f"/v1/studies/{digest}")["state"])

    def wait(self, happened: Callable[[], object], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))
            time.sleep(0.01)

    def answers(self, columns: str = "task") -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.site.state) as state:
            return state.execute(f"SELECT {columns} FROM answers ORDER BY position").fetchall()

    def audited(self) -> list[str]:
        return [json.loads(line)["kind"] for line in self.site.audit.read_text().splitlines()]

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(10)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    lines = [f"patient-{number},{number % 17 - 8},{number % 5},{int(number % 17 > 8)}" for number in range(60)]
    try:
        made.set_up("id,age,chol,disease\n" + "\n".join(lines) + "\n")
        yield made
    finally:
        for name in reversed(list(made.processes)):
            made.stop(name, signal.SIGKILL)


def test_nothing_runs_before_a_named_person_has_approved_and_then_all_of_it(world: World, a_study: Callable[..., Study]) -> None:
    world.run_site()
    digest = world.submit(a_study())
    world.wait(lambda: digest[:12] in world.command("site", "requests"))
    world.wait((world.site.study(digest) / "files" / "study.json").is_file)
    shown = world.command("site", "show", digest[:8])
    assert digest in shown and "difference" in shown and "Dr Ada Test" in shown
    assert not world.answers() and not world.site.log(digest).exists()

    world.command("site", "approve", digest[:8], "--by", "Dr Grace")
    world.wait(lambda: world.state(digest) == "finished")
    world.wait(world.site.report(digest).is_file)
    report = read_report(world.site, digest, SigningKey.load(world.site.key).public)
    assert report["decisions"][0]["by"] == "Dr Grace"
    assert [task["stage"] for task in report["tasks"]] == ["preflight", "train", "train", "train", "final"]
    assert report["tasks"][-1]["figures"]
    assert not world.site.blobs(digest).exists()
    assert "unbroken" in world.command("site", "audit", "verify")
    assert {"study-offered", "study-approved", "task-finished", "update-sent", "report-written"} <= set(world.audited())
    assert "connected" in world.command("site", "status")
    world.stop("north")
    assert world.audited()[-1] == "agent-stopped"
