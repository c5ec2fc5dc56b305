"""What sites call: enrolment, tokens, the exchange, packages, decisions, keys."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import asker_of, site_by, study_for
from aimer2.coordinator.http.bodies import described, read_document, read_open_body, read_open_document, read_whole
from aimer2.coordinator.permissions import SITE
from aimer2.core.errors import NotFound
from aimer2.messages.package import Package
from aimer2.messages.wire import Enrolled, EnrolmentRequest, Exchange, Exchanged, KeyRotation, SignedDecision, Token

_FORM = {
    "type": "object",
    "required": ["grant_type", "client_assertion_type", "client_assertion"],
    "properties": {
        "grant_type": {"const": "client_credentials"},
        "client_assertion_type": {"const": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
        "client_assertion": {"type": "string", "description": "signed by the site's key; its audience is the coordinator's address"},
    },
}
_FORM_BODY = {"requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": _FORM}}}}


async def exchange_for(coordinator: Coordinator, authorization: str, receive: Receive) -> bytes:
    """The exchange itself, without a framework around it: `ExchangeFirst` comes here straight."""
    site = site_by(coordinator, authorization)
    body = await read_whole(receive, coordinator.settings.max_request_bytes)
    answer = await coordinator.queue.exchange(site, Exchange.model_validate_json(body))
    metrics = coordinator.metrics
    metrics.exchanges.inc()
    metrics.bytes_received.inc(len(body))
    metrics.bytes_sent.inc(len(answer))
    return answer


def site_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["sites"])
    limit = coordinator.settings.max_request_bytes

    @routes.post("/v1/exchange", response_model=Exchanged, openapi_extra=described(Exchange))
    async def exchange(request: Request) -> Response:
        """Hands in replies and waits for tasks; answered the moment there is something to do, at the latest after `wait_seconds`.

        Replies are stored before this answers. The same replies again change nothing.
        """
        answer = await exchange_for(coordinator, request.headers.get("authorization", ""), request.receive)
        return Response(answer, media_type="application/json")

    @routes.post("/v1/enrolments", openapi_extra=described(EnrolmentRequest))
    async def enrol(request: Request) -> Enrolled:
        """Uses an invitation up and records the site's public key. The same request again gets the same answer."""
        return await coordinator.enrolment.enrol(await read_open_document(request, EnrolmentRequest))

    @routes.post("/v1/tokens", openapi_extra=_FORM_BODY)
    async def token(request: Request) -> Token:
        """A bearer token for the site that signed the assertion (RFC 7523, RFC 6749 section 4.4)."""
        form = dict(parse_qsl((await read_open_body(request)).decode("utf-8", "replace")))
        return await coordinator.enrolment.token(form)

    @routes.get("/v1/studies/{digest}/package")
    async def package(request: Request, digest: str) -> Package:
        """The study as it was submitted: what a hospital decides about. Its SHA-256 over deterministic CBOR is the digest."""
        asker = asker_of(request)
        if asker.role != SITE:
            return study_for(coordinator, request, digest)[0].package
        offer = coordinator.registry.study(digest)
        if asker.site not in offer.package.roster:
            raise NotFound("There is no study with this digest.")
        return offer.package

    @routes.post("/v1/decisions", status_code=204, openapi_extra=described(SignedDecision))
    async def decide(request: Request) -> Response:
        """Records what the site has decided, verbatim as it has signed it (JWS of kind `decision`)."""
        site = asker_of(request).subject
        await coordinator.studies.decide(site, (await read_document(request, SignedDecision, limit)).statement)
        return Response(status_code=204)

    @routes.post("/v1/sites/key", status_code=204, openapi_extra=described(KeyRotation))
    async def rotate(request: Request) -> Response:
        """Replaces the site's key: a statement under the old key and the same under the new one (JWS of kind `key-rotation`)."""
        site = asker_of(request).subject
        await coordinator.enrolment.rotate(site, await read_document(request, KeyRotation, limit))
        return Response(status_code=204)

    return routes
