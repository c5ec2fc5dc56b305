"""Kill it, stop it, start it again: what was promised stays, and the model has the same bits."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable

import pytest
from click.testing import CliRunner
from serving import Client, Server, SiteClient, answer_of, enrolled, eventually, person, state_of, submit

from aimer2.audit.verify import verify
from aimer2.cli.coordinator import coordinator as command
from aimer2.core.errors import Conflict
from aimer2.identity.documents import open_document
from aimer2.identity.keys import PublicKey

ROUNDS = {"name": "fedavg", "rounds": 30}


def finished(researcher: Client, study: str) -> bool:
    return state_of(researcher, study) == "finished"


def test_kill_9_at_any_moment_gives_the_same_model_and_a_whole_record(make_server: Callable[..., Server], hospitals: Callable[..., None]) -> None:
    server = make_server()
    server.start()
    researcher = person(server, "anna", "researcher")
    sites = [enrolled(server, name) for name in ("a", "b")]
    study = submit(researcher, sites, method=ROUNDS)
    for site in sites:
        site.decide(study)
    hospitals(sites)
    for done in (3, 10, 18):
        eventually(lambda done=done: researcher.get(f"/v1/studies/{study}")["round_number"] >= done, 30)
        server.kill()
        server.start()
    eventually(lambda: finished(researcher, study), 30)

    calm = submit(researcher, sites, method=ROUNDS, name="calm")
    for site in sites:
        site.decide(calm)
    eventually(lambda: finished(researcher, calm), 30)
    assert researcher.call("GET", f"/v1/studies/{study}/model").data == researcher.call("GET", f"/v1/studies/{calm}/model").data

    key = PublicKey.from_text(researcher.get("/v1/coordinator")["key"])
    result = json.loads(open_document(researcher.call("GET", f"/v1/studies/{study}/result").data.decode(), key, kind="result"))
    rounds = [entry["round"] for entry in result["rounds"] if entry["stage"] == "train"]
    assert rounds == list(range(1, 31)), "no round is missing from the record, none is there twice"
    assert server.stop() == 0
    assert verify(server.folder / "audit.jsonl", key).intact


@pytest.mark.integration
def test_a_study_on_postgresql_goes_on_after_kill_9(make_server: Callable[..., Server], hospitals: Callable[..., None], postgresql: str) -> None:
    server = make_server("--database", postgresql)
    server.start()
    researcher = person(server, "anna", "researcher")
    sites = [enrolled(server, name) for name in ("a", "b")]
    study = submit(researcher, sites, method=ROUNDS)
    for site in sites:
        site.decide(study)
    hospitals(sites)
    eventually(lambda: researcher.get(f"/v1/studies/{study}")["round_number"] >= 3, 30)
    server.kill()
    server.start()
    eventually(lambda: finished(researcher, study), 30)


def test_a_task_is_there_after_kill_9_and_an_answer_that_was_acknowledged_too(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.start()
    researcher = person(server, "anna", "researcher")
    sites = [enrolled(server, name) for name in ("a", "b")]
    study = submit(researcher, sites)
    for site in sites:
        site.decide(study)
    (first,) = sites[0].wait_for_tasks()
    sites[0].exchange(answer_of(sites[0], first)[0], wait=0)
    server.kill()
    server.start()
    assert sites[0].exchange(wait=0.2).get("tasks") is None, "an answered task does not come again"
    (second,) = sites[1].wait_for_tasks()
    assert second.stage == "preflight"
    sites[1].exchange(answer_of(sites[1], second)[0], wait=0)
    (task,) = sites[0].wait_for_tasks()
    assert task.stage == "train"


def test_it_ends_at_once_lets_waiting_sites_go_and_frees_the_port(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.start()
    site = enrolled(server, "a")
    site.exchange(wait=0)
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.append(site.exchange(wait=60)))
    waiting.start()
    time.sleep(0.3)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 3
    waiting.join(5)
    assert answers, "the waiting site was answered, not cut off"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", server.port))


def test_two_processes_do_not_share_a_folder_or_a_port(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.start()
    for folder in (server.folder, make_server().folder):
        settings = folder / "coordinator.toml"
        lines = settings.read_text().splitlines()
        if folder != server.folder:
            settings.write_text("\n".join(f"port = {server.port}" if line.startswith("port") else line for line in lines))
        result = CliRunner().invoke(command, ["--folder", str(folder), "run"])
        assert isinstance(result.exception, Conflict)


def test_a_study_expires(make_server: Callable[..., Server]) -> None:
    server = make_server()
    settings = server.folder / "coordinator.toml"
    settings.write_text(settings.read_text().replace("lease_seconds = 15", "lease_seconds = 1.5"))
    server.start()
    researcher = person(server, "anna", "researcher")
    sites = [enrolled(server, "a"), enrolled(server, "b")]
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    study = submit(researcher, sites, expires=soon)
    eventually(lambda: state_of(researcher, study) == "stopped")
    assert "expired" in researcher.get(f"/v1/studies/{study}")["reason"]


@pytest.fixture
def restored(make_server: Callable[..., Server], hospitals: Callable[..., None]) -> tuple[Server, str, bytes, list[SiteClient]]:
    server = make_server()
    server.start()
    researcher = person(server, "anna", "researcher")
    sites = [enrolled(server, "a"), enrolled(server, "b")]
    study = submit(researcher, sites, method=ROUNDS)
    for site in sites:
        site.decide(study)
    hospitals(sites)
    eventually(lambda: researcher.get(f"/v1/studies/{study}")["round_number"] >= 3)
    server.command("backup", str(server.folder.parent / "backup.tar"))
    eventually(lambda: finished(researcher, study), 30)
    model = researcher.call("GET", f"/v1/studies/{study}/model").data
    server.kill()
    server.folder.rename(server.folder.with_name("lost"))
    server.command("restore", str(server.folder.parent / "backup.tar"))
    return server, study, model, sites


def test_a_backup_of_a_running_study_goes_on_to_the_same_model(restored: tuple[Server, str, bytes, list[SiteClient]]) -> None:
    server, study, model, _ = restored
    server.start()
    researcher = Client(server)
    researcher.token = researcher.post("/v1/sessions", {"user": "anna", "password": "correct horse battery"})["access_token"]
    eventually(lambda: finished(researcher, study), 30)
    assert researcher.call("GET", f"/v1/studies/{study}/model").data == model
