"""Who gets in and who does not: invitations, assertions, tokens, roles, keys, log-ins."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from serving import PASSWORD, Client, Server, SiteClient, enrolled, eventually, person, state_of, submit

from aimer2.identity.assertions import make_assertion
from aimer2.identity.documents import sign_document
from aimer2.identity.invitations import Invitation
from aimer2.identity.keys import SigningKey
from aimer2.identity.tokens import issue_token


def test_an_invitation_enrols_one_site_once(server: Server, new_name: Callable[[str], str]) -> None:
    name = new_name("site")
    invitation = server.command("invite", name)
    site = SiteClient(server, name=name)
    site.enrol(invitation)
    first = site.coordinator_key
    site.enrol(invitation)
    assert site.coordinator_key == first, "the same request again gets the same answer"
    code = Invitation.from_text(invitation).code
    thief = SigningKey.generate().public.text
    assert site.post("/v1/enrolments", {"code": code, "site": name, "key": thief, "version": "1"}, 403)["code"] == "not-allowed"
    assert Invitation.from_text(invitation).coordinator_key == first


def test_an_invitation_is_for_the_named_site(server: Server, new_name: Callable[[str], str]) -> None:
    invitation = Invitation.from_text(server.command("invite", new_name("site")))
    body = {"code": invitation.code, "site": "another", "key": SigningKey.generate().public.text, "version": "1"}
    Client(server).post("/v1/enrolments", body, 403)


def test_an_assertion_is_good_once(server: Server, sites: list[SiteClient]) -> None:
    site = sites[0]
    assertion = make_assertion(site.key, subject=site.name, audience=server.url, now=time.time())
    assert site.ask_token(assertion).status == 200
    assert site.ask_token(assertion).status == 401


def test_an_assertion_stays_used_after_kill_9(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.start()
    site = enrolled(server, "a")
    assertion = make_assertion(site.key, subject="a", audience=server.url, now=time.time())
    assert site.ask_token(assertion).status == 200
    server.kill()
    server.start()
    assert site.ask_token(assertion).status == 401


@pytest.mark.parametrize("change", [{"key": SigningKey.generate()}, {"subject": "nobody"}, {"audience": "https://elsewhere"}, {"now": 1e9}])
def test_a_forged_assertion_gets_nothing(server: Server, sites: list[SiteClient], change: dict[str, Any]) -> None:
    site = sites[0]
    fields = {"key": site.key, "subject": site.name, "audience": server.url, "now": time.time()} | change
    key = fields.pop("key")
    answer = site.ask_token(make_assertion(key, **fields))
    assert answer.status == 401
    assert answer.json()["code"] == ("clock-skew" if "now" in change else "not-authenticated")


def test_a_forged_decision_counts_for_nothing(researcher: Client, sites: list[SiteClient]) -> None:
    study = submit(researcher, sites)
    mine, other = sites
    assert mine.decide(study, key=other.key).status == 401
    assert mine.decide(study, site=other.name).status == 403
    statement = sign_document(json.dumps({"site": mine.name}).encode(), mine.key, kind="task")
    assert mine.post("/v1/decisions", {"statement": statement}, 409)["code"] == "tampered"
    assert {site["decision"] for site in researcher.get(f"/v1/studies/{study}")["sites"]} == {"waiting"}


def test_an_old_decision_does_not_undo_a_newer_one(researcher: Client, sites: list[SiteClient]) -> None:
    study = submit(researcher, sites)
    site = sites[0]
    now = time.time()
    assert site.decide(study, "approve", time=now).status == 204
    assert site.decide(study, "refuse", time=now + 1).status == 204
    assert site.decide(study, "approve", time=now).status == 409
    assert [s["decision"] for s in researcher.get(f"/v1/studies/{study}")["sites"]] == ["refuse", "waiting"]


def test_a_study_is_seen_by_its_own_people_only(server: Server, researcher: Client, sites: list[SiteClient], new_name: Callable[[str], str]) -> None:
    study = submit(researcher, sites)
    stranger = enrolled(server, new_name("stranger"))
    assert stranger.call("GET", f"/v1/studies/{study}/package").status == 404
    assert stranger.decide(study).status == 404
    other = person(server, "carl", "researcher")
    assert other.call("GET", f"/v1/studies/{study}").status == 404
    assert other.get("/v1/studies") == []
    auditor = person(server, "dora", "auditor")
    assert auditor.get(f"/v1/studies/{study}")["digest"] == study
    assert auditor.call("POST", f"/v1/studies/{study}/stop", {}).status == 403


def test_sites_and_people_have_each_their_own_doors(researcher: Client, sites: list[SiteClient]) -> None:
    assert researcher.call("POST", "/v1/exchange", {}).status == 403
    assert sites[0].call("GET", "/v1/sites").status == 403
    assert Client(researcher.server).call("GET", "/v1/sites").status == 401
    assert (
        Client(researcher.server, issue_token(b"x" * 32, subject="anna", role="operator", now=time.time(), lifetime_seconds=60))
        .call("GET", "/v1/sites")
        .headers["WWW-Authenticate"]
        == "Bearer"
    )


def test_a_revoked_site_is_out_at_once_and_may_be_invited_again(server: Server, researcher: Client, three: list[SiteClient]) -> None:
    study = submit(researcher, three)
    for site in three:
        site.decide(study)
    assert three[0].wait_for_tasks()
    server.command("revoke", three[0].name)
    eventually(lambda: three[0].call("POST", "/v1/exchange", {"wait_seconds": 0}).status == 401, 2)
    assert three[0].ask_token(make_assertion(three[0].key, subject=three[0].name, audience=server.url, now=time.time())).status == 401
    # Two are left, two are needed: the round goes on without the third.
    for site in three[1:]:
        (task,) = site.wait_for_tasks()
        site.exchange({"kind": "answer", "task": task.id, "attempt": 1, "site": site.name}, wait=0)
    (task,) = three[1].wait_for_tasks()
    assert task.stage == "train"
    assert state_of(researcher, study) == "running"
    again = enrolled(server, three[0].name)
    assert not again.tasks_of(again.exchange(wait=0)), "what was approved under the revoked key is not approved any more"
    decided = {site["site"]: site["decision"] for site in researcher.get(f"/v1/studies/{study}")["sites"]}
    assert decided == {again.name: "waiting", three[1].name: "approve", three[2].name: "approve"}
    # Whoever had the old key may have dated a decision ahead: that does not stand in the way of the new one's.
    assert again.decide(study, time=1.0).status == 204
    assert {site["decision"] for site in researcher.get(f"/v1/studies/{study}")["sites"]} == {"approve"}


def test_a_key_is_replaced_under_both_signatures(sites: list[SiteClient]) -> None:
    site, new = sites[0], SigningKey.generate()
    statement = json.dumps({"site": site.name, "key": new.public.text, "time": time.time()}).encode()
    old_signed, new_signed = (sign_document(statement, key, kind="key-rotation") for key in (site.key, new))
    assert site.post("/v1/sites/key", {"statement": old_signed, "proof": old_signed}, 401)
    site.post("/v1/sites/key", {"statement": old_signed, "proof": new_signed}, 204)
    assert site.ask_token(make_assertion(site.key, subject=site.name, audience=site.server.url, now=time.time())).status == 401
    site.key = new
    site.login()


def test_an_account_closes_for_a_while_after_too_many_wrong_passwords(server: Server) -> None:
    server.command("user", "add", "emil", "--role", "auditor", "--password-file", "-", input=PASSWORD)
    client = Client(server)
    answers = [client.call("POST", "/v1/sessions", {"user": "emil", "password": f"wrong {n}"}) for n in range(5)]
    assert {answer.status for answer in answers} == {401}
    nobody = client.call("POST", "/v1/sessions", {"user": "nobody", "password": "wrong"})
    assert nobody.data == answers[0].data, "nobody learns who has an account"
    assert client.call("POST", "/v1/sessions", {"user": "emil", "password": PASSWORD}).status == 429


def test_a_removed_account_has_neither_password_nor_token(server: Server) -> None:
    server.command("user", "add", "greta", "--role", "auditor", "--password-file", "-", input=PASSWORD)
    client = Client(server)
    client.token = client.post("/v1/sessions", {"user": "greta", "password": PASSWORD})["access_token"]
    assert client.call("GET", "/v1/studies").status == 200
    assert "greta" in server.command("user", "list")
    server.command("user", "remove", "greta")
    assert "greta" not in server.command("user", "list")
    assert client.call("POST", "/v1/sessions", {"user": "greta", "password": PASSWORD}).status == 401
    eventually(lambda: client.call("GET", "/v1/studies").status == 401)


def test_a_generated_password_is_shown_once_and_works(server: Server) -> None:
    shown = server.command("user", "add", "fritz", "--role", "operator").splitlines()[-1]
    password = shown.rpartition(" ")[2]
    assert Client(server).post("/v1/sessions", {"user": "fritz", "password": password})["token_type"] == "Bearer"
    assert password not in server.log()
