"""Statistical questions as a study: all analyses of its plan in lockstep, as one algorithm.

Each round every analysis that has not converged is one tree of sums under the analysis's name, so approval, sums in secret, checks at the agent,
ledger, checkpoints and both engines treat them as they treat training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast, final

import numpy as np

from aimer2.core.dataset import Frame
from aimer2.core.errors import BadModel, BadStudy, BadUpdate, Fault
from aimer2.core.protocols import Learner, Local
from aimer2.core.random import stream
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.core.table import Table
from aimer2.core.task import SiteId
from aimer2.core.tree import NumpyArray, Tree
from aimer2.core.update import Update
from aimer2.statistics import catalogue
from aimer2.statistics.statistic import AbstractStatistic, Found, loaded
from aimer2.study import private_questions

VERSION = 1
"""Of the way in which analyses go through a study together."""

_DONE = "done"


@final
@dataclass(frozen=True, slots=True)
class Answered:
    """The state of all analyses: their values, named ``analysis/value``; under ``analysis/done`` 1 where an analysis has its answer."""

    model: Tree
    round_number: int = 0


@final
@dataclass(frozen=True, slots=True)
class Analyses:
    """All analyses of a plan as one algorithm."""

    version: ClassVar[int] = VERSION

    methods: Mapping[str, AbstractStatistic]

    def init(self, model: Tree) -> Answered:
        if model:
            return Answered(model)
        return Answered(self._joined({name: Found(dict(method.start())) for name, method in self.methods.items()}))

    def select(self, state: Answered, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Answered) -> Mapping[str, Tree]:
        """Of each analysis without an answer what its sites are told."""
        parted = self._parted(state)
        return {name: dict(method.broadcast(parted[name])["values"]) for name, method in self.methods.items() if not parted[name].done}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        asked = {name: method for name, method in self.methods.items() if name in received}
        return Update({name: dict(method.local({"values": received[name]}, site).sums["sums"]) for name, method in asked.items()})

    def update(self, state: Answered, total: Update) -> Answered:
        parted = self._parted(state)
        for name, method in self.methods.items():
            if not parted[name].done:
                before = replace(parted[name], round_number=state.round_number)
                moved = method.update(before, Update({"sums": total.sums[name]}))
                parted[name] = replace(moved, done=method.finished(moved))
        return Answered(self._joined(parted), state.round_number + 1)

    def model(self, state: Answered) -> Tree:
        return state.model

    def finished(self, state: Answered) -> bool:
        return all(found.done for found in self._parted(state).values())

    def tables(self, answers: Tree) -> tuple[Table, ...]:
        """The answers as tables. Raises BadUpdate where an analysis has none: its sums were of no use."""
        parted = self._parted(Answered(answers))
        made: list[Table] = []
        for name, method in self.methods.items():
            try:
                made += method.tables(name, loaded(parted[name].values))
            except (KeyError, IndexError, ValueError):
                raise BadUpdate(say("The analysis '{name}' has no answer.", name=name)) from None
        return tuple(made)

    def _joined(self, parted: Mapping[str, Found]) -> dict[str, NumpyArray]:
        joined = {f"{name}/{leaf}": value for name, found in parted.items() for leaf, value in loaded(found.values).items()}
        return joined | {f"{name}/{_DONE}": np.array([float(found.done)]) for name, found in parted.items()}

    def _parted(self, state: Answered) -> dict[str, Found]:
        leaves = loaded(state.model)
        parted = {}
        for name in self.methods:
            own = {leaf.removeprefix(f"{name}/"): value for leaf, value in leaves.items() if leaf.startswith(f"{name}/")}
            parted[name] = Found(own, done=bool(own.pop(_DONE)[0]))
        return parted


def analyses_of(study: Study) -> Analyses:
    """Raises BadStudy with the faults of every analysis."""
    faults: list[Fault] = []
    methods: dict[str, AbstractStatistic] = {}
    for place, analysis in enumerate(study.analyses, 1):
        try:
            methods[analysis.name] = catalogue.make(analysis, study.columns, f"analyses[{place}]")
        except BadStudy as error:
            faults += error.faults
    faults += [fault for fault in private_questions.faults(study) if fault not in faults]
    if faults:
        raise BadStudy(faults)
    return Analyses(private_questions.with_noise(study, methods))


def versions_of(study: Study) -> Mapping[str, int]:
    """Of each method that computes here. Raises BadStudy for one that this installation does not have."""
    return {name: catalogue.version(name) for name in study.methods} if study.analyses else {}


def expected(study: Study, received: Mapping[str, Tree], round_number: int) -> Mapping[str, Tree]:
    """The sums of nobody: what every site's sums must have the names, types and shapes of.

    Raises BadUpdate where what was received is not what the methods send.
    """
    analyses = analyses_of(study)
    if not received.keys() <= analyses.methods.keys():
        raise BadUpdate("The coordinator asks for an analysis that the study does not have.")
    try:
        return analyses.local(received, local_of(Frame.empty([column.name for column in study.columns]), study.seed, "", round_number)).sums
    except (LookupError, ValueError, ArithmeticError, TypeError):
        raise BadUpdate("What the coordinator sent is not what the analyses send.") from None


def local_of(frame: Frame, seed: int, site: SiteId, round_number: int) -> Local:
    """What a method's site half may touch."""
    rng = stream(seed, "local", "analyse", round_number, site)
    return Local(data=frame, learner=_NO_LEARNER, memory={}, rng=rng, round_number=round_number, steps=0, batch_size=None)


@final
class _NoLearner:
    """A statistical method fits no model at a site."""

    def __getattr__(self, name: str) -> object:
        raise BadModel("A statistical question has no model to train.")


_NO_LEARNER = cast(Learner, _NoLearner())
