"""The models that studies have left: every finished study is a version, which people move from stage to stage."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, final

from sqlalchemy import Connection

from aimer2.audit.kinds import Kind
from aimer2.coordinator.records import Records
from aimer2.coordinator.registry import Registry
from aimer2.coordinator.store import models as rows
from aimer2.coordinator.store.database import Database
from aimer2.core.clock import Clock
from aimer2.core.errors import BadStudy, Fault, NotFound
from aimer2.core.task import BlobRef, FigureDocument
from aimer2.identity.documents import open_document, sign_document
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.messages.record import STAGE_KIND, EvaluationSummary, ModelStage, ModelSummary, StageChange, StageRequest, StudyRecord
from aimer2.study.evaluating import faults_of_package
from aimer2.study.weights import Origin

_BEFORE: dict[str, tuple[ModelStage, ...]] = {
    "validated": ("candidate",),
    "released": ("validated",),
    "retired": ("candidate", "validated", "released"),
}
"""From which stages each can be reached."""


@final
@dataclass(frozen=True, slots=True)
class _Stages:
    statements: tuple[str, ...] = ()
    now: ModelStage = "candidate"


@final
class Models:
    def __init__(self, database: Database, registry: Registry, records: Records, key: SigningKey, clock: Clock) -> None:
        self._database = database
        self._registry = registry
        self._records = records
        self._key = key
        self._clock = clock
        self._signed: dict[str, str] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._measuring: defaultdict[str, list[str]] = defaultdict(list)
        """The studies that have measured the model of another, by that one; the oldest first."""
        self._numbers: dict[str, int] = {}
        """Of each version among those of its name; the oldest first. Studies that answered statistical questions or measured a model leave none."""

    async def all(self) -> list[ModelSummary]:
        """Every version, the oldest first."""
        stages = await self._read()
        return [self._summary(digest, stages) for digest in self._numbers]

    async def one(self, digest: str) -> ModelSummary:
        """Raises NotFound while the study has not finished."""
        stages = await self._read(digest)
        if digest not in self._numbers:
            raise NotFound("The study has no model yet.", remedy="A version comes when the study has finished.")
        return self._summary(digest, stages)

    async def record(self, digest: str) -> StudyRecord:
        """Raises NotFound while the study has not finished."""
        stages = await self._read(digest)
        if digest not in self._signed:
            raise NotFound("The study has no record yet.", remedy="It comes when the study has finished.")
        offer = self._registry.study(digest)
        return StudyRecord(
            study=digest,
            package=offer.package,
            decisions=tuple(offer.decisions[site].statement for site in sorted(offer.decisions)),
            result=self._signed[digest],
            stages=stages.get(digest, _Stages()).statements,
            evaluations=tuple(self._signed[one] for one in self._evaluations(digest)),
            key=self._key.public.text,
        )

    async def refuse_misfits(self, package: Package) -> None:
        """Raises BadStudy where a study is to measure a model of this coordinator, and brings another one, or other inputs. A model of elsewhere is
        taken at its record's word."""
        digest = package.study.evaluates
        if digest is None:
            return
        origin = None
        if digest in self._registry.studies:
            await self._read(digest)
            if digest not in self._numbers:
                raise BadStudy([Fault("evaluates", "is a study here that has left no model", "name one of `aimer2 model list`")])
            origin = Origin(await self.record(digest), self._results[digest])
        if faults := faults_of_package(package, origin):
            raise BadStudy(faults)

    def _evaluations(self, digest: str) -> list[str]:
        """The studies that have measured a study's model, the oldest first."""
        model = self._results[digest]["model"]
        return [study for study in self._measuring.get(digest, ()) if self._results[study]["model"] == model]

    async def move(self, digest: str, asked: StageRequest, by: str) -> ModelSummary:
        """Raises NotFound, Conflict where the model is at a stage from which this one is not reached."""
        model = (await self.one(digest)).model
        change = StageChange(study=digest, model=model.sha256, stage=asked.stage, by=by, reason=asked.reason, time=self._clock.now())
        statement = sign_document(change.model_dump_json().encode(), self._key, kind=STAGE_KIND)
        await self._database.write(rows.add_stage, digest, _BEFORE[asked.stage], asked.stage, statement)
        await self._records.add(Kind.MODEL_STAGED, actor=by, study=digest, stage=asked.stage, reason=asked.reason, sha256=model.sha256)
        return await self.one(digest)

    async def _read(self, digest: str | None = None) -> dict[str, _Stages]:
        """The stages of one version, or of all. A result never changes: each is opened once."""
        new, stages = await self._database.read(self._rows, digest)
        for study, text in new.items():
            self._results[study] = json.loads(open_document(text, self._key.public, kind="result"))
            self._signed[study] = text
        if new:
            self._number()
        return stages

    def _number(self) -> None:
        self._measuring.clear()
        for digest, result in sorted(self._results.items(), key=lambda item: (item[1]["finished"], item[0])):
            if "evaluation" in result:
                self._measuring[result["evaluation"]["of"]].append(digest)
        models = ((digest, result) for digest, result in self._results.items() if result.get("preprocessing") is not None)
        numbers: Counter[str] = Counter()
        self._numbers = {}
        for digest, result in sorted(models, key=lambda item: (item[1]["finished"], item[0])):
            numbers[result["name"]] += 1
            self._numbers[digest] = numbers[result["name"]]

    def _rows(self, connection: Connection, digest: str | None) -> tuple[dict[str, str], dict[str, _Stages]]:
        stages: dict[str, _Stages] = {}
        for row in rows.read_stages(connection, digest):
            stages[row.study] = _Stages((*stages.get(row.study, _Stages()).statements, row.statement), row.stage)
        return rows.finished_studies(connection, list(self._signed)), stages

    def _evaluation(self, digest: str) -> EvaluationSummary:
        result = self._results[digest]
        return EvaluationSummary(
            study=digest,
            name=result["name"],
            finished=_moment(result),
            submitted_by=self._registry.study(digest).submitted_by,
            sites=tuple(site for site, part in result["sites"].items() if part["rounds"] > 0),
            dataset=result["evaluation"]["dataset"],
            held_out=result["evaluation"]["held_out"],
            figures=tuple(FigureDocument(**figure) for figure in result["figures"]),
        )

    def _summary(self, digest: str, stages: Mapping[str, _Stages]) -> ModelSummary:
        result = self._results[digest]
        private = result["privacy"]["differential_privacy"]
        return ModelSummary(
            study=digest,
            name=result["name"],
            number=self._numbers[digest],
            question=result["question"],
            stage=stages.get(digest, _Stages()).now,
            finished=_moment(result),
            submitted_by=self._registry.study(digest).submitted_by,
            model=BlobRef(**result["model"]),
            method=result["method"]["name"],
            sites=sum(part["rounds"] > 0 for part in result["sites"].values()),
            epsilon=private["epsilon"] if private else None,
            figures=tuple(FigureDocument(**figure) for figure in result["figures"]),
            evaluations=tuple(map(self._evaluation, self._evaluations(digest))),
        )


def _moment(result: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(result["finished"]).timestamp()
