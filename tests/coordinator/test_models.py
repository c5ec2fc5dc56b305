"""The versions that studies leave: who sees them, who moves them, what is signed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from serving import Client, Server, SiteClient, enrolled, eventually, person, state_of, submit

from aimer2.identity.documents import open_document
from aimer2.identity.keys import PublicKey

MOVE = {"stage": "validated", "reason": "It held on new patients."}


@pytest.fixture
def finished(researcher: Client, sites: list[SiteClient], hospitals: Callable[..., None]) -> str:
    study = submit(researcher, sites)
    for site in sites:
        site.decide(study)
    hospitals(sites)
    eventually(lambda: state_of(researcher, study) == "finished")
    return study


def seen(client: Client) -> set[str]:
    return {one["study"] for one in client.get("/v1/models")}


def test_a_study_leaves_a_version_with_its_record(researcher: Client, finished: str, sites: list[SiteClient]) -> None:
    model = researcher.get(f"/v1/models/{finished}")
    assert (model["name"], model["stage"], model["sites"], model["method"]) == ("mortality", "candidate", 2, "fedavg")
    record = researcher.get(f"/v1/studies/{finished}/record")
    key = PublicKey.from_text(researcher.get("/v1/coordinator")["key"])
    assert json.loads(open_document(record["result"], key, kind="result"))["model"] == model["model"]
    keys = {site.key.public.key_id: site.key.public for site in sites}
    approved = {json.loads(open_document(text, keys, kind="decision"))["site"] for text in record["decisions"]}
    assert approved == {site.name for site in sites}
    assert researcher.call("GET", f"/v1/models/{finished}/weights").data == researcher.call("GET", f"/v1/studies/{finished}/model").data


def test_before_its_end_a_study_has_no_version(researcher: Client, sites: list[SiteClient]) -> None:
    study = submit(researcher, sites, seed=77)
    assert study not in seen(researcher)
    for path in (f"/v1/models/{study}", f"/v1/models/{study}/weights", f"/v1/studies/{study}/record"):
        assert researcher.call("GET", path).status == 404
    researcher.post(f"/v1/models/{study}/stage", MOVE, 404)


def test_stages_are_reached_one_after_the_other_each_signed(researcher: Client, finished: str) -> None:
    path = f"/v1/models/{finished}/stage"
    assert researcher.post(path, {"stage": "released", "reason": "At once."}, 409)["code"] == "conflict"
    assert researcher.post(path, MOVE)["stage"] == "validated"
    assert researcher.post(path, MOVE, 409)["code"] == "conflict"
    assert researcher.post(path, {"stage": "released", "reason": "Asked for."})["stage"] == "released"
    assert researcher.post(path, {"stage": "retired", "reason": "Outdated."})["stage"] == "retired"
    researcher.post(path, {"stage": "validated", "reason": "Again."}, 409)
    for wrong in ({"stage": "candidate", "reason": "Back."}, {"stage": "retired", "reason": ""}, {"stage": "retired"}):
        assert researcher.post(path, wrong, 400)["code"] == "bad-input"
    key = PublicKey.from_text(researcher.get("/v1/coordinator")["key"])
    changes = [json.loads(open_document(text, key, kind="stage")) for text in researcher.get(f"/v1/studies/{finished}/record")["stages"]]
    assert [(one["stage"], one["by"]) for one in changes] == [("validated", "anna"), ("released", "anna"), ("retired", "anna")]


def test_others_see_a_version_once_it_is_released(server: Server, researcher: Client, finished: str, new_name: Callable[[str], str]) -> None:
    other = person(server, new_name("bert"), "researcher")
    auditor, operator = person(server, new_name("carl"), "auditor"), person(server, new_name("dora"), "operator")
    paths = [f"/v1/models/{finished}", f"/v1/models/{finished}/weights", f"/v1/studies/{finished}/record"]

    def answers(client: Client) -> set[int]:
        return {client.call("GET", path).status for path in paths}

    assert finished not in seen(other) and answers(other) == {404}
    assert finished in seen(auditor) and answers(auditor) == {200}
    other.post(f"{paths[0]}/stage", MOVE, 404)
    auditor.post(f"{paths[0]}/stage", MOVE, 403)
    assert operator.post(f"{paths[0]}/stage", MOVE)["stage"] == "validated"
    assert finished not in seen(other)
    researcher.post(f"{paths[0]}/stage", {"stage": "released", "reason": "For everybody."})
    assert finished in seen(other) and answers(other) == {200}
    other.post(f"{paths[0]}/stage", {"stage": "retired", "reason": "Not mine."}, 404)
    assert other.call("GET", f"/v1/studies/{finished}").status == 404, "the study stays its researcher's"


def test_a_site_has_no_part_in_models(sites: list[SiteClient], finished: str) -> None:
    assert sites[0].call("GET", "/v1/models").status == 403
    assert sites[0].call("GET", f"/v1/models/{finished}/weights").status == 403


def test_stages_outlive_the_process(make_server: Callable[..., Any], hospitals: Callable[..., None]) -> None:
    server = make_server()
    server.start()
    anna, sites = person(server, "anna", "researcher"), [enrolled(server, name) for name in ("a", "b")]
    study = submit(anna, sites)
    for site in sites:
        site.decide(study)
    hospitals(sites)
    eventually(lambda: state_of(anna, study) == "finished")
    anna.post(f"/v1/models/{study}/stage", MOVE)
    server.kill()
    server.start()
    assert eventually(lambda: anna.get(f"/v1/models/{study}"))["stage"] == "validated"
