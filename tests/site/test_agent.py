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
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import urllib3
from click.testing import CliRunner

from aimer2.audit.witness import compare
from aimer2.blobs.folder import FolderStore
from aimer2.cli.coordinator import coordinator
from aimer2.cli.site import site
from aimer2.core.study import Study
from aimer2.identity.invitations import Invitation
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.messages.package import digest as digest_of
from aimer2.site.folder import SiteFolder
from aimer2.site.reports import read_report
from aimer2.site.store import Store
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
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self.token = ""

    def command(self, group: str, *arguments: str, told: str = "", fails: bool = False) -> str:
        done = CliRunner().invoke({"site": site, "coordinator": coordinator}[group], arguments, input=told, env=self._environment())
        assert bool(done.exit_code) == fails, done.output + repr(done.exception)
        return done.output + repr(done.exception or "")

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

    def wait(self, happened: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))
            time.sleep(0.01)

    def has_package(self, study: str) -> bool:
        found = Store(self.site.state).study(study)
        return found is not None and found.package is not None

    def answers(self, study: str, columns: str = "task") -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.site.state) as state:
            return state.execute(f"SELECT {columns} FROM answers WHERE study = ? ORDER BY position", (study,)).fetchall()

    def noted(self, study: str) -> set[str]:
        """Tasks whose sums the site notes as delivered."""
        rows = self.answers(study, "task, delivered, answer")
        return {task for task, delivered, answer in rows if delivered is not None and json.loads(answer)["sums"]}

    def connections(self) -> int:
        """How often the agents so far have reached the coordinator."""
        log = self.folder / "north.log"
        return log.read_text().count("connected to the coordinator") if log.exists() else 0

    def workers(self) -> list[int]:
        found = subprocess.run(["pgrep", "-P", str(self.processes["north"].pid)], capture_output=True, text=True, check=False)
        return [int(line) for line in found.stdout.split()]

    def audited(self) -> list[str]:
        return [json.loads(line)["kind"] for line in self.site.audit.read_text().splitlines()]

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(10)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    lines = [f"patient-{number},{number % 17 - 8},{number % 5},{int(number % 17 > 8)}" for number in range(60)]
    try:
        made.set_up("id,age,chol,disease\n" + "\n".join(lines) + "\n")
        yield made
    finally:
        for name in reversed(list(made.processes)):
            made.stop(name, signal.SIGKILL)


@pytest.fixture(autouse=True)
def _no_agent_is_left(world: World) -> Iterator[None]:
    yield
    if "coordinator" not in world.processes:
        world.run_coordinator()
    if "north" in world.processes:
        world.stop("north")


def test_nothing_runs_before_a_named_person_has_approved_and_then_all_of_it(world: World, a_study: Callable[..., Study]) -> None:
    world.run_site()
    digest = world.submit(a_study())
    world.wait(lambda: world.has_package(digest))
    assert digest[:12] in world.command("site", "requests")
    shown = world.command("site", "show", digest[:8])
    assert digest in shown and "difference" in shown and "Dr Ada Test" in shown
    assert not world.answers(digest) and not world.site.log(digest).exists()

    world.command("site", "approve", digest[:8], "--by", "Dr Grace")
    world.wait(lambda: world.state(digest) == "finished")
    world.wait(world.site.report(digest).is_file)
    report = read_report(world.site, digest, SigningKey.load(world.site.key).public)
    assert report["decisions"][0]["by"] == "Dr Grace"
    assert [task["stage"] for task in report["tasks"]] == ["preflight", "train", "train", "train", "final"]
    assert report["tasks"][-1]["figures"]
    assert not world.site.blobs(digest).exists()
    assert "unbroken" in world.command("site", "audit", "verify")
    assert "connected" in world.command("site", "status")
    world.stop("north")
    assert {"study-offered", "study-approved", "task-finished", "update-sent", "report-written"} <= set(world.audited())
    assert world.audited()[-1] == "agent-stopped"


@pytest.fixture
def running(world: World) -> Iterator[World]:
    """The agent runs, and its hospital approves by rule."""
    world.site.policy.write_text(RULE)
    world.run_site()
    yield world
    world.site.policy.write_text("")


SLOW = """
import time
from dataclasses import dataclass
from aimer2.models.linear import Logistic

@dataclass(frozen=True)
class Slow:
    inner: Logistic
    def initial(self, rng): return self.inner.initial(rng)
    def predict(self, parameters, features): return self.inner.predict(parameters, features)
    def gradient(self, parameters, features, targets):
        open("training", "w").close()
        time.sleep({seconds})
        return self.inner.gradient(parameters, features, targets)

def build(features, classes):
    return Slow(Logistic(features))
"""


def slow(a_study: Callable[..., Study], name: str, rounds: int) -> Study:
    return a_study(name=name, model={"framework": "numpy", "code": "model.py"}, method={"name": "fedavg", "rounds": rounds})


