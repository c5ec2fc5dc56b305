"""What sites tell of themselves: taken from the site alone that signs it, the last word kept, shown to whom it concerns."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from serving import PASSWORD, Client, Server, SiteClient, enrolled, person, tensor

from aimer2.audit.kinds import Kind
from aimer2.core.study import Study
from aimer2.identity.documents import sign_document
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.study.analysing import VERSION, versions_of

PRIVATE: dict[str, Any] = {
    "name": "who",
    "question": "How old are the patients of these hospitals?",
    "purpose": "a test",
    "ethics": "none needed",
    "principal_investigator": "Dr Test",
    "expires": "2099-01-01",
    "sites": {"minimum": 2},
    "analyses": [{"name": "who", "method": "private_describe", "formula": "~ age"}],
    "cohort": {"dataset": "registry", "minimum_patients": 100, "features": [{"name": "age", "minimum": 18, "maximum": 98}]},
    "privacy": {"secure_aggregation": False, "why_not_secure": "a test", "differential_privacy": {"epsilon": 2, "delta": 1e-5}},
}


@pytest.fixture(scope="module")
def two(server: Server, new_name: Callable[[str], str]) -> list[SiteClient]:
    return [enrolled(server, new_name(name)) for name in ("teller", "other")]


@pytest.fixture(scope="module")
def ada(server: Server, new_name: Callable[[str], str]) -> Client:
    return person(server, new_name("ada"), "researcher")


@pytest.fixture(scope="module")
def study(ada: Client, two: list[SiteClient]) -> str:
    asked = Study(**PRIVATE)
    roster = {site.name: site.key.public.text for site in two}
    package = Package(study=asked, method_version=VERSION, versions=versions_of(asked), initial=ada.upload(tensor()), roster=roster)
    made: str = ada.post("/v1/studies", package.model_dump(mode="json"), 201)["digest"]
    return made


def spending(site: SiteClient, study: str, **changes: Any) -> dict[str, Any]:
    return {"study": study, "site": site.name, "epsilon": 0.5, "delta": 1e-5, "tasks": 1, "time": 10.0} | changes


def tell(site: SiteClient, path: str, kind: str, said: dict[str, Any], key: SigningKey | None = None) -> int:
    statement = sign_document(json.dumps(said).encode(), key or site.key, kind=kind)
    return site.call("POST", path, {"statement": statement}).status


def test_the_last_word_of_a_site_about_its_own_charges_is_shown(ada: Client, two: list[SiteClient], study: str) -> None:
    one, other = two
    assert tell(one, "/v1/spending", "spending", spending(one, study)) == 204
    assert tell(one, "/v1/spending", "spending", spending(one, study, epsilon=0.75, tasks=2, time=20.0)) == 204
    assert tell(one, "/v1/spending", "spending", spending(one, study, epsilon=0.1, time=15.0)) == 409, "late: a word from before changes nothing"
    assert [(said["site"], said["epsilon"], said["tasks"]) for said in ada.get(f"/v1/spending?study={study}")] == [(one.name, 0.75, 2)]
    for wrong, path, kind in (
        (spending(other, study), "/v1/spending", "spending"),
        (spending(one, "0" * 64), "/v1/spending", "spending"),
        (spending(one, study, budget=3.0), "/v1/spending", "spending"),
        (spending(one, study, time=99.0), "/v1/spending", "data-description"),
    ):
        assert tell(one, path, kind, wrong) in (400, 403, 404, 409), wrong
    assert tell(one, "/v1/spending", "spending", spending(one, study, time=99.0), SigningKey.generate()) == 401
    for ahead in (time.time() + 300, math.inf):
        assert tell(one, "/v1/spending", "spending", spending(one, study, epsilon=0.0, time=ahead)) in (400, 401), "it would stay for ever"
    assert ada.get(f"/v1/spending?study={study}")[0]["epsilon"] == 0.75


def test_others_do_not_see_what_a_study_was_charged(server: Server, two: list[SiteClient], study: str, new_name: Callable[[str], str]) -> None:
    one, other = two
    assert tell(one, "/v1/spending", "spending", spending(one, study, time=30.0)) == 204
    assert person(server, new_name("stranger"), "researcher").get("/v1/spending") == []
    for site, count in ((one, 1), (other, 0)):
        name = new_name("officer")
        server.command("user", "add", name, "--role", "data-protection-officer", "--site", site.name, "--password-file", "-", input=PASSWORD)
        officer = Client(server)
        officer.token = officer.post("/v1/sessions", {"user": name, "password": PASSWORD})["access_token"]
        assert len(officer.get(f"/v1/spending?study={study}")) == count
        assert officer.call("GET", f"/v1/sites/{one.name}/descriptions").status == (200 if count else 404)


def test_a_description_is_shown_until_it_is_taken_back(ada: Client, two: list[SiteClient]) -> None:
    one, other = two
    said = {"site": one.name, "dataset": "registry", "by": "Dr Ines Vogt", "time": 10.0, "rows": "80", "patients": "80"}
    said |= {"columns": [{"name": "age", "kind": "number", "unit": "a", "missing": "<10"}]}
    assert tell(one, "/v1/descriptions", "data-description", said) == 204
    assert tell(other, "/v1/descriptions", "data-description", said) == 403
    shown = ada.get(f"/v1/sites/{one.name}/descriptions")
    assert [(each["dataset"], each["by"], each["patients"], each["columns"][0]["missing"]) for each in shown] == [
        ("registry", "Dr Ines Vogt", "80", "<10")
    ]
    back = {"site": one.name, "dataset": "registry", "by": "Dr Ines Vogt", "time": 20.0, "published": False}
    assert tell(one, "/v1/descriptions", "data-description", back) == 204
    assert tell(one, "/v1/descriptions", "data-description", said) == 409, "late: it stays taken back"
    assert ada.get(f"/v1/sites/{one.name}/descriptions") == []
    assert ada.call("GET", "/v1/sites/nowhere/descriptions").status == 404


def test_what_is_told_again_is_no_news_in_the_audit_log(server: Server, two: list[SiteClient]) -> None:
    one, _ = two
    said = {"site": one.name, "dataset": "again", "by": "Dr Ines Vogt", "time": 10.0, "rows": "80", "patients": "80"}
    for _ in range(3):
        assert tell(one, "/v1/descriptions", "data-description", said) == 204
    assert tell(one, "/v1/descriptions", "data-description", said | {"time": 11.0}) == 204
    entries = [json.loads(line) for line in (server.folder / "audit.jsonl").read_text().splitlines()]
    assert [entry["kind"] for entry in entries if entry["details"].get("dataset") == "again"] == [str(Kind.DATASET_PUBLISHED)] * 2
