"""How people come in and go out: log-ins of command lines and browsers, and one's own password."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from aimer2.audit.kinds import Kind
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import COOKIE, asker_of, check_origin
from aimer2.coordinator.http.bodies import SMALL_BODY, described, read_document, read_open_document
from aimer2.coordinator.permissions import ROLE_PERMISSIONS
from aimer2.coordinator.sessions import CODE_SECONDS, LOGINS, csrf_token
from aimer2.coordinator.store.accounts import Account, Session
from aimer2.core.errors import BadInput, NotAllowed
from aimer2.messages.people import CodeLogin, CodeRequest, LoginCode, Me, PasswordChange, SessionStatus
from aimer2.messages.wire import Login, Token

NO_STORE = {"Cache-Control": "no-store"}


def session_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["people"])
    sessions = coordinator.sessions

    @routes.post("/v1/sessions", openapi_extra=described(Login))
    async def login(request: Request, response: Response) -> Token:
        """A bearer token for a person with an account."""
        return await _token(coordinator, response, await _by_password(coordinator, request))

    @routes.post("/v1/sessions/code", openapi_extra=described(CodeLogin))
    async def login_by_code(request: Request, response: Response) -> Token:
        """A bearer token for a person whose browser has handed its log-in on (`POST /v1/session/code`); the code is good once."""
        given = await read_open_document(request, CodeLogin)
        account = await sessions.take_on(given.code, given.verifier)
        await coordinator.records.add(Kind.LOGIN_SUCCEEDED, actor=account.name, role=account.role, by="browser")
        return await _token(coordinator, response, account)

    @routes.post("/v1/session/code", openapi_extra=described(CodeRequest))
    async def hand_on(request: Request, response: Response) -> LoginCode:
        """A code that logs a command line in as the person of this browser, however that person has logged in; never from another token."""
        session = asker_of(request).session
        if session is None or session.kind != "browser":
            raise BadInput("Only a browser hands its log-in on.", remedy="Open the address that `aimer2 login --browser` shows.")
        given = await read_document(request, CodeRequest, SMALL_BODY)
        response.headers.update(NO_STORE)
        return LoginCode(code=await sessions.hand_on(session, given.challenge), expires_in=CODE_SECONDS)

    @routes.post("/v1/session", openapi_extra=described(Login))
    async def log_in_browser(request: Request, response: Response) -> Me:
        """A session for a browser: its secret is in the cookie `__Host-aimer2`, always a new one; an older session of this browser ends."""
        check_origin(request)
        account = await _by_password(coordinator, request)
        return await start_session(coordinator, request, response, account)

    @routes.get("/v1/session")
    async def me(request: Request, response: Response) -> Me:
        """Who asks, what he may, until when; for a browser the CSRF token that goes with every change, as header `X-CSRF-Token`."""
        asker = asker_of(request)
        assert asker.session is not None
        response.headers.update(NO_STORE)
        return _me(coordinator, asker.session, Account(asker.subject, asker.role, asker.site), asker.csrf)

    @routes.delete("/v1/session", status_code=204)
    async def log_out(request: Request) -> Response:
        """Ends the log-in, session or token that this request shows."""
        asker = asker_of(request)
        assert asker.session is not None
        await sessions.end(asker.session.id)
        return _goodbye()

    @routes.get("/v1/sessions")
    async def own_sessions(request: Request) -> list[SessionStatus]:
        """One's own log-ins that are open."""
        asker = asker_of(request)
        own = asker.session.id if asker.session else ""
        return [status_of(session, own) for session in await sessions.of(asker.subject, *LOGINS)]

    @routes.delete("/v1/sessions", status_code=204)
    async def log_out_everywhere(request: Request) -> Response:
        """Ends all of one's own log-ins, this one too; tokens of scripts stay."""
        user = no_script(request).user
        ended = await sessions.end_all(user)
        await coordinator.records.add(Kind.LOGGED_OUT, actor=user, user=user, ended=ended)
        return _goodbye()

    @routes.put("/v1/session/password", status_code=204, openapi_extra=described(PasswordChange))
    async def change_password(request: Request) -> Response:
        """Sets one's own password, for which the old one is asked; ends all other log-ins."""
        session = no_script(request)
        given = await read_document(request, PasswordChange, SMALL_BODY)
        await coordinator.people.login(session.user, given.old, address_of(request))
        await coordinator.people.set_password(session.user, given.new)
        await sessions.end_all(session.user, but=session.id)
        await coordinator.records.add(Kind.PASSWORD_CHANGED, actor=session.user)
        return Response(status_code=204)

    return routes


async def start_session(coordinator: Coordinator, request: Request, response: Response, account: Account) -> Me:
    """Opens a browser's session and puts its cookie into the response."""
    # What the browser shows may have been put there by somebody else: it is never taken over.
    await coordinator.sessions.end_secret(request.cookies.get(COOKIE, ""))
    secret, session = await coordinator.sessions.open(account.name, "browser")
    response.headers.update(NO_STORE)
    response.set_cookie(COOKIE, secret, max_age=int(session.expires - session.made), path="/", secure=True, httponly=True, samesite="lax")
    return _me(coordinator, session, account, csrf_token(secret))


def no_script(request: Request) -> Session:
    """The log-in of a person who is there himself. Raises NotAllowed for a script's token: it must not make itself last."""
    session = asker_of(request).session
    if session is None or session.kind == "service":
        raise NotAllowed("A token of a script may not do this.", remedy="Log in.")
    return session


def status_of(session: Session, own: str) -> SessionStatus:
    fields = {name: getattr(session, name) for name in Session.__slots__}
    return SessionStatus(**fields, current=session.id == own)


def address_of(request: Request) -> str:
    return request.client.host if request.client else ""


async def _token(coordinator: Coordinator, response: Response, account: Account) -> Token:
    secret, session = await coordinator.sessions.open(account.name, "login")
    response.headers.update(NO_STORE)
    return Token(access_token=secret, expires_in=int(session.expires - session.made))


async def _by_password(coordinator: Coordinator, request: Request) -> Account:
    given = await read_open_document(request, Login)
    return await coordinator.people.login(given.user, given.password, address_of(request))


def _me(coordinator: Coordinator, session: Session, account: Account, csrf: str) -> Me:
    actions = tuple(sorted(ROLE_PERMISSIONS.get(account.role, ())))
    return Me(
        user=account.name,
        role=account.role,
        site=account.site,
        kind=session.kind,
        expires=session.expires,
        ends=coordinator.sessions.ends(session),
        actions=actions,
        csrf=csrf,
    )


def _goodbye() -> Response:
    response = Response(status_code=204, headers=NO_STORE)
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return response
