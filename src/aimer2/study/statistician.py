"""A site in a study of statistical questions: what `Performer` is where a model is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import final

from aimer2.connectors.table import Table
from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData, NotAllowed
from aimer2.core.random import SecureBytes
from aimer2.core.said import joined, say
from aimer2.core.study import Study
from aimer2.core.task import Check, SiteId, Task
from aimer2.core.tree import Tree
from aimer2.statistics.private import AbstractPrivate
from aimer2.statistics.statistic import loaded
from aimer2.study import cohort, preflight
from aimer2.study.analysing import analyses_of, local_of
from aimer2.study.asked import cohorts_of
from aimer2.study.performed import Performed


@final
class Statistician:
    """Data contract, disclosure control, sums; warm between tasks."""

    def __init__(self, study: Study, table: Table, *, site: SiteId, disclosure: Disclosure) -> None:
        self._study = study
        self._table = table
        self._site = site
        self._disclosure = disclosure
        self._analyses = analyses_of(study)
        self._environment = preflight.probe(Path.cwd())
        self._frame: Frame | None = None
        self._source = SecureBytes()

    def perform(self, task: Task, received: Mapping[str, Tree], memory: MutableMapping[str, Tree]) -> Performed:
        """Raises BadData where the data do not meet the contract, NotAllowed where an answer would tell too much."""
        if task.stage == "preflight":
            checks = self._checks()
            if any(check.blocking and not check.passed for check in checks):
                return Performed({}, checks=checks)
            return Performed({}, checks=checks, cohorts=cohorts_of(self._analyses.methods, frame_of(self._study, self._table)))
        if task.stage != "analyse":
            raise NotAllowed("The study asks statistical questions and trains nothing.")
        cohorts: Mapping[str, bytes] = {}
        frame = self._frame
        if frame is None:
            unmet = [check for check in self._checks() if check.blocking and not check.passed]
            if unmet:
                raise BadData(" ".join(check.finding for check in unmet))
            frame = frame_of(self._study, self._table)
            cohorts = cohorts_of(self._analyses.methods, frame)
        local = local_of(frame, self._study.seed, self._site, task.round_number)
        sums = self._protected(self._analyses.local(received, local).sums, task.round_number)
        # A task that failed before here has told nobody whose values these are; the next one does.
        self._frame = frame
        return Performed(sums, cohorts=cohorts)

    def _protected(self, sums: Mapping[str, Tree], round_number: int) -> Mapping[str, Tree]:
        """Where the study promises differential privacy, with noise. Raises NotAllowed for a sum that no answer needs."""
        if self._study.privacy.differential_privacy is None:
            return sums
        noisy: dict[str, Tree] = {}
        for name, leaves in sums.items():
            method = self._analyses.methods[name]
            if not isinstance(method, AbstractPrivate) or round_number > method.releases:
                raise NotAllowed(say("{name} needs no such sum, and its privacy is not paid for.", name=name))
            noisy[name] = dict(method.noised(loaded(leaves), self._source))
        return noisy

    def _checks(self) -> tuple[Check, ...]:
        found = preflight.statistical_checks(self._study, self._table, self._environment)
        if any(check.blocking and not check.passed for check in found):
            return found
        return (*found, *self._disclosures(frame_of(self._study, self._table)))

    def _disclosures(self, frame: Frame) -> Iterator[Check]:
        secure = self._study.privacy.secure_aggregation
        for name, method in self._analyses.methods.items():
            try:
                reasons = list(method.against(frame, self._disclosure, secure=secure))
            except BadData as error:
                reasons = [error.sentence.rstrip(".")]
            finding = (
                say("{name}: {reasons}.", name=name, reasons=joined(reasons, "; "))
                if reasons
                else say("{name}: nothing speaks against answering.", name=name)
            )
            yield Check(name=f"disclosure {name}", passed=not reasons, finding=finding)


def frame_of(study: Study, table: Table) -> Frame:
    """The study's columns of a site's table: numbers as they are, categories as the study's codes, NaN where missing."""
    return Frame({column.name: cohort.coded(column, table) for column in study.columns}, table.patient)
