"""A site's part of a study: the mirror of `conduct`. The same lines run in the simulator and in the confined worker of a hospital."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from aimer2.algorithms import catalogue
from aimer2.algorithms.parts import whole_model
from aimer2.algorithms.personal import Personal
from aimer2.connectors.table import Table
from aimer2.core import tree
from aimer2.core.dataset import Dataset, Samples, Shielded
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData, BadStudy
from aimer2.core.protocols import Algorithm, Learner, Local
from aimer2.core.random import stream
from aimer2.core.study import Study
from aimer2.core.task import Check, SiteId, Task
from aimer2.core.tree import Tree
from aimer2.learners.catalogue import make_learner
from aimer2.metrics.figures import figures, measure
from aimer2.statistics.moments import Moments
from aimer2.study import cohort, preflight, trees
from aimer2.study.evaluation import released
from aimer2.study.performed import Performed, Performs
from aimer2.study.personal import MODEL, PREPARATION, START, compare, divide, told
from aimer2.study.statistician import Statistician


@final
@dataclass(slots=True, kw_only=True)
class Participant:
    """A site's half of one algorithm: rows, learner, and how long it trains. What the loop without a study file is driven with."""

    site: SiteId
    algorithm: Algorithm[Any]
    learner: Learner
    data: Dataset
    held_out: Dataset | None = None
    steps: int = 1
    batch_size: int | None = None
    seed: int = 1
    measures_rounds: bool = True
    """Whether each round's received model is measured, or only the last model: under differential privacy every measurement has its price."""
    _divided: tuple[Dataset, Dataset] | None = field(default=None, init=False, repr=False)
    _own: Personal | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # once: to look whether a class fits a protocol takes longer than a small model's step
        self._own = self.algorithm if isinstance(self.algorithm, Personal) else None

    def perform(self, task: Task, received: Mapping[str, Tree], memory: MutableMapping[str, Tree]) -> Performed:
        """First measures the received model on the held-out rows, then trains; the last task only measures."""
        if task.stage == "preflight":
            return Performed({})
        if self._own is not None:
            return self._personal(self._own, task, received, memory)
        return self._perform(task, received, self._local(task, self.data, memory))

    def _perform(self, task: Task, received: Mapping[str, Tree], site: Local) -> Performed:
        sums: dict[str, Tree] = {}
        measured = self._evaluate(received) if self.measures_rounds or task.stage == "final" else None
        if task.stage != "final":
            sums.update(self.algorithm.local(received, site).sums)
        if measured is not None:
            sums["metrics"] = measured
        return Performed(sums)

    def _personal(self, method: Personal, task: Task, received: Mapping[str, Tree], memory: MutableMapping[str, Tree]) -> Performed:
        """Some patients are not trained on; at the end they choose which model the site keeps."""
        if self._divided is None:
            self._divided = divide(self.data, method.validation)
        trained, judges = self._divided
        site = self._local(task, trained, memory)
        memory.setdefault(START, whole_model(self.algorithm, received))
        if task.stage != "final" or self.held_out is None:
            return self._perform(task, received, site)
        compared = compare(method, received, whole_model(self.algorithm, received), site, judges, self.held_out)
        memory[MODEL] = compared.model
        return Performed(compared.sums, compared=compared)

    def _evaluate(self, received: Mapping[str, Tree]) -> Tree | None:
        if self.held_out is None or "model" not in received:
            return None
        self.learner.load(whole_model(self.algorithm, received))
        return self.learner.evaluate(self.held_out)

    def _local(self, task: Task, data: Dataset, memory: MutableMapping[str, Tree]) -> Local:
        return Local(
            data=data,
            learner=self.learner,
            memory=memory,
            rng=stream(self.seed, "local", task.stage, task.round_number, self.site),
            round_number=task.round_number,
            steps=self.steps,
            batch_size=self.batch_size,
            counted=task.counted,
        )


