"""The freeze, and the audit log with the heads of sites' logs in it: a real coordinator, and sites that speak its wire."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from serving import Client, Server, SiteClient, answer_of, enrolled, eventually, package_of, person, state_of, submit

from aimer2.audit.heads import SignedHead, sign_head
from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.audit.verify import verify
from aimer2.audit.witness import compare
from aimer2.core.clock import SystemClock, rfc3339
from aimer2.core.errors import Tampered
from aimer2.identity.keys import PublicKey, SigningKey


@pytest.fixture(scope="module")
def anna(own: Server) -> Client:
    return person(own, "anna", "researcher")


@pytest.fixture(scope="module")
def olga(own: Server) -> Client:
    return person(own, "olga", "operator")


@pytest.fixture
def pair(own: Server, new_name: Callable[[str], str]) -> list[SiteClient]:
    return [enrolled(own, new_name(name)) for name in ("north", "south")]


def audited(server: Server, kind: Kind) -> list[dict[str, Any]]:
    lines = (server.folder / "audit.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def test_a_freeze_stops_everything_at_once_outlives_kill_9_and_is_lifted(own: Server, anna: Client, olga: Client, pair: list[SiteClient]) -> None:
    running, waiting = submit(anna, pair), submit(anna, pair, name="waiting")
    for site in pair:
        assert site.decide(running).status == 204
    tasks = [site.wait_for_tasks()[0] for site in pair]
    held = [f"{task.id}/{task.attempt}" for task in tasks]
    heard: list[tuple[float, Any]] = []

    def listen() -> None:
        answered = pair[0].exchange(holding=(held[0],), wait=30)
        heard.append((time.monotonic(), answered))

    line = threading.Thread(target=listen)
    line.start()
    eventually(lambda: {site["site"]: site for site in anna.get("/v1/sites")}[pair[0].name]["online"])
    assert anna.call("POST", "/v1/freeze", {"reason": "not mine to do"}).status == 403
    begun = time.monotonic()
    frozen = olga.post("/v1/freeze", {"reason": "a stolen laptop"})
    line.join(10)
    assert (frozen["frozen"], frozen["by"], frozen["reason"]) == (True, "olga", "a stolen laptop")
    # On the open line: the task is taken back, and why; well before the line's own end.
    moment, answered = heard[0]
    assert moment - begun < 5
    told = [answered, pair[0].exchange(wait=0, holding=(held[0],))]
    assert any(held[0] in one.get("withdrawn", ()) for one in told)
    assert any("stolen laptop" in one.get("frozen", "") for one in told)

    summary = anna.get(f"/v1/studies/{running}")
    assert (summary["state"], summary["reason"]) == ("paused", "Frozen by olga: a stolen laptop")
    assert anna.post(f"/v1/studies/{running}/resume", status=403)["code"] == "frozen"
    assert anna.get("/health")["status"] == "frozen"
    assert "aimer2_frozen 1.0" in anna.call("GET", "/metrics").data.decode()
    assert olga.post("/v1/freeze", {"reason": "once more"}, 409)["code"] == "conflict"

    own.kill()
    own.start()
    assert anna.get("/v1/freeze")["reason"] == "a stolen laptop"
    # An answer that was under way is taken in without harm; no task comes; approvals are kept and start nothing.
    pair[1].exchange(answer_of(pair[1], tasks[1])[0], wait=0)
    for site in pair:
        assert site.decide(waiting).status == 204
        assert "tasks" not in site.exchange(wait=0)
    assert state_of(anna, waiting) == "offered"
    assert anna.post("/v1/studies", package_of(pair, anna.upload(b"x"))[0].model_dump(mode="json"), 403)["code"] == "frozen"

    # Lifted from the command line, without a word to the process: it sees that by itself.
    own.command("thaw", "the laptop is wiped")
    eventually(lambda: state_of(anna, waiting) == "running")
    assert state_of(anna, running) == "paused"
    assert anna.post(f"/v1/studies/{running}/resume")["state"] == "running"
    assert pair[0].wait_for_tasks()
    assert audited(own, Kind.FROZEN)[-1]["details"] == {"reason": "a stolen laptop", "studies": 1, "paused": [running]}
    assert audited(own, Kind.THAWED)[-1]["details"] == {"reason": "the laptop is wiped"}
    for study in (running, waiting):
        anna.post(f"/v1/studies/{study}/stop", {"final": True})


def test_a_freeze_from_the_command_line_reaches_the_running_process(own: Server, anna: Client, pair: list[SiteClient]) -> None:
    study = submit(anna, pair)
    for site in pair:
        site.decide(study)
    pair[0].wait_for_tasks()
    assert "1 running studies are paused" in own.command("freeze", "an alarm at night")
    eventually(lambda: "alarm" in anna.get("/v1/freeze")["reason"])
    assert state_of(anna, study) == "paused"
    assert "tasks" not in pair[0].exchange(wait=0)
    own.command("thaw", "a false alarm")
    eventually(lambda: not anna.get("/v1/freeze")["frozen"])
    anna.post(f"/v1/studies/{study}/stop", {"final": True})


def test_that_a_hospital_has_frozen_its_site_is_shown_and_recorded(own: Server, anna: Client, pair: list[SiteClient]) -> None:
    site = pair[0]
    site.post("/v1/exchange", {"wait_seconds": 0, "status": {"version": "1", "frozen": True}})
    eventually(lambda: [entry for entry in audited(own, Kind.SITE_FROZEN) if entry["actor"] == site.name])
    assert {one["site"]: one for one in anna.get("/v1/sites")}[site.name]["status"]["frozen"]
    site.post("/v1/exchange", {"wait_seconds": 0, "status": {"version": "1"}})
    eventually(lambda: [entry for entry in audited(own, Kind.SITE_THAWED) if entry["actor"] == site.name])


def test_heads_are_exchanged_and_both_logs_verify_against_each_other(own: Server, olga: Client, pair: list[SiteClient], tmp_path: Path) -> None:
    site, other = pair
    mine = AuditLog(tmp_path / "north.jsonl", site.key, SystemClock())

    def signed(key: SigningKey, name: str) -> dict[str, Any]:
        return asdict(sign_head(name, mine.head(), time=rfc3339(time.time()), key=key))

    for number in range(3):
        mine.append(Kind.TASK_FINISHED, actor="agent", details={"number": number})
        theirs = SignedHead(**site.post("/v1/audit/heads", signed(site.key, site.name)))
        key = PublicKey.from_text(site.coordinator_key)
        theirs.check(key)
        mine.append(Kind.HEAD_RECEIVED, actor="hub", details=theirs.details())
    # Neither under another's key nor for another's log.
    assert site.post("/v1/audit/heads", signed(other.key, site.name), 409)["code"] == "tampered"
    assert site.post("/v1/audit/heads", signed(site.key, other.name), 403)["code"] == "not-allowed"
    assert olga.call("POST", "/v1/audit/heads", signed(site.key, site.name)).status == 403

    copy = tmp_path / "hub.jsonl"
    copy.write_bytes(olga.call("GET", "/v1/audit").data)
    assert verify(copy, key).intact
    logs = {copy: [key], tmp_path / "north.jsonl": [site.key.public]}
    assert (compare(logs).heads, compare(logs).disagreements) == (6, ())
    # The coordinator's operator, who has its key, writes a log without fault that lacks one entry: the site's log tells.
    forger, forged = SigningKey.load(own.folder / "keys" / "signing.pem"), tmp_path / "forged.jsonl"
    entries = [entry for entry in AuditLog(copy, forger, SystemClock()).read() if entry.sequence != 2]
    again = AuditLog(forged, forger, SystemClock())
    for entry in entries:
        again.append(Kind(entry.kind), actor=entry.actor, study=entry.study, details=entry.details)
    assert verify(forged, key).intact
    assert compare({forged: [key], tmp_path / "north.jsonl": [site.key.public]}).disagreements


def test_the_audit_log_is_for_operators_and_auditors_whole_or_in_parts(own: Server, anna: Client, olga: Client, pair: list[SiteClient]) -> None:
    study = submit(anna, pair)
    assert anna.call("GET", "/v1/audit").status == 403
    assert pair[0].call("GET", "/v1/audit").status == 403
    parts = [json.loads(line) for line in olga.call("GET", f"/v1/audit?study={study}").data.splitlines()]
    assert [entry["kind"] for entry in parts] == ["study-submitted"]
    after = parts[0]["sequence"]
    later = [json.loads(line) for line in olga.call("GET", f"/v1/audit?after={after}").data.splitlines()]
    assert [entry["sequence"] for entry in later] == list(range(after + 1, after + 1 + len(later)))
    # That somebody has read it stands in it.
    assert later[-1]["kind"] == "log-exported"
    assert later[-1]["actor"] == "olga"
    with pytest.raises(Tampered):
        SignedHead.read(parts[0]["details"])
