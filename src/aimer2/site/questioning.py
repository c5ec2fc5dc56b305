"""Before a statistical question is answered: whether, with those that were answered before, it would tell of few patients."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from aimer2.audit.entries import Json
from aimer2.audit.kinds import Kind
from aimer2.connectors.table import load_table
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadUpdate, NotAllowed
from aimer2.core.said import joined, mark, say
from aimer2.core.task import Check
from aimer2.identity import base64url
from aimer2.site.decisions import Decisions
from aimer2.site.outgoing import Handed, Work
from aimer2.site.questions import Asking, Questions
from aimer2.site.workers import Opening
from aimer2.study.asked import asked_of

BEFORE = mark("questions before")


@final
@dataclass(frozen=True, slots=True)
class Questioning:
    """Of one site. What is answered is remembered before it is stored, and so before it leaves."""

    decisions: Decisions
    limits: Disclosure
    _known: set[tuple[str, str]] = field(default_factory=set)
    """Study, and SHA-256 of the snapshot of which it was answered: after a refresh the patients are others."""
    _one: threading.Lock = field(default_factory=threading.Lock)
    """Two questions that only together tell too much may come at once."""

    def look(self, work: Work, opening: Opening, handed: Handed) -> tuple[Check, ...]:
        """Of the data contract: what speaks against answering, as a check. Of a round: nothing, and what is answered is remembered.

        Raises NotAllowed where the site's settings do not let it answer, BadUpdate where the worker does not say whom a question rests on.
        """
        study, task = work.package.study, work.task
        if not study.analyses or study.privacy.differential_privacy is not None:
            # What has noise tells of nobody, however often it is asked; that is counted in the privacy ledger.
            return ()
        if not handed.cohorts:
            if task.stage != "preflight" and (task.study, opening.sha256) not in self._known:
                raise BadUpdate("The worker does not say whose values its sums are made of.")
            return ()
        asking = self._asking(work, opening, handed)
        now = self.decisions.clock.now()
        with self._one:
            checks = self._compare(work, asking, now)
        if task.stage != "preflight":
            self._known.add((task.study, opening.sha256))
        return checks

    def _compare(self, work: Work, asking: Asking, now: float) -> tuple[Check, ...]:
        """With all that was answered; in a round it is then remembered. Raises NotAllowed."""
        study, task, questions = work.package.study, work.task, Questions(self.decisions.folder.questions)
        often = questions.too_many(asking, self.limits, now)
        reasons = questions.together(asking, self.limits)
        allowed = self.limits.allows_together(secure=study.privacy.secure_aggregation)
        against = ([] if often is None else [often]) + ([] if allowed else reasons)
        if task.stage == "preflight":
            return (Check(name=BEFORE, passed=not against, finding=_finding(against or reasons, allowed=not against)),)
        if against:
            raise NotAllowed(say("{against}.", against=joined(against, "; ")))
        if reasons:
            told: list[Json] = list(reasons)
            self.decisions.audit.append(Kind.QUESTIONS_TOGETHER, actor="agent", study=task.study, details={"reasons": told})
        questions.remember(asking, now)
        return ()

    def _asking(self, work: Work, opening: Opening, handed: Handed) -> Asking:
        study = work.package.study
        everybody = np.unique(load_table(opening.snapshot, verify=False, sha256=opening.sha256).patient)
        try:
            cohorts = {name: base64url.decode(bits) for name, bits in handed.cohorts.items()}
            return Asking(work.task.study, work.dataset, study.principal_investigator, asked_of(study, cohorts, everybody))
        except ValueError as error:
            raise BadUpdate(say("The worker does not say whose values its sums are made of: {error}", error=error)) from None


def _finding(reasons: Sequence[str], *, allowed: bool) -> str:
    if not reasons:
        return mark("Nothing that was answered before speaks against these questions.")
    told = joined(reasons, "; ")
    return say("{reasons}. This site answers, and notes it.", reasons=told) if allowed else say("{reasons}.", reasons=told)
