"""The accounts of the consortium, and who works on which study."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from aimer2.audit.kinds import Kind
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import asker_of, study_for
from aimer2.coordinator.http.bodies import SMALL_BODY, described, read_document
from aimer2.coordinator.http.session_api import NO_STORE, no_script, status_of
from aimer2.coordinator.permissions import PARTS, check_role
from aimer2.coordinator.sessions import EVERYTHING
from aimer2.coordinator.store import accounts
from aimer2.coordinator.store.accounts import Account
from aimer2.core.errors import BadInput, Conflict, NotFound
from aimer2.core.said import say
from aimer2.identity.passwords import hash_password
from aimer2.messages.people import MadePerson, NewPerson, PartRequest, Person, RoleChange, SessionStatus, StudyPart


def people_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["people"])

    def account_of(name: str) -> Account:
        found = coordinator.registry.users.get(name)
        if found is None:
            raise NotFound(say("There is no user {name}.", name=name))
        return found

    def not_oneself(request: Request, name: str) -> str:
        """Who asks. An operator who could close his own account might be the last one."""
        by = no_script(request).user
        if name == by:
            raise Conflict("This is your own account.", remedy="Another operator does it, or `aimer2 coordinator user` at the machine.")
        return by

    @routes.get("/v1/people")
    async def people() -> list[Person]:
        """Every account, its role, and the hospital that it belongs to."""
        return [_person(account) for account in coordinator.registry.users.values()]

    @routes.post("/v1/people", status_code=201, openapi_extra=described(NewPerson))
    async def add(request: Request, response: Response) -> MadePerson:
        """Adds an account. Where no password is given one is made, and shown this once."""
        by = no_script(request).user
        new = await read_document(request, NewPerson, SMALL_BODY)
        check_role(new.role, new.site)
        password = new.password or secrets.token_urlsafe(16)
        account = Account(new.name, new.role, new.site, await asyncio.to_thread(hash_password, password))
        await coordinator.database.write(accounts.add_account, account, coordinator.clock.now())
        await coordinator.registry.load()
        await coordinator.records.add(Kind.USER_ADDED, actor=by, user=new.name, role=new.role, site=new.site or "")
        response.headers.update(NO_STORE)
        return MadePerson(person=_person(account), password=None if new.password else password)

    @routes.put("/v1/people/{name}", openapi_extra=described(RoleChange))
    async def change(request: Request, name: str) -> Person:
        """Gives an account another role, at once."""
        by, old = not_oneself(request, name), account_of(name)
        wanted = await read_document(request, RoleChange, SMALL_BODY)
        check_role(wanted.role, wanted.site)
        await coordinator.database.write(accounts.change_role, name, wanted.role, wanted.site)
        await coordinator.registry.load()
        await coordinator.records.add(Kind.USER_CHANGED, actor=by, user=name, role=wanted.role, site=wanted.site or "")
        return _person(replace(old, role=wanted.role, site=wanted.site))

    @routes.delete("/v1/people/{name}", status_code=204)
    async def remove(request: Request, name: str) -> Response:
        """Closes an account at once, with its log-ins and tokens; its studies stay, and run on."""
        by = not_oneself(request, name)
        await coordinator.database.write(accounts.remove_account, name)
        await coordinator.registry.load()
        await coordinator.records.add(Kind.USER_REMOVED, actor=by, user=name)
        return Response(status_code=204)

    @routes.get("/v1/people/{name}/sessions")
    async def sessions(name: str) -> list[SessionStatus]:
        """A person's log-ins and tokens for scripts; never a secret."""
        return [status_of(session, "") for session in await coordinator.sessions.of(account_of(name).name, *EVERYTHING)]

    @routes.delete("/v1/people/{name}/sessions", status_code=204)
    async def log_out(request: Request, name: str) -> Response:
        """Ends all log-ins of a person and all tokens of his scripts, at once."""
        ended = await coordinator.sessions.end_all(account_of(name).name, EVERYTHING)
        await coordinator.records.add(Kind.LOGGED_OUT, actor=asker_of(request).subject, user=name, ended=ended)
        return Response(status_code=204)

    return routes


def part_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["people"])

    @routes.get("/v1/studies/{digest}/people")
    async def parts(request: Request, digest: str) -> list[StudyPart]:
        """Who works on the study, and as what; first who has submitted it."""
        offer, _ = study_for(coordinator, request, digest)
        first = StudyPart(user=offer.submitted_by, part="principal-investigator", given=offer.submitted)
        given = await coordinator.database.read(accounts.read_parts_of, digest)
        return [first, *(StudyPart(user=row.user, part=row.part, given_by=row.given_by, given=row.given) for row in given)]

    @routes.put("/v1/studies/{digest}/people/{name}", status_code=204, openapi_extra=described(PartRequest))
    async def give(request: Request, digest: str, name: str) -> Response:
        """Gives a person a part in the study. What his role does not allow, no part does."""
        offer, asker = study_for(coordinator, request, digest)
        part = (await read_document(request, PartRequest, SMALL_BODY)).part
        if part not in PARTS:
            raise BadInput(say("There is no part {part}.", part=f"{part!r}"), remedy=say("The parts are: {parts}", parts=", ".join(PARTS)))
        if name == offer.submitted_by:
            raise Conflict(say("{name} has submitted the study, and stays its principal investigator.", name=name))
        by = {"given_by": asker.subject, "given": coordinator.clock.now()}
        await coordinator.database.write(accounts.give_part, digest, name, part, by)
        await coordinator.registry.load()
        await coordinator.records.add(Kind.PART_GIVEN, actor=asker.subject, study=digest, user=name, part=part)
        return Response(status_code=204)

    @routes.delete("/v1/studies/{digest}/people/{name}", status_code=204)
    async def take(request: Request, digest: str, name: str) -> Response:
        """Takes a person's part in the study back, at once."""
        _, asker = study_for(coordinator, request, digest)
        if not await coordinator.database.write(accounts.take_part, digest, name):
            raise NotFound(say("{name} has no part in this study that could be taken back.", name=name))
        await coordinator.registry.load()
        await coordinator.records.add(Kind.PART_TAKEN, actor=asker.subject, study=digest, user=name)
        return Response(status_code=204)

    return routes


def _person(account: Account) -> Person:
    return Person(name=account.name, role=account.role, site=account.site, openid=account.subject is not None)
