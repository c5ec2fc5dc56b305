"""The interface keeps what its OpenAPI document says: drawn requests, fit and unfit, by everybody, at every route; in process, with real studies.

Of each answer: no fault of the coordinator's own (5xx), and status, content type, headers and body as documented.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import PASSWORD, answer_of, package_of, ref_of, tensor
from starlette.types import Receive, Scope, Send

from aimer2.coordinator.app import build_app
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.exchange_first import ExchangeFirst
from aimer2.coordinator.permissions import PARTS, ROLE_PERMISSIONS, ROLES, ROUTES, SITE, SITE_ROLES, Action, Door
from aimer2.coordinator.settings import Folder, Settings
from aimer2.coordinator.setup import initialise
from aimer2.coordinator.store import accounts, members
from aimer2.coordinator.store.accounts import Account
from aimer2.core.clock import SystemClock
from aimer2.core.task import Task
from aimer2.identity.documents import open_document, sign_document
from aimer2.identity.keys import SigningKey
from aimer2.identity.passwords import hash_password
from aimer2.identity.secret_files import read_secret
from aimer2.identity.tokens import issue_token
from aimer2.messages.wire import Decision, Exchange, attach

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance]
NOBODY = "nobody"
ASKERS = (NOBODY, SITE, *ROLES)
ROSTER = ("north", "south")
FITTING: dict[str, Sequence[str]] = {
    "role": ROLES,
    "part": PARTS,
    "user": ["erna"],
    "password": [PASSWORD, "wrong"],
    "dated": ["2026-11-01"],
    "site": ["south-2", "north-2"],
    "grant_type": ["client_credentials"],
}
"""What a document's form alone does not say; most bodies that have such a field are given one of these."""
MADE = {"POST /v1/drafts": "draft", "POST /v1/service-tokens": "identifier", "POST /v1/invitations": "identifier"}
"""Routes that make something, and what its name is called where it is asked for."""
WHO = "x-who"
"""The header by which a drawn request says as whom it comes; the world puts a log-in in its place."""


@dataclass(frozen=True)
class Hospital:
    name: str
    key: SigningKey


