"""The terms of record-level differential privacy, with the noise that follows from ε, from the study alone.

DP-SGD (Abadi et al. 2016): in each of ``rounds × local_steps`` steps every patient of a site is drawn with probability ``sampling_rate``, the
gradient of each drawn patient is shortened to ``clip_norm``, and Gaussian noise of ``noise_multiplier × clip_norm`` is added to their sum. The counts
of held-out patients are told once, of the final model, with Gaussian noise. A patient is either trained on or held out, yet both are charged.
Trees of drawn splits are counted the same way, with one step a round: the sums of a tree's leaves.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, final

from aimer2.core.errors import BadInput, BadStudy, Fault, NotAvailable
from aimer2.core.said import say
from aimer2.core.study import DifferentialPrivacy, Study

if TYPE_CHECKING:
    from aimer2.privacy.accounting import Spent

PLACE = "privacy.differential_privacy"

DIGITS = 4
"""To so many figures a calibrated noise multiplier is rounded up: every site takes the same."""


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """Record-level differential privacy as a study has it, the noise known."""

    sampling_rate: float
    noise_multiplier: float
    clip_norm: float
    delta: float
    local_steps: int
    rounds: int
    evaluation_noise: float | None
    """None where nothing is held out."""
    patients: int
    """The public size of every site: what gradients are divided by, and what a site's update weighs."""

    @property
    def expected_batch(self) -> float:
        """Patients in a step at a site of the smallest size; a step's noisy sum is divided by this, so that no site's true size leaves it."""
        return self.sampling_rate * self.patients

    def epsilon(self, rounds: int, *, evaluations: int = 0) -> float:
        """ε at δ after so many rounds of training and tellings of the held-out counts."""
        return _epsilon(self, rounds, evaluations)

    def epsilon_by_renyi(self, rounds: int, *, evaluations: int = 0) -> float:
        """The same by Rényi differential privacy, as a check."""
        return float(library().epsilon_by_renyi(_mechanisms(self, rounds, evaluations), self.delta))

    @property
    def evaluations(self) -> int:
        """How often the held-out counts are told in a study that runs as planned."""
        return 0 if self.evaluation_noise is None else 1


def terms(study: Study) -> Terms:
    """The terms of a study that asks for record-level differential privacy; the noise is calibrated where the study states ε.

    Raises BadStudy where they are incomplete or cannot be met, NotAvailable where the accounting is not installed.
    """
    asked = study.privacy.of_records
    if asked is None or (found := incomplete(study)):
        raise BadStudy([Fault(PLACE, "is not asked for", "state its terms")] if asked is None else found)
    a_round = _steps(study)
    assert asked.sampling_rate and asked.clip_norm and asked.delta and a_round
    held_out = study.evaluation.held_out > 0
    steps = study.method.rounds * a_round
    return Terms(
        sampling_rate=asked.sampling_rate,
        noise_multiplier=asked.noise_multiplier or _noise(asked, steps, held_out),
        clip_norm=asked.clip_norm,
        delta=asked.delta,
        local_steps=a_round,
        rounds=study.method.rounds,
        evaluation_noise=asked.evaluation_noise if held_out else None,
        patients=study.cohort.minimum_patients,
    )


def incomplete(study: Study) -> list[Fault]:
    """The terms that are missing or exclude each other: without them there is no ε."""
    asked = study.privacy.of_records
    if asked is None:
        return []
    found = []
    if asked.clip_quantile is not None:
        found.append(Fault(f"{PLACE}.clip_quantile", "is of the sites' changes, and patients are protected here", "leave it out"))
    needed = {
        "delta": "give δ, for example 1e-5",
        "clip_norm": "give the largest norm of a patient's gradient; 1 is usual",
        "sampling_rate": "give each patient's chance to be in a step, for example 0.05",
    }
    found += [Fault(f"{PLACE}.{name}", "is missing", remedy) for name, remedy in needed.items() if getattr(asked, name) is None]
    found += how_much(asked)
    if _steps(study) is None:
        remedy = "set `training.local_steps`: epochs would tell how many patients a site has, and ε depends on the steps"
        found.append(Fault("training.local_steps", "is missing, and differential privacy counts steps", remedy))
    return found


