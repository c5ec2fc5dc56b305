"""Membership: whether a patient was in the hospital's training rows, told from the hospital's own model and from the model of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from aimer2.attacks.membership import Floats, Told, certainty, told_apart, unusual
from aimer2.attacks.membership import Rows as Which
from aimer2.core.tree import Tree
from aimer2.site.leak.effort import USUAL, Effort
from aimer2.site.leak.findings import Membership, Tracing, View
from aimer2.site.leak.hospitals import Hospitals, Rows

LEAST_ROWS = 30


@final
@dataclass(slots=True, eq=False)
class _World:
    """One training: who was in it, who was not, and how sure of every record each model is."""

    mine: Rows
    absent: Rows
    certainties: dict[View, Floats] = field(default_factory=dict)

    def without(self, rows: int) -> Which:
        which = np.zeros(rows, bool)
        which[self.absent] = True
        return which


@final
@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What the trainings need; ``private``: the hospitals with the study's privacy noise, where it asks for that."""

    hospitals: Hospitals
    private: Hospitals | None
    initial: Tree
    sites: int
    rng: np.random.Generator


def trace(setting: Trace, spent: Callable[[], float], effort: Effort = USUAL) -> Tracing:
    """In each world a third of the rows is this hospital, the other hospitals draw from a third, and a third has no part in it."""
    rows, study = len(setting.hospitals.samples), setting.hospitals.study
    kind = study.cohort.target.kind
    if kind not in ("binary", "multiclass", "regression") or rows < LEAST_ROWS:
        why = f"a target of the kind '{kind}' is not attacked" if rows >= LEAST_ROWS else f"it takes {LEAST_ROWS} training rows"
        return untried(why)
    began = spent()
    _world(setting, 1)
    one_round = max(spent() - began, 1e-4)
    rounds = max(1, min(study.method.rounds, int(effort.trace_seconds / one_round / effort.worlds)))
    worlds = [_world(setting, rounds) for _ in range(effort.worlds)]
    results = [found for view in worlds[0].certainties for found in _attacks(worlds, view, rows)]
    return Tracing(worlds=effort.worlds, rounds=rounds, members=len(worlds[0].mine), results=tuple(results))


def untried(why: str) -> Tracing:
    return Tracing(worlds=0, rounds=0, members=0, results=(), untried=why)


def _world(setting: Trace, rounds: int) -> _World:
    hospitals, rng = setting.hospitals, setting.rng
    mine, others, absent = np.array_split(rng.permutation(len(hospitals.samples)), 3)
    parts = [mine, *(rng.choice(others, len(mine)) for _ in range(setting.sites - 1))]
    world = _World(mine, absent)
    alone, together = hospitals.train(setting.initial, parts, rounds)
    world.certainties |= {"alone": _certainty(hospitals, alone), "sum": _certainty(hospitals, together)}
    if setting.private is not None:
        alone, together = setting.private.train(setting.initial, parts, rounds)
        world.certainties |= {"noisy": _certainty(hospitals, alone), "noisy-sum": _certainty(hospitals, together)}
    return world


def _certainty(hospitals: Hospitals, model: Tree) -> Floats:
    hospitals.learner.load(model)
    return certainty(hospitals.learner.predict(hospitals.samples), np.asarray(hospitals.samples.targets))


def _attacks(worlds: Sequence[_World], view: View, rows: int) -> list[Membership]:
    """Each world in turn is attacked by who knows the others."""
    plain: list[Floats] = [world.certainties[view] for world in worlds]
    raised = []
    for number, world in enumerate(worlds):
        others = [other for place, other in enumerate(worlds) if place != number]
        raised.append(unusual(world.certainties[view], [other.certainties[view] for other in others], [other.without(rows) for other in others]))
    return [_told(worlds, view, "threshold", plain), _told(worlds, view, "likelihood", raised)]


def _told(worlds: Sequence[_World], view: View, attack: str, scores: Sequence[Floats]) -> Membership:
    members = [score[world.mine] for world, score in zip(worlds, scores, strict=True)]
    others = [score[world.absent] for world, score in zip(worlds, scores, strict=True)]
    told: Told = told_apart(members, others)
    return Membership.model_validate({"view": view, "attack": attack, "auc": told.auc, "low": told.low, "high": told.high})
