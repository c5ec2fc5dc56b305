"""The OpenAPI document: with the bodies that routes read by themselves, and every problem that a route may answer with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from aimer2.coordinator.http.problems import MEDIA_TYPE
from aimer2.coordinator.http.research_api import Stop
from aimer2.coordinator.permissions import ROUTES, Door
from aimer2.messages.consortium import InvitationRequest, NewAcceptance, NewAgreement, OffBoarding
from aimer2.messages.drafts import Archive, DraftChange, DraftText
from aimer2.messages.package import Package
from aimer2.messages.people import CodeLogin, CodeRequest, NewPerson, PartRequest, PasswordChange, RoleChange, TokenRequest
from aimer2.messages.record import StageRequest
from aimer2.messages.told import Told
from aimer2.messages.wire import AuditHead, EnrolmentRequest, Exchange, Incident, KeyRotation, Login, Problem, SignedDecision

_BODIES = (
    Archive,
    AuditHead,
    DraftChange,
    DraftText,
    EnrolmentRequest,
    Exchange,
    Incident,
    KeyRotation,
    InvitationRequest,
    Login,
    NewAcceptance,
    NewAgreement,
    NewPerson,
    OffBoarding,
    Package,
    PartRequest,
    PasswordChange,
    RoleChange,
    SignedDecision,
    TokenRequest,
    CodeLogin,
    CodeRequest,
    StageRequest,
    Stop,
    Told,
    Problem,
)
_REF = "#/components/schemas/{model}"
_OF_FASTAPI = ("HTTPValidationError", "ValidationError")
"""Its own form of a problem, which nobody is answered with here."""

_OWN_PROBLEMS: Mapping[str, tuple[int, ...]] = {
    # Log-ins: refused, from a page of another site, tried too often
    "POST /v1/sessions": (401, 403, 429),
    "POST /v1/sessions/code": (401,),
    "POST /v1/session": (401, 403, 429),
    "PUT /v1/session/password": (429,),
    # There is no OpenID provider
    "GET /v1/openid/login": (422,),
    "GET /v1/openid/callback": (400, 401, 403, 409, 422),
    "POST /v1/enrolments": (403, 409),
    "POST /v1/tokens": (401,),
    # What contradicts what is recorded; signatures that are not right
    "POST /v1/exchange": (404, 409),
    "POST /v1/decisions": (404, 409),
    "POST /v1/sites/key": (409,),
    "POST /v1/spending": (404, 409),
    "POST /v1/descriptions": (404, 409),
    "POST /v1/audit/heads": (409,),
    # What is no name of a blob
    "GET /v1/blobs/{sha256}": (400,),
    "HEAD /v1/blobs/{sha256}": (400,),
    "PUT /v1/blobs/{sha256}": (400, 409, 413),
    "POST /v1/service-tokens": (409,),
    "POST /v1/people": (409,),
    "PUT /v1/people/{name}": (409,),
    "DELETE /v1/people/{name}": (409,),
    "PUT /v1/studies/{digest}/people/{name}": (409,),
    "POST /v1/members/{site}/off-boarding": (409,),
    "POST /v1/invitations": (409,),
    "DELETE /v1/invitations/{identifier}": (409,),
    "POST /v1/agreements": (409,),
    "POST /v1/agreements/{digest}/acceptances": (409,),
    "POST /v1/studies": (409,),
    "POST /v1/studies/{digest}/start": (409,),
    "POST /v1/studies/{digest}/stop": (409,),
    "POST /v1/studies/{digest}/resume": (409,),
    "POST /v1/studies/{digest}/archive": (409,),
    "POST /v1/studies/{digest}/preflight": (409,),
    "POST /v1/models/{digest}/stage": (409,),
    "POST /v1/drafts": (409,),
    "PUT /v1/drafts/{draft}": (409,),
    "DELETE /v1/drafts/{draft}": (409,),
    "POST /v1/freeze": (409,),
    "POST /v1/thaw": (409,),
}
"""Besides those that follow from what the route takes and from who may come."""


def describe(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        _, read = models_json_schema([(body, "validation") for body in _BODIES], ref_template=_REF)
        schemas.update(read["$defs"])
        for name in _OF_FASTAPI:
            schemas.pop(name, None)
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _add_problems(f"{method.upper()} {path}", operation)
        app.openapi_schema = document
    return app.openapi_schema


def _add_problems(route: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    content = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    for status in sorted({*_problems(route, operation), *_OWN_PROBLEMS.get(route, ())}):
        responses.setdefault(str(status), {"description": HTTPStatus(status).phrase, "content": content})
    responses["5XX"] = {"description": "Something went wrong in the coordinator, or its disk is full", "content": content}


def _problems(route: str, operation: Mapping[str, Any]) -> Iterator[int]:
    if ROUTES[route] is not Door.ANYONE:
        yield from (401, 403)
    places = {parameter["in"] for parameter in operation.get("parameters", ())}
    if "path" in places:
        yield 404
    if "query" in places or "header" in places:
        yield 400
    if "requestBody" in operation:
        yield from (400, 413)
