"""The terms of site-level differential privacy, with the noise that follows from ε, from the study alone.

In every round each site's mean change of the model is shortened to the clip norm, and the sum over the sites has noise of ``noise_multiplier`` times
that (`aimer2.privacy.site_level`). The figures of the final model are told once, each site's shares of its held-out patients as one such part.

Counted is the coarsest grid and the largest model that there may be, so that the same ε holds whatever the study's sites and model: what a finer
grid would save is below 1e-6. A site's part replaced by zeros moves the sum by one clip norm. One patient's rows, more or less, move a site's part
from one vector to another, which may be two clip norms apart: so the same noise is a larger ε for a patient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias, final

from aimer2.core.errors import BadInput, BadStudy, Fault
from aimer2.core.said import say
from aimer2.core.study import DifferentialPrivacy, Study
from aimer2.privacy.site_level import LARGEST_SIZE, LEAST_STEPS
from aimer2.privacy.terms import PLACE, how_much, library, rounded_up

if TYPE_CHECKING:
    from aimer2.privacy.accounting import Spent

Unit: TypeAlias = Literal["site", "patient"]
UNITS: tuple[Unit, Unit] = ("site", "patient")

_REACH: dict[Unit, int] = {"site": 1, "patient": 2}
"""How many clip norms apart a sum is with and without it."""


@final
@dataclass(frozen=True, slots=True)
class SiteTerms:
    """Site-level differential privacy as a study has it, the noise known."""

    noise_multiplier: float
    clip_norm: float
    clip_quantile: float | None
    delta: float
    rounds: int
    evaluation_noise: float | None
    """None where nothing is held out."""

    def epsilon(self, rounds: int, *, evaluations: int = 0, of: Unit = "site") -> float:
        """ε at δ after so many rounds of training and tellings of the figures, by Rényi differential privacy."""
        return _epsilon(self.noise_multiplier, rounds, self.evaluation_noise, evaluations, self.delta, of)

    @property
    def evaluations(self) -> int:
        """How often the figures are told in a study that runs as planned."""
        return 0 if self.evaluation_noise is None else 1


def site_terms(study: Study) -> SiteTerms:
    """The terms of a study that asks for site-level differential privacy; the noise is calibrated where the study states ε.

    Raises BadStudy where they are incomplete or cannot be met, NotAvailable where the accounting is not installed.
    """
    asked = study.privacy.of_sites
    if asked is None or (found := site_incomplete(study)):
        raise BadStudy([Fault(PLACE, "is not asked for", "state its terms")] if asked is None else found)
    assert asked.clip_norm and asked.delta
    evaluation_noise = asked.evaluation_noise if study.evaluation.held_out > 0 else None
    return SiteTerms(
        noise_multiplier=asked.noise_multiplier or _noise(asked, study.method.rounds, evaluation_noise),
        clip_norm=asked.clip_norm,
        clip_quantile=asked.clip_quantile,
        delta=asked.delta,
        rounds=study.method.rounds,
        evaluation_noise=evaluation_noise,
    )


def site_incomplete(study: Study) -> list[Fault]:
    """The terms that are missing or exclude each other."""
    asked = study.privacy.of_sites
    if asked is None:
        return []
    needed = {"delta": "give δ, for example 1e-5", "clip_norm": "give the largest norm of a site's mean change of the model, for example 0.5"}
    found = [Fault(f"{PLACE}.{name}", "is missing", remedy) for name, remedy in needed.items() if getattr(asked, name) is None]
    found += how_much(asked)
    if asked.sampling_rate is not None:
        found.append(Fault(f"{PLACE}.sampling_rate", "is of patients, and whole sites are protected here", "leave it out"))
    return found


def mechanism(noise_multiplier: float, count: int = 1, of: Unit = "site") -> Spent:
    """Skellam noise of this multiple of a site's largest part, as the ledger and the accounting have it."""
    l2 = _REACH[of] * LEAST_STEPS
    spent: Spent = library().skellam((noise_multiplier * LEAST_STEPS) ** 2, l2 * math.isqrt(LARGEST_SIZE), l2, count)
    return spent


@lru_cache(maxsize=256)
def _epsilon(noise: float, rounds: int, evaluation_noise: float | None, evaluations: int, delta: float, of: Unit) -> float:
    spent = [mechanism(noise, rounds, of)] if rounds else []
    if evaluation_noise is not None and evaluations:
        spent.append(mechanism(evaluation_noise, evaluations, of))
    return float(library().epsilon(spent, delta)) if spent else 0.0


def _noise(asked: DifferentialPrivacy, rounds: int, evaluation_noise: float | None) -> float:
    assert asked.epsilon and asked.delta
    try:
        return _calibrated(asked.epsilon, asked.delta, rounds, evaluation_noise)
    except BadInput as error:
        remedy = "state another ε between 0.01 and 100, fewer rounds, or a larger `evaluation_noise`"
        raise BadStudy([Fault(f"{PLACE}.epsilon", say("cannot be kept: {sentence}", sentence=error.sentence), remedy)]) from None


@lru_cache(maxsize=64)
def _calibrated(epsilon: float, delta: float, rounds: int, evaluation_noise: float | None) -> float:
    """The smallest noise multiplier, rounded up, by which the whole study keeps to ε."""
    if not 0.01 <= epsilon <= 100:
        raise BadInput("ε is not between 0.01 and 100.")
    evaluations = 0 if evaluation_noise is None else 1

    def told(noise: float) -> float:
        return _epsilon(noise, rounds, evaluation_noise, evaluations, delta, "site")

    low, high = 0.0, 1.0
    while told(high) > epsilon:
        low, high = high, 4 * high
        if high > 1e6:
            raise BadInput("What the figures cost leaves nothing of ε for the training.")
    while high - low > 1e-4 * high:
        middle = (low + high) / 2 if low else high / 2
        low, high = (low, middle) if told(middle) <= epsilon else (middle, high)
    return rounded_up(high)
