"""Log-ins of command lines and browsers: fixation, forged requests, expiry, logging out, guessing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from serving import PASSWORD, Client, ManualClock, Server, person
from starlette.requests import Request
from starlette.types import Message

from aimer2.audit.log import AuditLog
from aimer2.coordinator.http.bodies import read_open_body
from aimer2.coordinator.people import (
    ACCOUNT_FAILURES,
    ADDRESS_FAILURES,
    LONGEST_PAUSE_SECONDS,
    PAIR_FAILURES,
    PAUSE_SECONDS,
    People,
    begin_attempt,
    note_success,
)
from aimer2.coordinator.records import Records
from aimer2.coordinator.sessions import Sessions
from aimer2.coordinator.settings import Settings
from aimer2.coordinator.store import accounts
from aimer2.coordinator.store.accounts import Account
from aimer2.coordinator.store.database import Database
from aimer2.coordinator.store.migrate import migrate
from aimer2.core.errors import BadInput, NotAuthenticated, TooManyAttempts
from aimer2.identity.keys import SigningKey
from aimer2.identity.passwords import hash_password

COOKIE = "__Host-aimer2"


@dataclass
class Browser(Client):
    """Keeps the cookie, and sends the CSRF token with every change."""

    cookie: str = ""
    csrf: str = ""
    set_cookie: SimpleCookie = field(default_factory=SimpleCookie)

    def go(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        given = {"Origin": self.server.url, "X_CSRF_Token": self.csrf} | headers
        response = self.call(method, path, body, Cookie=f"{COOKIE}={self.cookie}", **given)
        self.set_cookie = SimpleCookie(response.headers.get("Set-Cookie", ""))
        return response

    def log_in(self, name: str, password: str = PASSWORD) -> Any:
        response = self.go("POST", "/v1/session", {"user": name, "password": password})
        assert response.status == 200, response.data
        self.cookie, self.csrf = self.set_cookie[COOKIE].value, response.json()["csrf"]
        return response.json()


@pytest.fixture
def browser(server: Server, new_name: Callable[[str], str]) -> Browser:
    """Of an auditor who is logged in."""
    name = new_name("hilda")
    server.command("user", "add", name, "--role", "auditor", "--password-file", "-", input=PASSWORD)
    made = Browser(server)
    made.log_in(name)
    return made


def test_the_cookie_is_bound_to_this_host_and_hidden_from_scripts(browser: Browser) -> None:
    morsel = browser.set_cookie[COOKIE]
    assert (morsel["secure"], morsel["httponly"], morsel["path"], morsel["samesite"].lower(), morsel["domain"]) == (True, True, "/", "lax", "")
    told = browser.go("GET", "/v1/session")
    assert told.headers["Cache-Control"] == "no-store"
    assert told.json()["role"] == "auditor" and "see-study" in told.json()["actions"]
    assert browser.cookie not in told.data.decode()


def test_a_session_that_was_put_into_the_browser_is_not_taken_over(browser: Browser) -> None:
    """Fixation: what is there before the log-in, chosen or known by somebody else, is worth nothing after it."""
    before = browser.cookie
    user = browser.go("GET", "/v1/session").json()["user"]
    browser.log_in(user)
    assert browser.cookie != before
    assert Browser(browser.server, cookie=before).go("GET", "/v1/session").status == 401
    browser.cookie = "chosen-by-somebody-else"
    browser.log_in(user)
    assert browser.cookie != "chosen-by-somebody-else"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 204),
        ({"X_CSRF_Token": ""}, 403),
        ({"X_CSRF_Token": "0" * 64}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_a_change_needs_the_csrf_token_and_a_page_of_ours(browser: Browser, headers: dict[str, str], status: int) -> None:
    other = Browser(browser.server)
    other.log_in(browser.go("GET", "/v1/session").json()["user"])
    assert browser.go("DELETE", "/v1/session", **headers).status == status
    assert browser.go("GET", "/v1/session").status == (401 if status == 204 else 200)
    assert other.csrf != browser.csrf
    assert other.go("DELETE", "/v1/session", X_CSRF_Token=browser.csrf).status == 403, "a token of another session"


def test_nobody_is_logged_in_from_a_page_of_another_site(browser: Browser) -> None:
    told = browser.go("POST", "/v1/session", {"user": "x", "password": "y"}, Origin="https://evil.example")
    assert told.status == 403
    assert not browser.set_cookie


def test_a_cookie_is_no_bearer_token_and_the_other_way_round(browser: Browser) -> None:
    assert Client(browser.server, browser.cookie).call("GET", "/v1/session").status == 401
    user = browser.go("GET", "/v1/session").json()["user"]
    token = Client(browser.server).post("/v1/sessions", {"user": user, "password": PASSWORD})["access_token"]
    assert Browser(browser.server, cookie=token).go("GET", "/v1/session").status == 401
    assert Client(browser.server, token).get("/v1/session")["csrf"] == ""


def test_logging_out_ends_this_one_and_everywhere_all(browser: Browser, server: Server) -> None:
    user = browser.go("GET", "/v1/session").json()["user"]
    others = [Browser(server), Browser(server)]
    for other in others:
        other.log_in(user)
    client = Client(server)
    client.token = client.post("/v1/sessions", {"user": user, "password": PASSWORD})["access_token"]
    assert others[0].go("DELETE", "/v1/session").status == 204
    assert others[0].set_cookie[COOKIE].value == ""
    assert others[0].go("GET", "/v1/session").status == 401
    known = client.get("/v1/sessions")
    assert [session["kind"] for session in known] == ["browser", "browser", "login"]
    assert [session["current"] for session in known] == [False, False, True]
    assert others[1].go("DELETE", "/v1/sessions").status == 204
    assert [each.go("GET", "/v1/session").status for each in (browser, others[1])] == [401, 401]
    assert client.call("GET", "/v1/session").status == 401


def test_another_password_ends_every_other_log_in(browser: Browser) -> None:
    user = browser.go("GET", "/v1/session").json()["user"]
    other = Browser(browser.server)
    other.log_in(user)
    new = "a better password"
    assert browser.go("PUT", "/v1/session/password", {"old": "wrong", "new": new}).status == 401
    assert browser.go("PUT", "/v1/session/password", {"old": PASSWORD, "new": "short"}).status == 400
    assert browser.go("PUT", "/v1/session/password", {"old": PASSWORD, "new": new}).status == 204
    assert browser.go("GET", "/v1/session").status == 200
    assert other.go("GET", "/v1/session").status == 401
    assert browser.go("POST", "/v1/session", {"user": user, "password": PASSWORD}).status == 401
    browser.log_in(user, new)


def test_secrets_lie_nowhere_but_with_their_owner(browser: Browser, server: Server) -> None:
    client = person(server, "ida", "auditor")
    with sqlite3.connect(server.folder / "coordinator.sqlite") as database:
        stored = "\n".join(database.iterdump())
    log = server.log() + (server.folder / "audit.jsonl").read_text()
    for secret in (browser.cookie, browser.csrf, client.token, PASSWORD):
        assert secret not in stored
        assert secret not in log


def test_a_name_cannot_write_lines_into_the_log(server: Server) -> None:
    Client(server).post("/v1/sessions", {"user": "x\n2026-11-21 INFO site-revoked by operator", "password": "y"}, 401)
    assert not [line for line in server.log().splitlines() if line.startswith("2026-11-21 INFO site-revoked")]


def test_a_secret_in_an_address_lets_nobody_in(browser: Browser, server: Server) -> None:
    """Addresses end up in logs and histories: no route takes a token from there."""
    for name in ("access_token", "token", "Authorization", COOKIE):
        assert Client(server).call("GET", f"/v1/session?{name}={browser.cookie}").status == 401
    assert browser.cookie not in server.log()


def test_a_log_in_with_a_large_body_is_refused(server: Server) -> None:
    for route in ("session", "sessions", "enrolments", "tokens"):
        assert Client(server).call("POST", f"/v1/{route}", b" " * 70_000).status == 413


def test_who_sends_slowly_without_a_log_in_is_not_waited_for() -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(BadInput, match="within"):
        asyncio.run(read_open_body(Request({"type": "http"}, receive), seconds=0.01))


# -- time and guessing, without a process


@pytest.fixture(scope="module")
def hashed() -> str:
    return hash_password(PASSWORD)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def database(tmp_path: Path, hashed: str, clock: ManualClock) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'coordinator.sqlite'}")
    migrate(made)
    for name in ("anna", "ben"):
        made.write_now(accounts.add_account, Account(name, "operator", None, hashed), clock.now())
    yield made
    made.close()


@dataclass
class Door:
    """Guesses that count, without the work of a password's hash."""

    database: Database
    clock: ManualClock

    def fail(self, name: str, address: str = "192.0.2.1") -> bool:
        """Whether the guess was looked at."""
        try:
            self.database.write_now(begin_attempt, name, address, self.clock.now())
        except TooManyAttempts:
            return False
        return True

    def succeed(self, name: str, address: str = "192.0.2.1") -> None:
        assert self.fail(name, address)
        self.database.write_now(note_success, name, address, self.clock.now())


