"""Whether the coordinator works, and its figures for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from aimer2 import __version__
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.store.database import read_changes
from aimer2.core.errors import Unreachable
from aimer2.core.task import Document
from aimer2.messages.wire import CoordinatorInfo


class Health(Document):
    status: str = Field(default="ok", description="ok, or frozen: it works, and everything is stopped at a person's word")
    version: str = __version__


def health_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["operation"])

    @routes.get("/health")
    async def health() -> Health:
        """200 while the process answers, its database can be read and its audit log be written, 503 otherwise."""
        try:
            await coordinator.database.read(read_changes)
        except SQLAlchemyError as error:
            raise Unreachable("The database cannot be read.", remedy="Look after the database; the coordinator goes on by itself.") from error
        if coordinator.records.failing:
            raise Unreachable(
                "The audit log cannot be written.", remedy="Make room on its disk; what is not written yet follows with the next entry."
            )
        return Health(status="frozen" if coordinator.freezing.state.frozen else "ok")

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics(request: Request) -> Response:
        """Figures in Prometheus' text format."""
        return Response(coordinator.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/v1/coordinator")
    async def info() -> CoordinatorInfo:
        """Who this is: name, signing key, version, time."""
        settings = coordinator.settings
        return CoordinatorInfo(name=settings.name, key=coordinator.key.public.text, version=__version__, time=coordinator.clock.now())

    return routes