@dataclass
class World:
    """A coordinator with a finished study, a stopped one and some that are offered, whose people log in anew whenever they have logged out."""

    folder: Path
    known: dict[str, list[str]] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    _tokens: dict[str, str] = field(default_factory=dict)
    _working: list[asyncio.Task[None]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        named = [(name, value) for name, value in scope["headers"] if name != WHO.encode()]
        who = dict(scope["headers"]).get(WHO.encode(), NOBODY.encode()).decode()
        if who != NOBODY:
            named = [(name, value) for name, value in named if name != b"authorization"]
            named.append((b"authorization", f"Bearer {await self._token(who)}".encode()))
        await self.app({**scope, "headers": named}, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        await self._open()
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        self.coordinator.stop_waiting()
        await self.coordinator.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _open(self) -> None:
        folder = Folder(self.folder / "coordinator")
        initialise(folder, Settings(name="Test", url="https://127.0.0.1:8443"), SystemClock())
        self.coordinator = Coordinator.open(folder)
        self.app = ExchangeFirst(build_app(self.coordinator), self.coordinator)
        await self.coordinator.start()
        hospitals = [await self._enrol(name) for name in ROSTER]
        await self._enrol("leaving")
        now = time.time()
        for role in ROLES:
            account = Account(role, role, "north" if role in SITE_ROLES else None)
            await self.coordinator.database.write(accounts.add_account, account, now)
        for name in ("erna", "emil", "eva"):
            await self.coordinator.database.write(accounts.add_account, Account(name, "auditor", None, hash_password(PASSWORD)), now)
        await self.coordinator.registry.load()
        secret = read_secret(folder.token_secret)
        self._tokens[SITE] = issue_token(secret, subject="north", role=SITE, now=now, lifetime_seconds=86400)
        await self._studies(hospitals)
        self.known |= {"name": ["erna", "emil", "eva"], "site": ["leaving", "north"], "draft": [], "identifier": []}

    async def _enrol(self, name: str) -> Hospital:
        hospital = Hospital(name, SigningKey.generate())
        database, now = self.coordinator.database, time.time()
        await database.write(members.add_invitation, f"code-{name}", name, now, now + 60)
        await database.write(members.enrol, members.Enrolment(f"code-{name}", name, hospital.key.public.text, now))
        return hospital

    async def _studies(self, hospitals: Sequence[Hospital]) -> None:
        """Of whoever has the role researcher."""
        initial = tensor(w=np.zeros(3, np.float32))
        ref = ref_of(initial)
        made = []
        for number in range(6):
            upload = self.coordinator.storage.staging.partial(ref)
            upload.write(initial)
            upload.finish()
            await self.coordinator.database.write(members.note_upload, ref.sha256, "user:researcher")
            package, digest = package_of(hospitals, ref, name=f"study-{number}")  # type: ignore[arg-type]
            await self.coordinator.studies.submit(package, "researcher")
            made.append(digest)
        self._working = [asyncio.create_task(self._work(hospital)) for hospital in hospitals]
        for hospital in hospitals:
            said = Decision(study=made[0], site=hospital.name, decision="approve", by="Dr A", dataset="d", time=time.time())
            statement = sign_document(said.model_dump_json().encode(), hospital.key, kind="decision")
            await self.coordinator.studies.decide(hospital.name, statement)
        await self.coordinator.studies.stop(made[1], "researcher", final=True, reason="a test")
        news = self.coordinator.studies.news(made[0])
        while self.coordinator.registry.study(made[0]).state != "finished":
            assert await news.wait(news.count, 20) is None
        self.known |= {"digest": made, "sha256": [ref.sha256]}
        self.ended = made[:2]

    async def _work(self, hospital: Hospital) -> None:
        body = Exchange(wait_seconds=30)
        while True:
            answered = json.loads(await self.coordinator.queue.exchange(hospital.name, body))
            body = Exchange(wait_seconds=30, revision=answered["revision"])
            for text in answered.get("tasks", ()):
                task = Task.model_validate_json(open_document(text, self.coordinator.key.public, kind="task"))
                answer, blobs = answer_of(hospital, task)  # type: ignore[arg-type]
                attached = {ref_of(blob).sha256: attach(blob) for blob in blobs}
                body = Exchange(replies=(answer,), attachments=attached, wait_seconds=30, revision=answered["revision"])

    async def _token(self, who: str) -> str:
        with suppress(Exception):
            await self.coordinator.sessions.find(self._tokens[who], "login")
            return self._tokens[who]
        if who != SITE:
            self._tokens[who], _ = await self.coordinator.sessions.open(who, "login")
        return self._tokens[who]


class Outgoing:
    """Connections that this process opens while it is looked at: an audit hook of the interpreter, which stays, but does nothing at other times."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.looked_at = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.looked_at and event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
            self.found.append(f"{event} {arguments}")


@pytest.fixture(scope="module")
def outgoing() -> Outgoing:
    return Outgoing()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield World(tmp_path_factory.mktemp("interface"))
    asgi.shutdown_lifespans()


def welcome_at(route: str) -> Sequence[str]:
    row = ROUTES[route]
    if isinstance(row, Action):
        # The studies are the researcher's.
        return [role for role in ("researcher", "operator") if row in ROLE_PERMISSIONS[role]] or [r for r in ROLES if row in ROLE_PERMISSIONS[r]]
    return {Door.AGENT: [SITE], Door.ANYONE: [NOBODY], Door.BLOBS: ["researcher"], Door.PACKAGE: [SITE, "researcher"]}[row]


def prepare(world: World, case: Any, draw: Any) -> None:
    """Most names are those of something that there is; and nothing waits for events that do not come."""
    mostly = st.sampled_from([True, True, True, False])
    for name in case.path_parameters or {}:
        if (known := world.known.get(name)) and draw(mostly):
            case.path_parameters[name] = draw(st.sampled_from(world.ended if case.path.endswith("/events") else known))
    if not isinstance(case.body, dict):
        return
    for name in case.body.keys() & FITTING.keys():
        if draw(mostly):
            case.body[name] = draw(st.sampled_from(FITTING[name]))
    if case.path == "/v1/exchange":
        try:
            waits = float(case.body.get("wait_seconds", 50)) >= 0
        except (TypeError, ValueError, OverflowError):
            waits = False
        if waits:
            case.body["wait_seconds"] = 0


@dataclass
class Walk:
    """Through all routes: which of them have answered with what was asked for, and what is wrong in answers, with a request that shows it."""

    world: World
    session: Any
    wrong: dict[str, str] = field(default_factory=dict)
    succeeded: dict[str, bool] = field(default_factory=dict)

    def ask(self, operation: Any, drawing: settings) -> None:
        welcome = welcome_at(f"{operation.method.upper()} {operation.path}")

        @drawing
        @given(data=st.data())
        def once(data: st.DataObject) -> None:
            case = data.draw(operation.as_strategy(generation_mode=data.draw(st.sampled_from(list(GenerationMode)))))
            who = data.draw(st.one_of(st.sampled_from(welcome), st.sampled_from(ASKERS)))
            prepare(self.world, case, data.draw)
            self.judge(case, who, case.call(session=self.session, headers={WHO: who}, timeout=20))

        once()

    def judge(self, case: Any, who: str, response: Any) -> None:
        route = case.operation.label
        self.succeeded[route] = self.succeeded.get(route, False) or response.status_code < 400
        if response.status_code == 201 and (name := MADE.get(route)):
            made = response.json()
            self.world.known[name].append(made.get("status", made)["id"])
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as failures:
            for failure in failures.exceptions:
                shown = f"{failure} — asked by {who}: {case.as_curl_command()[:600]}"
                self.wrong.setdefault(f"{route} {response.status_code} {type(failure).__name__}", shown)


def walk(world: World, drawing: settings) -> Walk:
    schema = schemathesis.openapi.from_asgi("/openapi.json", world)
    drawing = settings(drawing, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    with asgi.get_client(world) as session:
        way = Walk(world, session)
        for found in schema.get_all_operations():
            way.ask(found.ok(), drawing)
        return way


@pytest.mark.timeout(300)
def test_drawn_requests_are_answered_as_documented(world: World, outgoing: Outgoing) -> None:
    """And nothing that is asked makes the coordinator ask somebody else (request forgery)."""
    outgoing.looked_at = True
    way = walk(world, settings(max_examples=8, derandomize=True))
    outgoing.looked_at = False
    assert not way.wrong
    assert not outgoing.found
    assert sum(way.succeeded.values()) >= len(way.succeeded) * 0.6, "or the requests are too unfit to tell of anything"


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_very_many_drawn_requests_are_answered_as_documented(world: World) -> None:
    assert not walk(world, settings(max_examples=500, derandomize=False)).wrong