def _steps(study: Study) -> int | None:
    """Sums with noise in a round; trees take none by steps, and tell of their leaves once."""
    return 1 if study.model.framework == "trees" else study.training.local_steps


def how_much(asked: DifferentialPrivacy) -> list[Fault]:
    """Either ε is stated or the noise: what a study of any kind is held to."""
    if (asked.epsilon is None) != (asked.noise_multiplier is None):
        return []
    problem = "needs `epsilon` or `noise_multiplier`" if asked.epsilon is None else "has `epsilon` and `noise_multiplier`, which may differ"
    return [Fault(PLACE, problem, "give `epsilon` (the noise is calibrated) or `noise_multiplier` (ε follows), not both")]


def small_delta(asked: DifferentialPrivacy, patients: int) -> list[Fault]:
    """δ, where it is stated, is small beside one patient in so many: what a study of any kind is held to."""
    if asked.delta is None or asked.delta * 10 * patients <= 1:
        return []
    problem = say(
        "is {delta}: among {patients} patients one may lose all privacy with a chance that counts", delta=f"{asked.delta:g}", patients=patients
    )
    remedy = say("set it to 1/(10 · minimum_patients) = {patients} or less; 1e-5 is usual", patients=f"{0.1 / patients:g}")
    return [Fault(f"{PLACE}.delta", problem, remedy)]


def _noise(asked: DifferentialPrivacy, steps: int, held_out: bool) -> float:
    assert asked.epsilon and asked.delta and asked.sampling_rate
    try:
        return _calibrated(asked.epsilon, asked.delta, asked.sampling_rate, steps, asked.evaluation_noise if held_out else None)
    except BadInput as error:
        remedy = "state another ε between 0.01 and 100, fewer steps, a smaller `sampling_rate`, or a larger `evaluation_noise`"
        raise BadStudy([Fault(f"{PLACE}.epsilon", say("cannot be kept: {sentence}", sentence=error.sentence), remedy)]) from None


@lru_cache(maxsize=64)
def _calibrated(epsilon: float, delta: float, sampling_rate: float, steps: int, evaluation_noise: float | None) -> float:
    accounting = library()
    further = [] if evaluation_noise is None else [accounting.gaussian(evaluation_noise)]
    noise = accounting.noise_multiplier_for(epsilon, delta, sampling_rate, steps, further)
    return rounded_up(noise)


def rounded_up(noise: float) -> float:
    """To `DIGITS` figures."""
    rounded = float(f"{noise:.{DIGITS - 1}e}")
    return rounded if rounded >= noise else float(f"{noise + 10.0 ** (_exponent(noise) - DIGITS + 1):.{DIGITS - 1}e}")


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


@lru_cache(maxsize=256)
def _epsilon(kept: Terms, rounds: int, evaluations: int) -> float:
    return float(library().epsilon(_mechanisms(kept, rounds, evaluations), kept.delta))


def _mechanisms(found: Terms, rounds: int, evaluations: int) -> list[Spent]:
    accounting = library()
    spent = [] if rounds == 0 else [accounting.subsampled_gaussian(found.sampling_rate, found.noise_multiplier, rounds * found.local_steps)]
    return spent + ([accounting.gaussian(found.evaluation_noise, evaluations)] if evaluations else [])


def library() -> Any:
    """Loaded only for a study that needs it: its library is not installed everywhere."""
    try:
        return importlib.import_module("aimer2.privacy.accounting")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "dp_accounting":
            raise
        sentence = "This study asks for differential privacy, and dp-accounting, which counts it, is not installed here."
        raise NotAvailable(sentence, remedy="Install it: pip install 'aimer2[dp]'") from None