@final
class Performer:
    """A site in a study: data contract, federated standardisation, training, evaluation; warm between tasks, nothing kept that a restart needs."""

    def __init__(self, study: Study, table: Table, *, site: SiteId, files: Mapping[str, Path], learner: Learner | None = None) -> None:
        self._study = study
        self._table = table
        self._site = site
        self._files = files
        self._parts: tuple[cohort.Design, cohort.Design] | None = None
        self._learner = learner
        self._participant: tuple[bytes, Participant] | None = None
        self._environment = preflight.probe(Path.cwd())

    def perform(self, task: Task, received: Mapping[str, Tree], memory: MutableMapping[str, Tree]) -> Performed:
        """Raises AimerError of the kind that the site reports; its sentence may be shown, it holds no value of a patient."""
        if task.stage == "preflight":
            return Performed({}, checks=self._checks())
        if task.stage == "moments":
            return self._moments(task, received, memory)
        participant = self._trained_by(received)
        performed = participant.perform(task, received, memory)
        metrics = performed.sums.get("metrics")
        if metrics is None:
            return performed
        if self._study.privacy.differential_privacy is not None:
            metrics = self._without_noise(participant)
        shown = figures(self._study.cohort.target.kind, metrics, self._study.metrics, self._study.parts)
        if performed.compared is not None:
            shown += told(self._study, performed.compared)
            memory[PREPARATION] = self._prepared_with(received.get("moments"))
        return Performed(performed.sums, figures=tuple(shown), released=released(self._study, task.stage, shown))

    def _without_noise(self, participant: Participant) -> Tree:
        """What the hospital itself may know of the model that was just measured; it stays there."""
        held_out = participant.held_out
        assert held_out is not None
        scores = participant.learner.predict(held_out)
        return measure(self._study.cohort.target.kind, scores, np.asarray(held_out.targets), 0.0, self._study.metrics)

    def _checks(self) -> tuple[Check, ...]:
        return preflight.checks(self._study, self._table, self._environment)

    def _designs(self) -> tuple[cohort.Design, cohort.Design]:
        """Training and held-out rows, as the cohort defines them; only of data that meet the contract, whether or not the site was asked first.

        Raises BadData.
        """
        if self._parts is None:
            unmet = [check.finding for check in self._checks() if check.blocking and not check.passed]
            if unmet:
                raise BadData(" ".join(unmet))
            whole = cohort.design(self._study.cohort, self._table)
            self._parts = cohort.split(whole, self._study.evaluation.held_out)
        return self._parts

    def _moments(self, task: Task, received: Mapping[str, Tree], memory: MutableMapping[str, Tree]) -> Performed:
        train, _ = self._designs()
        rows = Samples(train.features, train.targets)
        statistician = Participant(site=self._site, algorithm=Moments(), learner=self._made_learner(rows), data=rows, seed=self._study.seed)
        return statistician.perform(task, received, memory)

    def _made_learner(self, rows: Dataset) -> Learner:
        if self._learner is None:
            self._learner = make_learner(self._study, feature_shape=cohort.feature_shape(self._study.cohort), files=self._files)
        return self._learner

    def _trained_by(self, received: Mapping[str, Tree]) -> Participant:
        """The participant on rows prepared with the received moments; made once, kept warm."""
        given = received.get("moments")
        key = b"" if given is None else b"".join(tree.load(given[name]).tobytes() for name in sorted(given))
        if self._participant is None or self._participant[0] != key:
            self._participant = (key, self._prepare(given))
        return self._participant[1]

    def _prepared_with(self, given: Tree | None) -> dict[str, Any]:
        """The means and deviations by which columns are standardised: those of all sites, or the site's own."""
        train, held_out = self._designs()
        # where all are measured, as in a hospital that the model is new to, its own are those of all
        own = cohort.own_moments(train if len(train) else held_out) if given is None else None
        return {name: tree.load((given or {})[name]) if own is None else getattr(own, name) for name in ("count", "mean", "deviation")}

    def _prepare(self, given: Tree | None) -> Participant:
        study = self._study
        if study.evaluates is None and (found := trees.unprotected(study)):
            raise BadStudy(found)
        train, held_out = self._designs()
        moments = cohort.Moments(**self._prepared_with(given))
        rows = cohort.complete(train, study.cohort, moments)
        held = cohort.complete(held_out, study.cohort, moments) if study.evaluation.held_out > 0 else None
        if study.evaluates is not None and not held:
            raise BadData("No row is left to measure the model on after the rule for missing values.")
        if study.evaluates is None and len(rows) == 0:
            raise BadData("No row is left to train on after the held-out patients and the rule for missing values.")
        return Participant(
            site=self._site,
            algorithm=catalogue.make(study.method.name, study.method.rounds, study.method.parameters),
            learner=self._made_learner(rows),
            data=shielded(study, rows),
            held_out=held,
            steps=study.training.steps(len(rows)),
            batch_size=study.training.batch_size,
            seed=study.seed,
            measures_rounds=study.privacy.differential_privacy is None,
        )


def shielded(study: Study, rows: Samples) -> Dataset:
    """The rows as a method may see them: under differential privacy of records not at all, and of the size that every site has in public."""
    return rows if study.privacy.of_records is None else Shielded(rows, study.cohort.minimum_patients)


def open_performer(
    study: Study, table: Table, *, site: SiteId, files: Mapping[str, Path], disclosure: Disclosure | None = None, learner: Learner | None = None
) -> Performs:
    """``disclosure``: the hospital's limits on answers to statistical questions; None: as they are without a word of the hospital. ``learner``: to
    train with; None: one of its own."""
    if study.analyses:
        return Statistician(study, table, site=site, disclosure=disclosure or Disclosure())
    return Performer(study, table, site=site, files=files, learner=learner)
