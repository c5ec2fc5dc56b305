"""The kinds of studies: one trains a model, one asks statistical questions, one measures a model that is there."""

from __future__ import annotations

from aimer2.core.errors import NotAvailable
from aimer2.core.said import say
from aimer2.core.study import Study


def require_training(study: Study, what: str) -> None:
    """Raises NotAvailable where the study trains no model, which ``what`` is about."""
    if not study.analyses and study.evaluates is None:
        return
    does = say("asks statistical questions") if study.analyses else say("measures a model that is there")
    raise NotAvailable(
        say("{what} is of a study that trains a model, and {name} {does}.", what=what, name=study.name, does=does),
        remedy="Name a study with a model to train.",
    )
