"""Statistical questions under differential privacy: their terms from the study alone, what each round costs a site, and the record's statement.

Every sum that leaves has Gaussian noise of ``noise_multiplier`` times the longest part that one patient has in it, added at the site. All sums of all
questions of a plan have the same; together they keep to the study's ε.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, final

from aimer2.core.errors import BadInput, BadStudy, Fault, NotAvailable
from aimer2.core.said import say
from aimer2.core.study import Analysis, Study
from aimer2.privacy.terms import PLACE, how_much, library, rounded_up, small_delta
from aimer2.statistics import catalogue
from aimer2.statistics.private import AbstractPrivate
from aimer2.statistics.statistic import AbstractStatistic

if TYPE_CHECKING:
    from aimer2.privacy.accounting import Spent

_NOT_ASKED = ("clip_norm", "clip_quantile", "sampling_rate")


@final
@dataclass(frozen=True, slots=True)
class QuestionTerms:
    """``releases``: of each question, in the order of the plan, how many sums with noise its answer takes."""

    noise_multiplier: float
    delta: float
    releases: tuple[int, ...]

    def sums(self, round_number: int) -> int:
        """How many sums with noise leave a site in this round; in one that nobody needs, as many as in the first, so that no round is free."""
        needed = sum(one >= round_number for one in self.releases)
        return needed or len(self.releases)

    def spent(self, rounds: int) -> Spent:
        """Of the first rounds, each asked once."""
        spent: Spent = library().gaussian(self.noise_multiplier, sum(self.sums(number) for number in range(1, rounds + 1)))
        return spent


def question_terms(study: Study) -> QuestionTerms:
    """The noise is calibrated where the study states ε. Raises BadStudy, NotAvailable without the accounting."""
    if found := _faults(study):
        raise BadStudy(found)
    asked = study.privacy.of_records
    assert asked is not None and asked.delta is not None
    releases = tuple(_releases(study, analysis, place) for place, analysis in enumerate(study.analyses, 1))
    noise = asked.noise_multiplier
    if noise is None:
        assert asked.epsilon is not None
        try:
            noise = _calibrated(asked.epsilon, asked.delta, sum(releases))
        except BadInput as error:
            raise BadStudy([Fault(f"{PLACE}.epsilon", error.sentence, "state another ε between 0.01 and 100")]) from None
    return QuestionTerms(noise, asked.delta, releases)


def faults(study: Study) -> list[Fault]:
    """What the plan cannot have together with its terms."""
    private = [_is_private(analysis) for analysis in study.analyses]
    if study.privacy.differential_privacy is None:
        return [
            Fault(
                f"analyses[{place}].method",
                say("{method} adds noise by the study's ε, and the study states none", method=analysis.method),
                "state `privacy.differential_privacy`, or take another method",
            )
            for place, (analysis, is_private) in enumerate(zip(study.analyses, private, strict=True), 1)
            if is_private
        ]
    try:
        question_terms(study)
    except BadStudy as error:
        return list(error.faults)
    except NotAvailable as error:
        return [Fault(PLACE, error.sentence, error.advice)]
    return []


def calibration(study: Study) -> dict[str, str]:
    """What the terms come to, line by line, for a person."""
    kept = question_terms(study)
    rounds = max(kept.releases)
    epsilon = library().epsilon([kept.spent(rounds)], kept.delta)
    return {
        "privacy": f"ε = {epsilon:.3f} at δ = {kept.delta:g} for each patient over the whole plan",
        "noise": f"{kept.noise_multiplier:g} × the longest part of one patient, in each of {sum(kept.releases)} sums, at every site",
    }


def stated(study: Study, rounds: int) -> dict[str, Any]:
    """What the record says, of so many rounds that the site asked most was asked."""
    kept = question_terms(study)
    spent = [kept.spent(rounds)] if rounds else []
    accounting = library()
    asked = study.privacy.of_records
    assert asked is not None
    return {
        "level": "record",
        "unit": "patient, with all rows at a site",
        "neighbouring": "add or remove one patient",
        "epsilon": round(float(accounting.epsilon(spent, kept.delta)), 4) if spent else 0.0,
        "epsilon_by_renyi": round(float(accounting.epsilon_by_renyi(spent, kept.delta)), 4) if spent else 0.0,
        "delta": kept.delta,
        "epsilon_asked": asked.epsilon,
        "mechanism": "each patient's part in a sum shortened to a public length, Gaussian noise on the sum, at the site",
        "noise_multiplier": kept.noise_multiplier,
        "questions": len(kept.releases),
        "sums": sum(one.count for one in spent),
        "rounds": rounds,
        "composition": "all sums of all questions, over the study",
        "accountant": "privacy loss distributions (dp-accounting), checked by Rényi differential privacy",
        "word": "enforced by AIMER2 at each site",
    }


def _faults(study: Study) -> list[Fault]:
    asked = study.privacy.differential_privacy
    if asked is None:
        return [Fault(PLACE, "is not asked for", "state its terms")]
    found = []
    if asked.level != "record":
        found.append(Fault(f"{PLACE}.level", "is 'site', and questions protect patients", "leave it out"))
    for place, analysis in enumerate(study.analyses, 1):
        if not _is_private(analysis):
            problem = say("{method} adds no noise, and the study promises differential privacy for each patient", method=analysis.method)
            found.append(Fault(f"analyses[{place}].method", problem, say("use one of: {private_names}", private_names=", ".join(_private_names()))))
    found += _numbers(study)
    return found


def _numbers(study: Study) -> Sequence[Fault]:
    asked = study.privacy.differential_privacy
    assert asked is not None
    found = [Fault(f"{PLACE}.{name}", "is of training", "leave it out") for name in _NOT_ASKED if getattr(asked, name) is not None]
    if asked.asserted:
        found.append(Fault(f"{PLACE}.asserted", "is for a study with code of its own; here AIMER2 vouches for ε", "leave it out"))
    found += how_much(asked)
    if asked.delta is None:
        found.append(Fault(f"{PLACE}.delta", "is missing", "give δ, for example 1e-5"))
    return found + small_delta(asked, study.cohort.minimum_patients)


def _is_private(analysis: Analysis) -> bool:
    return analysis.method in _private_names()


@lru_cache(maxsize=1)
def _private_names() -> tuple[str, ...]:
    return tuple(name for name in catalogue.names() if isinstance(catalogue.example(name), AbstractPrivate))


def _releases(study: Study, analysis: Analysis, place: int) -> int:
    method = catalogue.make(analysis, study.columns, f"analyses[{place}]")
    assert isinstance(method, AbstractPrivate)
    return method.releases


@lru_cache(maxsize=64)
def _calibrated(epsilon: float, delta: float, sums: int) -> float:
    return rounded_up(float(library().noise_multiplier_for(epsilon, delta, 1.0, sums)))


def with_noise(study: Study, methods: Mapping[str, AbstractStatistic]) -> dict[str, AbstractStatistic]:
    """The methods, told their noise where the study has terms. Raises as `question_terms`."""
    if study.privacy.differential_privacy is None:
        return dict(methods)
    noise = question_terms(study).noise_multiplier
    return {name: replace(method, noise=noise) if isinstance(method, AbstractPrivate) else method for name, method in methods.items()}
