"""The consortium: who is invited and by whom, what the members agree on, how one leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from serving import PASSWORD, Client, Server, SiteClient, enrolled, eventually, person, state_of, submit

from aimer2.identity.invitations import Invitation

DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def operator(server: Server, new_name: Callable[[str], str]) -> Client:
    return person(server, new_name("operator"), "operator")


def of_hospital(server: Server, name: str, site: str) -> Client:
    server.command("user", "add", name, "--role", "site-administrator", "--site", site, "--password-file", "-", input=PASSWORD)
    client = Client(server)
    client.token = client.post("/v1/sessions", {"user": name, "password": PASSWORD})["access_token"]
    return client


def test_an_invitation_from_afar_enrols_once_and_tells_by_whom(server: Server, operator: Client, new_name: Callable[[str], str]) -> None:
    name = new_name("invited")
    me = operator.get("/v1/session")["user"]
    made = operator.post("/v1/invitations", {"site": name}, 201)
    assert (made["status"]["state"], made["status"]["made_by"]) == ("open", me)
    site = SiteClient(server, name=name)
    site.enrol(made["text"])
    site.login()
    (known,) = [each for each in operator.get("/v1/invitations") if each["id"] == made["status"]["id"]]
    assert known["state"] == "used"
    (member,) = [each for each in operator.get("/v1/members") if each["site"] == name]
    assert (member["invited_by"], member["key"], member["left"]) == (me, site.key.public.text, None)
    code = Invitation.from_text(made["text"]).code
    assert code not in server.log() + (server.folder / "audit.jsonl").read_text() + str(operator.get("/v1/invitations"))
    assert operator.post("/v1/invitations", {"site": name}, 409)["code"] == "conflict"


def test_an_invitation_that_was_taken_back_lets_nobody_in(server: Server, operator: Client, new_name: Callable[[str], str]) -> None:
    name = new_name("uninvited")
    made = operator.post("/v1/invitations", {"site": name}, 201)
    path = f"/v1/invitations/{made['status']['id']}"
    assert operator.call("DELETE", path).json()["state"] == "revoked"
    assert operator.call("DELETE", path).status == 409
    code = Invitation.from_text(made["text"]).code
    body = {"code": code, "site": name, "key": SiteClient(server, name=name).key.public.text, "version": "1"}
    Client(server).post("/v1/enrolments", body, 403)


def test_a_hospital_accepts_for_itself_and_sees_only_that(server: Server, operator: Client, new_name: Callable[[str], str]) -> None:
    names = [new_name("member"), new_name("member")]
    for name in names:
        enrolled(server, name)
    one, other = (of_hospital(server, new_name("admin"), name) for name in names)
    operator.post("/v1/agreements", {"digest": DIGEST, "title": "Data use agreement", "dated": "2026-11-01"}, 201)
    operator.post("/v1/agreements", {"digest": DIGEST, "title": "Another title", "dated": "2026-11-01"}, 409)
    operator.post("/v1/agreements", {"digest": "x", "title": "t", "dated": "tomorrow"}, 400)
    path = f"/v1/agreements/{DIGEST}/acceptances"
    accepted = one.post(path, {"by": "Dr Ines Vogt"}, 201)["acceptances"]
    assert [(each["site"], each["by"]) for each in accepted] == [(names[0], "Dr Ines Vogt")]
    assert accepted[0]["recorded_by"] == one.get("/v1/session")["user"]
    assert one.call("POST", path, {"by": "Dr Ines Vogt"}).status == 409
    assert other.call("POST", f"/v1/agreements/{'0' * 64}/acceptances", {"by": "Dr X"}).status == 404
    assert operator.call("POST", path, {"by": "Dr X"}).status == 403, "nobody else accepts for a hospital"
    (seen,) = other.get("/v1/agreements")
    assert seen["acceptances"] == []
    assert [member["site"] for member in other.get("/v1/members")] == [names[1]]
    assert {each["site"] for each in other.get("/v1/invitations")} == {names[1]}
    (whole,) = operator.get("/v1/agreements")
    assert [each["site"] for each in whole["acceptances"]] == [names[0]]
    assert next(member for member in operator.get("/v1/members") if member["site"] == names[0])["agreements"] == [DIGEST]


def test_a_member_leaves_and_its_studies_go_on(server: Server, researcher: Client, operator: Client, three: list[SiteClient]) -> None:
    running, waiting = submit(researcher, three), submit(researcher, three, question="Is a decision awaited?")
    for site in three:
        site.decide(running)
    for site in three[1:]:
        site.decide(waiting)
    assert three[0].wait_for_tasks()
    assert state_of(researcher, waiting) == "offered"
    leaving = three[0].name
    assert operator.call("POST", f"/v1/members/{leaving}/off-boarding", {}).status == 400, "not without a reason"
    done = operator.post(f"/v1/members/{leaving}/off-boarding", {"reason": "The hospital has closed."})
    assert set(done["studies"]) == {running, waiting}
    assert three[0].call("POST", "/v1/exchange", {"wait_seconds": 0}).status == 401
    # Nobody waits for its decision any more.
    eventually(lambda: state_of(researcher, waiting) == "running")
    # The round ends without its answer.
    for site in three[1:]:
        for task in site.wait_for_tasks():
            if task.study == running:
                site.exchange({"kind": "answer", "task": task.id, "attempt": 1, "site": site.name}, wait=0)
    eventually(lambda: [task for task in three[1].wait_for_tasks() if task.study == running and task.stage == "train"])
    (past,) = [member for member in operator.get("/v1/members") if member["site"] == leaving]
    assert (past["left_reason"], past["left_by"]) == ("The hospital has closed.", operator.get("/v1/session")["user"])
    decided = {each["site"]: each["decision"] for each in researcher.get(f"/v1/studies/{running}")["sites"]}
    assert decided[leaving] == "approve", "what it has signed stays in the record"
    left = [line for line in (server.folder / "audit.jsonl").read_text().splitlines() if '"site-left"' in line and leaving in line]
    assert {digest for digest in (running, waiting) for line in left if digest in line} == {running, waiting}
    assert operator.call("POST", f"/v1/members/{leaving}/off-boarding", {"reason": "again"}).status == 409
    assert operator.call("POST", "/v1/members/never-here/off-boarding", {"reason": "again"}).status == 404
    again = enrolled(server, leaving)
    assert again.exchange(wait=0)["time"] > 0
    (back,) = [member for member in operator.get("/v1/members") if member["site"] == leaving]
    assert back["left"] is None and back["left_reason"] == ""
    researcher.post(f"/v1/studies/{running}/stop", {})
    researcher.post(f"/v1/studies/{waiting}/stop", {})