def test_an_agent_that_is_killed_goes_on_where_it_was(running: World, a_study: Callable[..., Study]) -> None:
    digest = running.submit(slow(a_study, "killed-agent", 3), SLOW.format(seconds=0.2))
    running.wait(lambda: len(running.answers(digest)) >= 2)
    running.stop("north", signal.SIGKILL)
    before = running.answers(digest, "task, answer, finished")
    running.run_site()
    running.wait(lambda: running.state(digest) == "finished")
    assert running.answers(digest, "task, answer, finished")[: len(before)] == before
    assert "unbroken" in running.command("site", "audit", "verify")


def test_no_update_counts_as_delivered_before_its_sending_is_recorded(running: World, a_study: Callable[..., Study]) -> None:
    digest = running.submit(slow(a_study, "recorded", 3), SLOW.format(seconds=0.4))
    running.wait((running.site.study(digest) / "scratch" / "training").is_file)
    running.wait(lambda: running.noted(digest))
    noted = running.noted(digest)
    log = running.site.audit.read_text().splitlines()
    assert noted <= {entry["details"]["task"] for entry in map(json.loads, log) if entry["kind"] == "update-sent"}


def test_an_answer_computed_while_the_coordinator_is_away_is_sent_as_it_was_stored(running: World, a_study: Callable[..., Study]) -> None:
    digest = running.submit(slow(a_study, "away", 2), SLOW.format(seconds=0.5))
    running.wait((running.site.study(digest) / "scratch" / "training").is_file)
    running.stop("coordinator", signal.SIGKILL)
    running.wait(lambda: any("train" in row[0] for row in running.answers(digest)))
    stored = running.answers(digest, "task, answer, delivered")
    assert stored[-1][2] is None
    running.stop("north", signal.SIGKILL)
    running.run_site()
    running.run_coordinator()
    running.wait(lambda: running.state(digest) == "finished")
    assert running.answers(digest, "task, answer")[: len(stored)] == [row[:2] for row in stored]


def _holding(world: World, digest: str) -> list[tuple[str]]:
    """Tasks of the study at the coordinator that wait for the site."""
    with sqlite3.connect(world.folder / "coordinator" / "coordinator.sqlite") as database:
        return database.execute("SELECT id FROM tasks WHERE study = ? AND state = 'open'", (digest,)).fetchall()


def test_a_withdrawal_ends_the_worker_at_once_and_the_study_is_told(running: World, a_study: Callable[..., Study]) -> None:
    digest = running.submit(slow(a_study, "withdrawn", 2), SLOW.format(seconds=60))
    running.wait((running.site.study(digest) / "scratch" / "training").is_file)
    begun = time.monotonic()
    running.command("site", "withdraw", digest[:10], "--by", "Dr Grace", "--reason", "patients asked")
    running.wait(lambda: not running.workers())
    assert time.monotonic() - begun < 10
    assert not running.site.blobs(digest).exists()
    running.wait(lambda: _said(running, digest) == "withdraw")
    running.wait(lambda: not _holding(running, digest))
    assert "study-withdrawn" in running.audited()


def _said(world: World, digest: str) -> str:
    return str(world.ask("GET", f"/v1/studies/{digest}")["sites"][0]["decision"])


def test_a_task_that_nobody_waits_for_any_more_ends_its_worker(running: World, a_study: Callable[..., Study]) -> None:
    digest = running.submit(slow(a_study, "stopped", 2), SLOW.format(seconds=60))
    running.wait((running.site.study(digest) / "scratch" / "training").is_file)
    running.ask("POST", f"/v1/studies/{digest}/stop", {"final": True, "reason": "enough"})
    running.wait(lambda: not running.workers())