@pytest.fixture
def door(database: Database, clock: ManualClock) -> Door:
    return Door(database, clock)


def test_a_restart_does_not_let_anybody_guess_anew(tmp_path: Path, database: Database, clock: ManualClock) -> None:
    audit = AuditLog(tmp_path / "audit.jsonl", SigningKey.generate(), clock)

    async def attempt(password: str) -> str:
        try:
            return (await People(database, Records(audit), clock).login("anna", password, "192.0.2.1")).role
        except (NotAuthenticated, TooManyAttempts) as error:
            return error.code

    async def story() -> None:
        assert [await attempt("wrong") for _ in range(PAIR_FAILURES)] == ["not-authenticated"] * PAIR_FAILURES
        assert await attempt(PASSWORD) == "too-many-attempts"
        clock.seconds += PAUSE_SECONDS + 1
        assert await attempt(PASSWORD) == "operator"
        assert await attempt("wrong") == "not-authenticated", "the failures before are forgotten"

    asyncio.run(story())


def test_guesses_at_the_same_moment_are_counted_one_by_one(tmp_path: Path, database: Database, clock: ManualClock) -> None:
    people = People(database, Records(AuditLog(tmp_path / "audit.jsonl", SigningKey.generate(), clock)), clock)

    async def story() -> list[str]:
        tries = await asyncio.gather(*(people.login("anna", f"wrong {n}", "192.0.2.1") for n in range(12)), return_exceptions=True)
        return [getattr(error, "code", "in") for error in tries]

    told = asyncio.run(story())
    assert told.count("not-authenticated") == PAIR_FAILURES
    assert told.count("too-many-attempts") == 12 - PAIR_FAILURES


