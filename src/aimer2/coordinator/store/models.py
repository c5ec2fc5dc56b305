"""Transactions on models: what finished studies have left, and the stages that people have moved it to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from aimer2.coordinator.store.schema import model_stages, studies
from aimer2.core.errors import Conflict
from aimer2.core.said import say


def finished_studies(connection: Connection, known: Sequence[str]) -> dict[str, str]:
    """The signed results of the finished studies that are not ``known``, by digest."""
    rows = connection.execute(select(studies.c.digest, studies.c.result).where(studies.c.result.is_not(None), studies.c.digest.not_in(known)))
    return {row.digest: row.result for row in rows}


def read_stages(connection: Connection, digest: str | None = None) -> Sequence[Row[Any]]:
    """Of one study, or of all; the oldest first."""
    chosen = select(model_stages).order_by(model_stages.c.number)
    return connection.execute(chosen if digest is None else chosen.where(model_stages.c.study == digest)).all()


def add_stage(connection: Connection, digest: str, before: Sequence[str], stage: str, statement: str) -> None:
    """Raises Conflict where the last stage, "candidate" without any, is none of ``before``."""
    # The study's row is locked, where the database can: of two people at the same moment one is told that the other was first.
    connection.execute(select(studies.c.digest).where(studies.c.digest == digest).with_for_update()).one()
    stages = [row.stage for row in read_stages(connection, digest)]
    now = stages[-1] if stages else "candidate"
    if now not in before:
        remedy = "A model goes from candidate to validated to released; any can be retired."
        raise Conflict(say("The model is {now}: it cannot become {stage}.", now=now, stage=stage), remedy=remedy)
    connection.execute(insert(model_stages).values(study=digest, stage=stage, statement=statement))
