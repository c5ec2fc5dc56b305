"""Every role asks every route, with real requests: what the table allows is let in, everything else is not; and nobody reaches what is another's.

The walk does not read the table's own answer alone: `MAY` says once more, by hand, what each role is expected to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from serving import PASSWORD, Client, Server, SiteClient, enrolled, eventually, person, submit

from aimer2.coordinator.permissions import PART_PERMISSIONS, ROLE_PERMISSIONS, ROLES, ROUTES, Action, Door, Reach, covers

HOSPITAL = ("site-administrator", "data-protection-officer")
EVERYBODY = frozenset(ROLES)
ALL_STUDIES = frozenset({"operator", "auditor"})
OPERATOR = frozenset({"operator"})
INVESTIGATORS = frozenset({"principal-investigator", "researcher"})

MAY: dict[Action, frozenset[str]] = {
    Action.OWN: EVERYBODY,
    Action.SEE_SITES: EVERYBODY,
    Action.SEE_STUDY: EVERYBODY,
    Action.FOLLOW_STUDY: ALL_STUDIES | INVESTIGATORS,
    Action.SUBMIT_STUDY: INVESTIGATORS,
    Action.CONDUCT_STUDY: OPERATOR | INVESTIGATORS,
    Action.REHEARSE_STUDY: OPERATOR | INVESTIGATORS,
    Action.SHARE_STUDY: frozenset({"operator", "principal-investigator"}),
    Action.SEE_MODELS: EVERYBODY,
    Action.STAGE_MODEL: OPERATOR | INVESTIGATORS,
    Action.USE_BLOBS: ALL_STUDIES | INVESTIGATORS,
    Action.SEE_PEOPLE: ALL_STUDIES,
    Action.MANAGE_PEOPLE: OPERATOR,
    Action.SEE_CONSORTIUM: EVERYBODY,
    Action.MANAGE_CONSORTIUM: OPERATOR,
    Action.ACCEPT_AGREEMENT: frozenset(HOSPITAL),
    Action.SEE_FREEZE: EVERYBODY,
    Action.FREEZE: OPERATOR,
    Action.READ_AUDIT: ALL_STUDIES,
}
"""What each role is meant to do at all."""

ENDS_THE_LOG_IN = {"DELETE /v1/session", "DELETE /v1/sessions"}


@dataclass(frozen=True)
class World:
    """One study of Anna's between two hospitals, one hospital that has no part in it, and a person of each role without a part."""

    server: Server
    study: str
    owner: Client
    strangers: dict[str, Client]
    inside: SiteClient
    outside: SiteClient


@pytest.fixture(scope="module")
def world(server: Server, new_name: Callable[[str], str]) -> World:
    inside, other, outside = (enrolled(server, new_name(name)) for name in ("inside", "other", "outside"))
    owner = person(server, new_name("owner"), "principal-investigator")
    study = submit(owner, [inside, other], name="walked")
    for site in (inside, other):
        assert site.decide(study, "refuse", by="Dr Secret", reason="for the test").status == 204
    made = {role: _account(server, new_name("stranger"), role, outside.name) for role in ROLES}
    return World(server, study, owner, made, inside, outside)


def _account(server: Server, name: str, role: str, site: str) -> Client:
    place = ("--site", site) if role in HOSPITAL else ()
    server.command("user", "add", name, "--role", role, *place, "--password-file", "-", input=PASSWORD)
    client = Client(server)
    client.token = client.post("/v1/sessions", {"user": name, "password": PASSWORD})["access_token"]
    eventually(lambda: client.call("GET", "/v1/sites").status == 200)
    return client


def ask(client: Client, route: str, study: str) -> Any:
    method, path = route.split(" ")
    values = {"digest": study, "sha256": "0" * 64, "name": "nobody-of-this-name", "site": "nowhere"}
    path = re.sub(r"{(\w+)}", lambda found: values.get(found[1], "0" * 16), path)
    body = {} if method in ("POST", "PUT", "PATCH") and "blobs" not in path else None
    headers = {"Upload_Offset": "0", "Upload_Length": "1"} if "blobs" in path else {}
    return client.call(method, path, body, **headers)


