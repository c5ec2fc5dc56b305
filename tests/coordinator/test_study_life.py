"""Drafts, versions and the archive, over the wire of a real coordinator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from serving import Client, Server, SiteClient, package_of, person, state_of, submit, tensor

TEXT = """
name = "mortality"
question = "Does the model predict death in hospital?"
purpose = "A test."
ethics = "none needed: invented data"
principal_investigator = "Dr Test"
expires = 2099-01-01
sites = { minimum = 2 }
method = { name = "fedavg", rounds = 2 }
model = { framework = "numpy", name = "logistic" }
privacy = { secure_aggregation = false, why_not_secure = "a test" }
[cohort]
dataset = "d"
features = [{ name = "age" }]
target = { name = "death" }
"""


@pytest.fixture
def other(server: Server, new_name: Callable[[str], str]) -> Client:
    return person(server, new_name("berta"), "researcher")


WEIGHTS = tensor(w=np.zeros(3, np.float32))


def next_version(researcher: Client, roster: list[SiteClient], supersedes: str, **changes: Any) -> Any:
    """The document of a new version, its weights uploaded."""
    package, _ = package_of(roster, researcher.upload(WEIGHTS), **changes)
    return package.model_copy(update={"supersedes": supersedes}).model_dump(mode="json")


def test_a_draft_is_kept_with_its_faults_changed_and_discarded_by_its_author_alone(researcher: Client, other: Client) -> None:
    made = researcher.post("/v1/drafts", {"name": "first thoughts", "text": TEXT.replace("fedavg", "fedawg").replace("2099", "1999")}, 201)
    assert made["revision"] == 1
    path = f"/v1/drafts/{made['id']}"
    faults = {fault["place"] for fault in researcher.get(f"{path}/faults")["faults"]}
    assert {"expires", "method.name"} <= faults, "every fault, not the first one"

    changed = {"name": "first thoughts", "text": TEXT, "revision": 1}
    assert researcher.call("PUT", path, changed).json()["revision"] == 2
    assert researcher.get(f"{path}/faults")["faults"] == []
    # From another window, on what is no longer there.
    assert researcher.call("PUT", path, changed | {"text": "lost"}).status == 409
    assert researcher.get(path)["text"] == TEXT
    missing = changed | {"text": TEXT.replace('name = "logistic"', 'code = "model.py"') + "[[", "revision": 2}
    assert researcher.call("PUT", path, missing).status == 200
    assert [fault["place"] for fault in researcher.get(f"{path}/faults")["faults"]] == ["text"]

    # What the parser of TOML does not call an error of the text.
    for revision, text in enumerate(("x = " + "[" * 5000, "x = " + "9" * 5000), 3):
        assert researcher.call("PUT", path, changed | {"text": text, "revision": revision}).status == 200
        assert [fault["place"] for fault in researcher.get(f"{path}/faults")["faults"]] == ["text"]
    for files in ({"model.py": "x" * (1 << 20)}, {f"{number}.py": "" for number in range(51)}):
        assert researcher.call("PUT", path, changed | {"files": files, "revision": 5}).status == 413
        assert researcher.call("POST", "/v1/drafts", {"name": "x", "text": "", "files": files}).status == 413

    for method, place in (("GET", path), ("DELETE", path), ("GET", f"{path}/faults"), ("PUT", path)):
        assert other.call(method, place, changed | {"revision": 3} if method == "PUT" else None).status == 404
    assert made["id"] not in {draft["id"] for draft in other.get("/v1/drafts")}
    assert next(draft for draft in researcher.get("/v1/drafts") if draft["id"] == made["id"]).keys().isdisjoint({"text", "files"})
    assert researcher.call("DELETE", f"{path}?revision=1").status == 409, "what was saved since is not thrown away"
    assert researcher.call("PUT", path, changed | {"text": "é" * (1 << 19) + "x", "revision": 5}).status == 413, "bytes, not letters"
    assert researcher.call("DELETE", f"{path}?revision=5").status == 204
    assert researcher.call("GET", path).status == 404


def test_a_new_version_takes_the_place_of_the_old_one_and_no_approval_goes_over(researcher: Client, other: Client, sites: list[SiteClient]) -> None:
    first = submit(researcher, sites, name="versions")
    assert sites[0].decide(first).status == 204
    document = next_version(researcher, sites, first, name="versions", purpose="A better test.")
    assert document["supersedes"] == first
    # Another's study is none that one could take the place of.
    other.upload(WEIGHTS)
    assert [fault["place"] for fault in other.post("/v1/studies", document, 400)["faults"]] == ["supersedes"]

    second = researcher.post("/v1/studies", document, 201)
    assert (second["version"], second["supersedes"], second["state"]) == (2, first, "offered")
    assert {site["decision"] for site in second["sites"]} == {"waiting"}, "it needs every approval anew"
    old = researcher.get(f"/v1/studies/{first}")
    assert (old["state"], old["superseded_by"], old["version"]) == ("stopped", second["digest"], 1)
    assert second["digest"][:16] in old["reason"]
    # The old one is over: its last approval starts nothing.
    sites[1].decide(first)
    assert state_of(researcher, first) == "stopped"

    # One successor each; and of a study that runs none.
    rival = next_version(researcher, sites, first, name="versions", purpose="A third one.")
    assert "newer version" in researcher.post("/v1/studies", rival, 400)["faults"][0]["problem"]
    for site in sites:
        site.decide(second["digest"])
    assert state_of(researcher, second["digest"]) == "running"
    third = next_version(researcher, sites, second["digest"], name="versions", purpose="A third one.")
    assert "is running" in researcher.post("/v1/studies", third, 400)["faults"][0]["problem"]
    researcher.post(f"/v1/studies/{second['digest']}/stop", {"final": True})
    assert researcher.post("/v1/studies", third, 201)["version"] == 3
    unknown = next_version(researcher, sites, "0" * 64, name="versions")
    assert researcher.post("/v1/studies", unknown, 400)["faults"][0]["place"] == "supersedes"


def test_an_archived_study_is_out_of_the_lists_and_all_else_stays(researcher: Client, sites: list[SiteClient]) -> None:
    study = submit(researcher, sites, name="old-one")
    route = f"/v1/studies/{study}"
    assert researcher.post(f"{route}/archive", {"archived": True}, 409)["code"] == "conflict", "it has not ended"
    researcher.post(f"{route}/stop", {"final": True})
    researcher.post(f"{route}/archive", {"archived": True}, 204)
    assert study not in {one["digest"] for one in researcher.get("/v1/studies")}
    assert study in {one["digest"] for one in researcher.get("/v1/studies?archived=true")}
    found = researcher.get(route)
    assert (found["archived"], found["state"], found["ethics"]) == (True, "stopped", "none needed: invented data")
    assert found["expires"] > 4e9
    for action in ("start", "resume"):
        assert researcher.call("POST", f"{route}/{action}").status == 409
    researcher.post(f"{route}/archive", {"archived": False}, 204)
    assert study in {one["digest"] for one in researcher.get("/v1/studies")}
