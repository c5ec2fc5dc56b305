"""What people call about models: the versions that studies have left, their records, their stages."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import Asker, asker_of, may, study_for
from aimer2.coordinator.http.bodies import described, read_document
from aimer2.coordinator.http.files import DOCUMENTED, send_blob
from aimer2.coordinator.permissions import Action
from aimer2.core.errors import NotFound
from aimer2.messages.record import ModelSummary, StageRequest, StudyRecord


def model_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["models"])

    def may_see(asker: Asker, model: ModelSummary) -> bool:
        return model.stage == "released" or may(coordinator, asker, Action.FOLLOW_STUDY, coordinator.registry.study(model.study))

    async def model_for(request: Request, digest: str) -> ModelSummary:
        """A model that this person may see: one of a study that he follows, or a released one. Raises NotFound for all else."""
        asker = asker_of(request)
        model = await coordinator.models.one(digest)
        if not may_see(asker, model):
            raise NotFound("There is no study with this digest.")
        return model

    @routes.get("/v1/models")
    async def models(request: Request) -> list[ModelSummary]:
        """The versions that this person may see, the oldest first."""
        asker = asker_of(request)
        return [model for model in await coordinator.models.all() if may_see(asker, model)]

    @routes.get("/v1/models/{digest}")
    async def model(request: Request, digest: str) -> ModelSummary:
        """The version that the study of this digest has left."""
        return await model_for(request, digest)

    @routes.get("/v1/models/{digest}/weights", response_class=Response, responses=DOCUMENTED)
    async def weights(request: Request, digest: str) -> Response:
        """The weights, a tensor blob; ranges as for blobs."""
        found = await model_for(request, digest)
        return await send_blob(coordinator, request, coordinator.storage.of(digest), found.model.sha256)

    @routes.post("/v1/models/{digest}/stage", openapi_extra=described(StageRequest))
    async def stage(request: Request, digest: str) -> ModelSummary:
        """Moves the version to another stage: who led the study may validate, release and retire it, and so may an operator."""
        _, asker = study_for(coordinator, request, digest)
        asked = await read_document(request, StageRequest, coordinator.settings.max_request_bytes)
        return await coordinator.models.move(digest, asked, asker.subject)

    @routes.get("/v1/studies/{digest}/record")
    async def record(request: Request, digest: str) -> StudyRecord:
        """Everything by which a finished study can be checked offline; of a released model everybody's."""
        if not may(coordinator, asker_of(request), Action.FOLLOW_STUDY, coordinator.registry.study(digest)):
            await model_for(request, digest)
        return await coordinator.models.record(digest)

    return routes
