"""Every error as a problem document (RFC 9457)."""

from __future__ import annotations

import traceback

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from aimer2.coordinator.records import LOG
from aimer2.core.errors import AimerError, BadInput, NotFound
from aimer2.messages.wire import FaultDocument, Problem, problem_of

MEDIA_TYPE = "application/problem+json"


def install(app: FastAPI) -> None:
    app.add_exception_handler(AimerError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_a_body)
    app.add_exception_handler(ValidationError, _of_a_body)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_anything)


async def problem_response(request: Request, error: Exception) -> Response:
    """What the application answers to this error."""
    if isinstance(error, AimerError):
        return await _of_ours(request, error)
    return await (_of_a_body if isinstance(error, ValidationError) else _of_anything)(request, error)


def response_of(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    headers = dict(headers or {})
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(problem.model_dump_json(), problem.status, headers, MEDIA_TYPE)


async def _of_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, AimerError)
    return response_of(problem_of(error))


async def _of_a_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError | ValidationError)
    found = error.errors() if isinstance(error, RequestValidationError) else error.errors(include_url=False, include_input=False)
    faults = tuple(
        FaultDocument(place=".".join(str(part) for part in fault["loc"]) or "body", problem=fault["msg"], remedy="correct the value")
        for fault in found
    )
    return response_of(problem_of(BadInput("The request is not what the interface describes.")).model_copy(update={"faults": faults}))


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = NotFound if error.status_code == 404 else BadInput
    problem = problem_of(kind(f"{request.method} {request.url.path}: {error.detail}."))
    return response_of(problem.model_copy(update={"status": error.status_code}), dict(error.headers or {}))


async def _of_anything(request: Request, error: Exception) -> Response:
    last = traceback.extract_tb(error.__traceback__)[-1]
    LOG.error("%s %s: %s at %s:%d", request.method, request.url.path, type(error).__name__, last.filename.rpartition("/")[2], last.lineno or 0)
    return response_of(problem_of(AimerError("Something went wrong in the coordinator.")))