def test_every_route_of_the_app_is_in_the_table(server: Server) -> None:
    described = Client(server).get("/openapi.json")["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    assert routes == ROUTES.keys() - {"GET /openapi.json"}


def test_every_action_is_of_somebody_and_of_some_route() -> None:
    assert {action for action in ROUTES.values() if isinstance(action, Action)} | {Action.USE_BLOBS} == set(MAY) == set(Action)
    assert {action: frozenset(role for role in ROLES if action in ROLE_PERMISSIONS[role]) for action in Action} == MAY


@pytest.mark.parametrize("role", ROLES)
def test_each_role_at_each_route(world: World, role: str) -> None:
    """403 exactly where the role may not; of the study, in which nobody here has a part, what all may see who may see all."""
    client, wrong = world.strangers[role], []
    for route, row in ROUTES.items():
        if row is Door.ANYONE or route in ENDS_THE_LOG_IN:
            continue
        action = {Door.AGENT: None, Door.BLOBS: Action.USE_BLOBS, Door.PACKAGE: Action.SEE_STUDY}[row] if isinstance(row, Door) else row
        status = ask(client, route, world.study).status
        if action is None or role not in MAY[action]:
            expected = {403}
        elif "/studies/{digest}" in route and action is not Action.SEE_MODELS and role not in ALL_STUDIES:
            expected = {404}
        else:
            # Let in; what the route says of an empty body, or of things that there are not, is its own matter.
            expected = {200, 201, 202, 204, 400, 404, 409}
        if status not in expected:
            wrong.append((route, status, expected))
    assert not wrong


@pytest.mark.parametrize("row", [Door.AGENT, Action.SEE_STUDY])
def test_an_agent_has_its_own_doors_only(world: World, row: Door | Action) -> None:
    for route in (route for route, needed in ROUTES.items() if isinstance(needed, Action) == isinstance(row, Action) and needed is not Door.ANYONE):
        status = ask(world.outside, route, world.study).status
        assert (status == 403) == isinstance(row, Action), (route, status)


def test_nobody_without_a_log_in_comes_in_anywhere(world: World) -> None:
    client = Client(world.server)
    assert {ask(client, route, world.study).status for route, row in ROUTES.items() if row is not Door.ANYONE} == {401}


# -- what is another's


def test_the_people_of_a_hospital_see_their_own_site_s_things_only(world: World, new_name: Callable[[str], str]) -> None:
    for role in HOSPITAL:
        inside = _account(world.server, new_name("own"), role, world.inside.name)
        assert [site["site"] for site in inside.get("/v1/sites")] == [world.inside.name]
        (study,) = inside.get("/v1/studies")
        assert [decision["site"] for decision in study["sites"]] == [world.inside.name]
        assert inside.get(f"/v1/studies/{world.study}")["sites"] == study["sites"]
        assert inside.get(f"/v1/studies/{world.study}/package")["study"]["name"] == "walked"
        for path in ("events", "result", "model", "people"):
            assert inside.call("GET", f"/v1/studies/{world.study}/{path}").status == 403
        assert inside.call("POST", "/v1/decisions", {"statement": "x"}).status == 403, "nothing here approves for a hospital"
        outside = world.strangers[role]
        assert outside.get("/v1/studies") == []
        assert outside.call("GET", f"/v1/studies/{world.study}/package").status == 404


def test_a_part_in_a_study_lets_in_as_far_as_it_goes(world: World, new_name: Callable[[str], str]) -> None:
    name, route = new_name("guest"), f"/v1/studies/{world.study}"
    guest = _account(world.server, name, "researcher", "")
    assert guest.call("GET", route).status == 404
    for part in ("auditor", "researcher", "principal-investigator"):
        assert world.owner.call("PUT", f"{route}/people/{name}", {"part": part}).status == 204
        assert guest.get(route)["name"] == "walked"
        assert [study["digest"] for study in guest.get("/v1/studies")] == [world.study]
        may = Action.CONDUCT_STUDY in PART_PERMISSIONS[part]
        assert guest.call("POST", f"{route}/start").status == (409 if may else 403), "too few have approved"
        assert guest.call("PUT", f"{route}/people/{name}", {"part": part}).status == 403, "a researcher does not hand out parts"
    assert [(p["user"], p["part"]) for p in world.owner.get(f"{route}/people")][1:] == [(name, "principal-investigator")]
    assert world.owner.call("DELETE", f"{route}/people/{name}").status == 204
    assert guest.call("GET", route).status == 404
    assert world.owner.call("DELETE", f"{route}/people/{name}").status == 404
    assert world.owner.call("PUT", f"{route}/people/{name}", {"part": "owner"}).status == 400


def test_a_blob_of_another_s_study_is_not_there(world: World) -> None:
    initial = world.owner.get(f"/v1/studies/{world.study}/package")["initial"]["sha256"]
    assert world.owner.call("GET", f"/v1/blobs/{initial}").status == 200
    assert world.strangers["researcher"].call("GET", f"/v1/blobs/{initial}").status == 404
    assert world.outside.call("GET", f"/v1/blobs/{initial}").status == 404


# -- tokens for scripts


def test_which_role_includes_which() -> None:
    included = {(role, other) for role in ROLES for other in ROLES if role != other and covers(role, other)}
    assert included == {
        ("principal-investigator", "researcher"),
        ("operator", "auditor"),
        ("site-administrator", "data-protection-officer"),
        ("data-protection-officer", "site-administrator"),
    }
    assert all(reach is not Reach.ALL or action in ROLE_PERMISSIONS["operator"] for action, reach in ROLE_PERMISSIONS["auditor"].items())


def test_a_script_s_token_is_limited_and_ends_when_it_is_revoked(server: Server, new_name: Callable[[str], str]) -> None:
    name = new_name("operator")
    operator = _account(server, name, "operator", "")
    made = operator.post("/v1/service-tokens", {"name": "nightly", "role": "auditor"}, 201)
    script = Client(server, made["token"])
    assert script.get("/v1/session")["role"] == "auditor"
    assert script.call("GET", "/v1/studies").status == 200
    assert script.call("POST", "/v1/people", {"name": "x", "role": "operator"}).status == 403
    for method, path in (("POST", "/v1/service-tokens"), ("PUT", "/v1/session/password"), ("DELETE", "/v1/sessions")):
        assert script.call(method, path, {"name": "another"}).status == 403, "a script's token does not make itself last"
    operator.post("/v1/service-tokens", {"name": "nightly"}, 409)
    operator.post("/v1/service-tokens", {"name": "wide", "role": "researcher"}, 403)
    (listed,) = operator.get("/v1/service-tokens")
    assert made["token"] not in str(listed)
    other = _account(server, new_name("other"), "auditor", "")
    assert other.call("DELETE", f"/v1/service-tokens/{listed['id']}").status == 404, "another's"
    assert operator.call("DELETE", f"/v1/service-tokens/{listed['id']}").status == 204
    assert script.call("GET", "/v1/studies").status == 401
    log = server.log() + (server.folder / "audit.jsonl").read_text()
    assert made["token"] not in log and "token-made" in log


def test_a_token_never_does_more_than_its_account_does_now(server: Server, new_name: Callable[[str], str]) -> None:
    name = new_name("fallen")
    client = _account(server, name, "operator", "")
    wide = Client(server, client.post("/v1/service-tokens", {"name": "all"}, 201)["token"])
    narrow = Client(server, client.post("/v1/service-tokens", {"name": "audits", "role": "auditor"}, 201)["token"])
    operator = _account(server, new_name("chief"), "operator", "")
    assert operator.call("PUT", f"/v1/people/{name}", {"role": "researcher"}).status == 200
    assert wide.get("/v1/session")["role"] == "researcher"
    assert narrow.call("GET", "/v1/session").status == 401
    assert client.call("GET", "/v1/people").status == 403


def test_an_operator_manages_accounts_but_not_his_own(server: Server, new_name: Callable[[str], str]) -> None:
    own, new = new_name("chief"), new_name("neu")
    operator = _account(server, own, "operator", "")
    made = operator.post("/v1/people", {"name": new, "role": "data-protection-officer", "site": "north"}, 201)
    client = Client(server)
    client.token = client.post("/v1/sessions", {"user": new, "password": made["password"]})["access_token"]
    assert client.get("/v1/session")["site"] == "north"
    assert {"name": new, "role": "data-protection-officer", "site": "north", "openid": False} in operator.get("/v1/people")
    assert [session["kind"] for session in operator.get(f"/v1/people/{new}/sessions")] == ["login"]
    assert operator.call("DELETE", f"/v1/people/{new}/sessions").status == 204
    assert client.call("GET", "/v1/session").status == 401
    assert operator.call("DELETE", f"/v1/people/{new}").status == 204
    assert client.call("POST", "/v1/sessions", {"user": new, "password": made["password"]}).status == 401
    assert operator.call("DELETE", f"/v1/people/{own}").status == 409
    assert operator.call("PUT", f"/v1/people/{own}", {"role": "auditor"}).status == 409
    for wrong in ({"role": "king"}, {"role": "operator", "site": "north"}, {"role": "site-administrator"}):
        assert operator.call("POST", "/v1/people", {"name": "x"} | wrong).status == 400
    assert operator.call("POST", "/v1/people", {"name": "a/b", "role": "auditor"}).status == 400