def test_no_worker_outlives_its_agent(running: World, a_study: Callable[..., Study]) -> None:
    digest = running.submit(slow(a_study, "orphan", 2), SLOW.format(seconds=60))
    running.wait((running.site.study(digest) / "scratch" / "training").is_file)
    workers = running.workers()
    assert workers
    running.stop("north", signal.SIGKILL)
    running.wait(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def test_a_hospital_freezes_its_site_and_thaws_it(running: World, a_study: Callable[..., Study]) -> None:
    digest = running.submit(slow(a_study, "frozen", 2), SLOW.format(seconds=60))
    running.wait((running.site.study(digest) / "scratch" / "training").is_file)
    begun = time.monotonic()
    running.command("site", "freeze", "an intruder", "--by", "Dr Grace")
    running.wait(lambda: not running.workers())
    # The coordinator is told that the task is refused, and need not wait; not why.
    running.wait(lambda: running.state(digest) == "paused")
    assert time.monotonic() - begun < 10
    reason = running.ask("GET", f"/v1/studies/{digest}")["reason"]
    assert "frozen" in reason and "intruder" not in reason
    running.wait(lambda: running.ask("GET", "/v1/sites")[0]["status"].get("frozen"))
    assert "Nothing runs" in running.command("site", "status")
    assert "frozen already" in running.command("site", "freeze", "again", "--by", "Dr Grace", fails=True)

    # Over a restart; a rule approves nothing meanwhile, and what a person approves does not run.
    running.stop("north", signal.SIGKILL)
    running.run_site()
    other = running.submit(a_study(name="meanwhile", method={"name": "fedavg", "rounds": 1}))
    running.wait(lambda: running.has_package(other))
    running.command("site", "approve", other[:10], "--by", "Dr Grace")
    running.wait(lambda: running.state(other) == "paused")
    assert not running.answers(other)
    running.command("site", "thaw", "it was a drill", "--by", "Dr Grace")
    running.ask("POST", f"/v1/studies/{other}/resume")
    running.wait(lambda: running.state(other) == "finished")
    running.ask("POST", f"/v1/studies/{digest}/stop", {"final": True})
    assert [kind for kind in running.audited() if kind in ("frozen", "thawed")] == ["frozen", "thawed"]


def test_a_freeze_of_the_coordinator_ends_the_workers_and_both_logs_hold_it(running: World, a_study: Callable[..., Study]) -> None:
    digest = running.submit(slow(a_study, "stopped-from-afar", 2), SLOW.format(seconds=60))
    running.wait((running.site.study(digest) / "scratch" / "training").is_file)
    running.command("coordinator", "freeze", "an incident elsewhere")
    running.wait(lambda: not running.workers())
    running.wait(lambda: "coordinator-frozen" in running.audited())
    running.command("coordinator", "thaw", "it is over")
    running.wait(lambda: "coordinator-thawed" in running.audited())
    running.ask("POST", f"/v1/studies/{digest}/stop", {"final": True})

    # The heads that the two have exchanged by now make them witnesses of each other.
    hub = running.folder / "coordinator" / "audit.jsonl"
    running.wait(lambda: '"kind":"head-received"' in hub.read_text())
    key = SigningKey.load(running.site.key).public
    running.wait(lambda: compare({hub: [], running.site.audit: [key]}).heads >= 2)
    theirs = SigningKey.load(running.folder / "coordinator" / "keys" / "signing.pem").public
    compared = compare({hub: [theirs], running.site.audit: [key]})
    assert compared.heads >= 4 and not compared.disagreements


def test_a_decision_without_an_agent_is_kept_and_sent_when_it_starts(world: World, a_study: Callable[..., Study]) -> None:
    world.run_site()
    digest = world.submit(a_study(name="later"))
    world.wait(lambda: world.has_package(digest))
    world.stop("north")
    assert "does not run" in world.command("site", "refuse", digest[:10], "--by", "Dr Grace", "--reason", "not now")
    assert _said(world, digest) == "waiting"
    with closing(sqlite3.connect(world.site.state)) as state, state:
        state.execute("DELETE FROM decisions WHERE study = ?", (digest,))  # as in a backup from before
    world.run_site()
    assert world.processes.pop("north").wait(60) != 0
    assert f"Study {digest[:12]}: refused by Dr Grace" in (world.folder / "north.log").read_text()
    assert "site recover" in world.command("site", "doctor", fails=True)
    assert "Taken again: 1" in world.command("site", "recover", "--by", "Dr Grace")
    world.run_site()
    world.wait(lambda: _said(world, digest) == "withdraw")
    assert "Conflict" in world.command("site", "key", "rotate", "--by", "Dr Grace", fails=True)
    world.stop("north")


def test_a_new_key_is_taken_and_the_log_goes_on(world: World) -> None:
    connected = world.connections()
    before = world.site.key.read_bytes()
    world.command("site", "key", "rotate", "--by", "Dr Grace")
    assert world.site.key.read_bytes() != before
    assert "unbroken" in world.command("site", "audit", "verify")
    told = world.command("site", "doctor")
    assert "known there as 'north'" in " ".join(told.split()) and "unbroken" in told
    world.run_site()
    world.wait(lambda: world.connections() > connected)
    assert "connected" in world.command("site", "status")
    world.stop("north")


def test_the_agent_is_small(world: World) -> None:
    connected = world.connections()
    world.run_site()
    pid = world.processes["north"].pid
    world.wait(lambda: world.connections() > connected)
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    assert resident < 120 * 1024
    loaded = Path(f"/proc/{pid}/maps").read_text()
    assert "torch" not in loaded and "pandas" not in loaded and "granian" not in loaded
    world.stop("north")


def test_a_personal_model_outlives_its_study_and_predicts(running: World, a_study: Callable[..., Study]) -> None:
    """Trained and chosen in the confined worker, kept by the agent when it erases all else, used by the command line."""
    digest = running.submit(a_study(method={"name": "ditto", "rounds": 2}, evaluation={"held_out": 0.3}))
    running.wait(lambda: running.state(digest) == "finished")
    running.wait(running.site.report(digest).is_file)
    assert not running.site.blobs(digest).exists()
    assert digest[:12] in running.command("site", "model", "list")
    assert "trained alone" in running.command("site", "model", "show", digest[:8])
    new = running.folder / "new.csv"
    new.write_text("age,chol\n8,1\n-8,1\n")
    told = running.command("site", "model", "predict", digest[:8], str(new))
    assert told.startswith("row,disease\n1,"), told
    high, low = (float(line.split(",")[1]) for line in told.splitlines()[1:3])
    assert high > 0.5 > low
    assert "model-kept" in running.audited()