def test_each_further_failure_closes_for_twice_as_long_up_to_an_hour(door: Door, clock: ManualClock) -> None:
    for _ in range(PAIR_FAILURES):
        assert door.fail("anna")
    for pause in (60, 120, 240, 480, 960, 1920, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS):
        clock.seconds += pause - 1
        assert not door.fail("anna"), pause
        clock.seconds += 2
        assert door.fail("anna"), pause


def test_who_guesses_somewhere_else_locks_nobody_out(door: Door, clock: ManualClock) -> None:
    door.succeed("anna", "192.0.2.1")
    for number in range(ACCOUNT_FAILURES):
        assert door.fail("anna", f"198.51.100.{number}")
    assert not door.fail("anna", "203.0.113.9"), "closed to strangers"
    assert door.fail("anna", "192.0.2.1"), "open where she has been before"
    assert door.fail("ben", "203.0.113.9"), "and other accounts everywhere"


def test_who_tries_many_accounts_is_closed_out_but_not_his_neighbours(door: Door) -> None:
    door.succeed("anna")
    for number in range(ADDRESS_FAILURES):
        assert door.fail(f"guess-{number}")
    assert not door.fail("ben")
    assert door.fail("anna"), "she has been logged in from here before"
    assert door.fail("ben", "192.0.2.2")


def test_a_log_in_of_ones_own_does_not_wipe_the_guesses_at_others_away(door: Door) -> None:
    for number in range(ADDRESS_FAILURES - 1):
        assert door.fail(f"guess-{number}", "192.0.2.7")
    door.succeed("anna", "192.0.2.7")
    assert door.fail("one-more", "192.0.2.7")
    assert not door.fail("ben", "192.0.2.7")


def test_the_addresses_of_one_network_of_ipv6_count_as_one(door: Door) -> None:
    for number in range(ADDRESS_FAILURES):
        assert door.fail(f"guess-{number}", f"2001:db8::{number:x}:1")
    assert not door.fail("ben", "2001:db8::ffff")
    assert door.fail("ben", "2001:db8:0:1::1")


def test_a_session_ends_when_it_is_idle_and_in_any_case(database: Database, clock: ManualClock) -> None:
    settings = Settings(name="Test", url="https://127.0.0.1:8443", session_seconds=7200, session_idle_seconds=600)
    sessions = Sessions(database, settings, clock)

    async def story() -> None:
        secret, session = await sessions.open("anna", "browser")
        start = clock.seconds
        while clock.seconds + 500 < start + 7200:
            clock.seconds += 500
            assert (await sessions.find(secret, "browser"))[0].id == session.id
        clock.seconds = start + 7200
        with pytest.raises(NotAuthenticated):
            await sessions.find(secret, "browser")
        idle, _ = await sessions.open("anna", "browser")
        clock.seconds += 400
        await sessions.find(idle, "browser", touch=False)
        clock.seconds += 201
        with pytest.raises(NotAuthenticated):
            await sessions.find(idle, "browser")
        assert await sessions.of("anna", "browser") == []

    asyncio.run(story())
