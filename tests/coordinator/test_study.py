"""A study from submission to its signed result, over the wire."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from serving import Client, Server, SiteClient, answer_of, eventually, package_of, person, ref_of, state_of, submit, tensor, update_of

from aimer2.core.task import Refusal
from aimer2.identity.documents import open_document, sign_document
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.study.refused import said_in, signed


def events_of(researcher: Client, study: str, after: int = 0) -> list[tuple[int, dict[str, Any]]]:
    response = researcher.call("GET", f"/v1/studies/{study}/events", Last_Event_ID=str(after))
    assert response.headers["Content-Type"].startswith("text/event-stream")
    blocks = [block.splitlines() for block in response.data.decode().split("\n\n") if block.startswith("id: ")]
    return [(int(first.removeprefix("id: ")), json.loads(second.removeprefix("data: "))) for first, second in blocks]


def test_a_study_ends_in_a_signed_result_and_the_right_model(
    server: Server, researcher: Client, sites: list[SiteClient], hospitals: Callable[..., None]
) -> None:
    study = submit(researcher, sites)
    assert state_of(researcher, study) == "offered"
    for site in sites:
        assert site.decide(study).status == 204
    hospitals(sites)
    eventually(lambda: state_of(researcher, study) == "finished")

    text = researcher.call("GET", f"/v1/studies/{study}/result").data.decode()
    key = PublicKey.from_text(researcher.get("/v1/coordinator")["key"])
    result = json.loads(open_document(text, key, kind="result"))
    assert result["study"] == study
    assert {site: part["rounds"] for site, part in result["sites"].items()} == {site.name: 2 for site in sites}

    model = np.zeros(3, np.float32)
    for round_number in (1, 2):
        total = sum(np.frombuffer(update_of(site.name, round_number)["difference"][-12:], np.float32) for site in sites)
        model = model + total / np.float32(20)
    sent = researcher.call("GET", f"/v1/studies/{study}/model").data
    assert sent == tensor(w=model.astype(np.float32))
    updates = [update_of(site.name, number)["difference"][-12:] for site in sites for number in (1, 2)]
    kept = [file for file in (server.folder / "blobs" / "studies" / study).rglob("*") if file.is_file()]
    assert any(sent[-12:] in file.read_bytes() for file in kept)
    eventually(lambda: not any(update in file.read_bytes() for file in kept for update in updates))

    numbered = events_of(researcher, study)
    assert [number for number, _ in numbered] == list(range(1, len(numbered) + 1))
    kinds = [event["kind"] for _, event in numbered]
    assert kinds[0] == "study-started"
    assert kinds[-1] == "study-finished"
    assert kinds.count("round-finished") == 3
    assert events_of(researcher, study, after=len(numbered) - 2) == numbered[-2:]
    assert events_of(researcher, study, after=len(numbered)) == []
    assert events_of(researcher, study, after=len(numbered) + 7) == numbered, "as if from before a backup was put back"
    for number in ("9" * 5000, "9" * 19, "-1", "\u0662"):
        assert researcher.call("GET", f"/v1/studies/{study}/events", Last_Event_ID=number.encode().decode("latin-1")).status == 400, number[:20]
    summary = researcher.get(f"/v1/studies/{study}")
    assert (summary["round_number"], summary["rounds"]) == (2, 2)
    assert [site["decision"] for site in summary["sites"]] == ["approve", "approve"]


def test_a_task_is_signed_and_brings_its_small_inputs_along(researcher: Client, sites: list[SiteClient]) -> None:
    study = submit(researcher, sites)
    for site in sites:
        site.decide(study)
    for site in sites:
        (task,) = site.wait_for_tasks()
        answer, _ = answer_of(site, task)
        site.exchange(answer, wait=0)
    answered = sites[0].exchange(wait=10)
    (task,) = sites[0].tasks_of(answered)
    assert task.stage == "train"
    assert {ref.sha256 for ref in task.inputs.values()} == set(answered["attachments"])


def test_answering_twice_changes_nothing_and_an_answered_task_is_taken_back(researcher: Client, sites: list[SiteClient]) -> None:
    study = submit(researcher, sites)
    for site in sites:
        site.decide(study)
    (task,) = sites[0].wait_for_tasks()
    answer, _ = answer_of(sites[0], task)
    key = f"{task.id}/{task.attempt}"
    first = sites[0].exchange(answer, holding=(key,), wait=0)
    again = sites[0].exchange(answer, holding=(key,), wait=0)
    assert first["withdrawn"] == again["withdrawn"] == [key]
    assert "tasks" not in again


def test_a_site_that_withdraws_is_not_waited_for(researcher: Client, sites: list[SiteClient]) -> None:
    study = submit(researcher, sites)
    for site in sites:
        site.decide(study)
    (task,) = sites[0].wait_for_tasks()
    sites[0].exchange(answer_of(sites[0], task)[0], wait=0)
    assert sites[1].decide(study, "withdraw").status == 204
    # Two are needed, one is left: the study pauses at once, and says why.
    eventually(lambda: state_of(researcher, study) == "paused", 5)
    assert "withdrawn" in researcher.get(f"/v1/studies/{study}")["reason"]


def test_a_refusal_bears_its_sites_signature_or_none(researcher: Client, three: list[SiteClient]) -> None:
    study = submit(researcher, three)
    for site in three:
        site.decide(study)
    # What is signed with a key that is newer than the study does not hold where its record is checked.
    new = SigningKey.generate()
    payload = json.dumps({"site": three[0].name, "key": new.public.text, "time": time.time()}).encode()
    rotation = {name: sign_document(payload, key, kind="key-rotation") for name, key in (("statement", three[0].key), ("proof", new))}
    assert three[0].call("POST", "/v1/sites/key", rotation).status == 204
    for site, key in ((three[0], new), (three[1], three[1].key)):
        (task,) = site.wait_for_tasks()
        refusal = Refusal(task=task.id, attempt=task.attempt, site=site.name, code="budget-exceeded", reason="would reach 3.42 of 3.00")
        site.exchange(signed(refusal, study, key, 1.0).model_dump(mode="json"), wait=0)
    eventually(lambda: state_of(researcher, study) == "paused")
    heard = {event["site"]: event for _, event in events_of(researcher, study) if event["kind"] == "reply-received"}
    assert {event["reason"] for event in heard.values()} == {"would reach 3.42 of 3.00"}
    assert "signed" not in heard[three[0].name]
    assert said_in(heard[three[1].name]["signed"], three[1].key.public) is not None


def test_a_study_starts_by_itself_only_when_all_have_decided(researcher: Client, three: list[SiteClient]) -> None:
    study = submit(researcher, three)
    assert researcher.call("POST", f"/v1/studies/{study}/start").status == 409
    three[0].decide(study)
    three[1].decide(study)
    assert state_of(researcher, study) == "offered"
    three[2].decide(study, "refuse")
    assert state_of(researcher, study) == "running"


def test_a_researcher_starts_with_enough_approvals(researcher: Client, three: list[SiteClient]) -> None:
    study = submit(researcher, three)
    three[0].decide(study)
    three[1].decide(study)
    assert researcher.post(f"/v1/studies/{study}/start")["state"] == "running"
    assert len(three[0].wait_for_tasks()) == 1
    assert three[2].exchange(wait=0).get("tasks") is None


def test_pause_resume_and_stop(researcher: Client, sites: list[SiteClient], hospitals: Callable[..., None]) -> None:
    study = submit(researcher, sites, method={"name": "fedavg", "rounds": 1000})
    for site in sites:
        site.decide(study)
    hospitals(sites)
    eventually(lambda: researcher.get(f"/v1/studies/{study}")["round_number"] >= 3)
    paused = researcher.post(f"/v1/studies/{study}/stop", {"final": False, "reason": "lunch"})
    assert (paused["state"], paused["reason"]) == ("paused", "lunch")
    done = researcher.get(f"/v1/studies/{study}")["round_number"]
    assert researcher.post(f"/v1/studies/{study}/resume")["state"] == "running"
    eventually(lambda: researcher.get(f"/v1/studies/{study}")["round_number"] > done)
    assert researcher.post(f"/v1/studies/{study}/stop", {"reason": "enough"})["state"] == "stopped"
    rounds = [e["round_number"] for _, e in events_of(researcher, study) if e["kind"] == "round-finished" and e["stage"] == "train"]
    assert rounds == list(range(1, len(rounds) + 1))
    assert researcher.call("POST", f"/v1/studies/{study}/resume").status == 409


def test_updates_outlast_a_stop_for_now_and_no_final_one(server: Server, researcher: Client, three: list[SiteClient]) -> None:
    study = submit(researcher, three)
    for site in three:
        site.decide(study)
    for stage in ("preflight", "train"):
        for site in three if stage == "preflight" else three[:2]:
            (task,) = site.wait_for_tasks()
            answer, blobs = answer_of(site, task)
            site.exchange(answer, blobs=blobs, wait=0)
    sent = [blob for site in three[:2] for blob in update_of(site.name, 1).values()]

    def there() -> list[bytes]:
        files = b"".join(path.read_bytes() for path in server.folder.rglob(f"{study}/*") if path.is_file())
        return [blob for blob in sent if blob in files]

    researcher.post(f"/v1/studies/{study}/stop", {"final": False})
    assert there() == sent
    assert researcher.post(f"/v1/studies/{study}/resume")["state"] == "running"
    assert len(three[2].wait_for_tasks()) == 1
    assert three[0].exchange(wait=0).get("tasks") is None, "its update is there"
    researcher.post(f"/v1/studies/{study}/stop", {"final": True})
    assert there() == []
    initial = tensor(w=np.zeros(3, np.float32))
    assert researcher.call("GET", f"/v1/blobs/{ref_of(initial).sha256}").data == initial, "what came with it stays"


def test_a_rehearsal_shows_every_sites_checks(researcher: Client, three: list[SiteClient], hospitals: Callable[..., None]) -> None:
    study = submit(researcher, three)
    for site in three[:2]:
        site.decide(study)
    hospitals(three)
    found = researcher.post(f"/v1/studies/{study}/preflight")["sites"]
    assert [(site["site"], site["outcome"], site["checks"][0]["name"]) for site in found] == [
        (three[0].name, "answer", "patients"),
        (three[1].name, "answer", "patients"),
    ]
    assert state_of(researcher, study) == "offered"


def test_waiting_sites_are_woken_by_a_new_study(researcher: Client, sites: list[SiteClient]) -> None:
    sites[0].exchange(wait=0)
    found: list[tuple[float, Any]] = []
    waiting = threading.Thread(target=lambda: found.append((time.monotonic(), sites[0].exchange(wait=20))[::-1]))
    waiting.start()
    time.sleep(0.3)
    study = submit(researcher, sites)
    waiting.join(5)
    assert found, "the site was not woken"
    assert found[0][0]["studies"] == [{"digest": study, "state": "offered"}]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"expires": "2020-01-01"}, "expires"),
        ({"sites": {"minimum": 3}}, "sites.minimum"),
        ({"sites": {"names": ["charite"], "minimum": 1}}, "roster"),
        ({"privacy": {}}, "roster"),
        ({"privacy": {"secure_aggregation": False}}, "privacy.why_not_secure"),
        ({"method": {"aggregator": "averagely"}}, "method.aggregator"),
    ],
)
def test_faults_are_found_at_the_door(researcher: Client, sites: list[SiteClient], changes: dict[str, Any], place: str) -> None:
    initial = researcher.upload(tensor(w=np.zeros(3, np.float32)))
    package, _ = package_of(sites, initial, **changes)
    problem = researcher.post("/v1/studies", package.model_dump(mode="json"), 400)
    assert problem["code"] == "bad-study"
    assert [fault["place"] for fault in problem["faults"]] == [place]


def test_privacy_terms_that_cannot_be_kept_are_refused(researcher: Client, sites: list[SiteClient]) -> None:
    initial = researcher.upload(tensor(w=np.zeros(3, np.float32)))
    package, _ = package_of(sites, initial, privacy={"differential_privacy": {"epsilon": 1.0}})
    problem = researcher.post("/v1/studies", package.model_dump(mode="json"), 400)
    assert "privacy.differential_privacy.delta" in {fault["place"] for fault in problem["faults"]}


def test_weights_that_somebody_else_uploaded_cannot_be_named(server: Server, researcher: Client, sites: list[SiteClient]) -> None:
    other = person(server, "berta", "researcher")
    initial = other.upload(tensor(w=np.full(3, 7, np.float32)))
    package, _ = package_of(sites, initial)
    assert researcher.post("/v1/studies", package.model_dump(mode="json"), 400)["faults"][0]["place"] == "blobs"


def test_submitting_twice_is_one_study(researcher: Client, sites: list[SiteClient]) -> None:
    study = submit(researcher, sites)
    package = researcher.get(f"/v1/studies/{study}/package")
    assert researcher.post("/v1/studies", package, 201)["digest"] == study
    assert [found["digest"] for found in researcher.get("/v1/studies")].count(study) == 1
    assert sites[0].get(f"/v1/studies/{study}/package") == package
