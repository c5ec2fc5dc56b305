"""The web application: every route, every error as a problem document, the OpenAPI description."""

from __future__ import annotations

from fastapi import Depends, FastAPI

from aimer2 import __version__
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http import problems
from aimer2.coordinator.http.access import gate
from aimer2.coordinator.http.blob_api import blob_routes
from aimer2.coordinator.http.consortium_api import consortium_routes
from aimer2.coordinator.http.document import describe
from aimer2.coordinator.http.draft_api import draft_routes
from aimer2.coordinator.http.events_api import event_routes
from aimer2.coordinator.http.health import health_routes
from aimer2.coordinator.http.incident_api import incident_routes
from aimer2.coordinator.http.model_api import model_routes
from aimer2.coordinator.http.openid_api import openid_routes
from aimer2.coordinator.http.overview_api import overview_routes
from aimer2.coordinator.http.people_api import part_routes, people_routes
from aimer2.coordinator.http.research_api import research_routes
from aimer2.coordinator.http.session_api import session_routes
from aimer2.coordinator.http.site_api import site_routes
from aimer2.coordinator.http.token_api import token_routes
from aimer2.coordinator.http.told_api import told_routes

_DESCRIPTION = """The interface of an AIMER2 coordinator. Sites open every connection; errors are problem documents (RFC 9457).
Tasks, decisions and results are signed (JWS, Ed25519); weights and updates travel as blobs named by their SHA-256."""


def build_app(coordinator: Coordinator) -> FastAPI:
    app = FastAPI(
        title="AIMER2 coordinator",
        version=__version__,
        description=_DESCRIPTION,
        dependencies=[Depends(gate(coordinator))],
        docs_url=None,
        redoc_url=None,
    )
    for router in (
        site_routes,
        told_routes,
        blob_routes,
        session_routes,
        openid_routes,
        token_routes,
        people_routes,
        part_routes,
        consortium_routes,
        research_routes,
        draft_routes,
        model_routes,
        event_routes,
        incident_routes,
        overview_routes,
        health_routes,
    ):
        app.include_router(router(coordinator))
    problems.install(app)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app
