"""Which method a diagnosis speaks for, and why.

The rules are few, and each has a case in the tests in which the method that it names is among the best. They are rules of thumb over measured
shares of variance; the figures stand beside them, so that whoever knows the data can judge otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, final

from aimer2.core.errors import BadStudy
from aimer2.core.study import Study
from aimer2.study.check import method_faults
from aimer2.study.diagnosis import DISAGREEMENT, FEATURE, GROUP, LABEL, NORMALISED, STEPS
from aimer2.study.events import RoundFinished

LABEL_DIFFERS, FEATURE_DIFFERS, STEPS_DIFFER, SITES_DISAGREE, ALONE_IS_BETTER = 0.05, 0.05, 0.3, 0.3, 0.05
"""From where on a figure speaks for another method than FedAvg; the last is how much less the loss is of models trained alone."""


@final
@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to change in the study, and why, in sentences."""

    method: str
    changes: Mapping[str, Any]
    reasons: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        return {"method": self.method, "changes": dict(self.changes), "reasons": list(self.reasons)}


def averages(rounds: Sequence[RoundFinished]) -> dict[str, float]:
    """What a diagnosis has found: of its training rounds the mean of each figure, of the last model the figures as they are."""
    found: dict[str, list[float]] = {}
    for event in rounds:
        for figure in event.figures:
            if figure.value is not None:
                kept = found.setdefault(figure.name, [])
                kept[:] = [*kept, figure.value] if event.stage == "train" else [figure.value]
    return {name: fmean(values) for name, values in found.items()}


def recommend(study: Study, told: Mapping[str, float]) -> Recommendation:
    """For the study that was diagnosed, or its trial. ``told``: as `averages`."""
    for changes, reason in _choices(study, told):
        try:
            if not method_faults(changed(study, changes)):
                return Recommendation(str(changes.get("method.name", study.method.name)), changes, (reason, *_remarks(told)))
        except BadStudy:
            continue
    return Recommendation("fedavg", {"method.name": "fedavg"}, ("no other method fits this model", *_remarks(told)))


def changed(study: Study, changes: Mapping[str, Any]) -> Study:
    """The study with these fields, named by their place. Raises BadStudy."""
    document = study.model_dump()
    if "method.name" in changes:
        document["method"] = {"name": changes["method.name"], "rounds": study.method.rounds}
    for place, value in changes.items():
        section, _, field = place.partition(".")
        document[section][field] = value
    return Study(**document)


def _choices(study: Study, told: Mapping[str, float]) -> list[tuple[dict[str, Any], str]]:
    """All that the figures speak for, the most pressing first."""
    found: list[tuple[dict[str, Any], str]] = []
    apart, label = told.get(DISAGREEMENT, 0.0), told.get(LABEL, 0.0)
    if (shift := told.get(FEATURE, 0.0)) > FEATURE_DIFFERS:
        reason = f"{shift:.0%} of the features' variance lies between sites, also among rows of one class, as of scanners or laboratories that differ"
        if told.get(NORMALISED, 0) > 0:
            found.append(({"method.name": "fedbn"}, reason))
        elif study.cohort.standardise == "federated":
            found.append(({"method.name": "fedavg", "cohort.standardise": "site"}, reason))
    if apart > SITES_DISAGREE and label <= LABEL_DIFFERS and (better := _alone(told)):
        found.append(({"method.name": "ditto"}, f"{better}, and their labels are as frequent: their questions differ"))
    if label > LABEL_DIFFERS or apart > SITES_DISAGREE:
        reason = f"{label:.0%} of the label's variance lies between sites, and {apart:.0%} of their steps' common part cancels"
        unequal = told.get(STEPS, 0.0) > STEPS_DIFFER
        if unequal:
            reason += f"; the sites take unequal numbers of steps (they vary by {told[STEPS]:.0%})"
        # FedNova alone of these needs no view of the steps themselves
        found += [({"method.name": name}, reason) for name in ("scaffold", "feddyn", *(("fednova",) if unequal else ()), "fedprox", "fedavgm")]
    found.append(({"method.name": "fedavg"}, "the sites differ no more than chance, or too little to matter"))
    return found


def _alone(told: Mapping[str, float]) -> str:
    """How much better the sites do alone; empty where they do not."""
    alone, common = told.get("local loss"), told.get("loss")
    if alone is None or common is None or alone >= (1 - ALONE_IS_BETTER) * common:
        return ""
    return f"on its own patients what a site learns alone (loss {alone:.3g}) is better than what all learn together ({common:.3g})"


def _remarks(told: Mapping[str, float]) -> list[str]:
    found = []
    if (group := told.get(GROUP, 0.0)) > FEATURE_DIFFERS:
        found.append(f"{group:.0%} of the features' variance lies between the study's groups: see whether worst_group helps the one served worst")
    if told.get(LABEL, 0.0) > LABEL_DIFFERS and (better := _alone(told)):
        found.append(f"{better}, as labels are not as frequent there: for models that stay at the sites take ditto")
    return found
