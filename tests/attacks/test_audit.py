"""The one-run audit: what an attacker proves of a trained model stays below the ε that the study states, and would not if the noise were amiss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.core import tree
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadInput
from aimer2.core.random import SecureBytes
from aimer2.core.study import Study
from aimer2.learners.catalogue import make_learner
from aimer2.learners.torch_private import PrivateTorchLearner
from aimer2.privacy.audit import epsilon_at_least
from aimer2.privacy.site_level import SitePart, grid
from aimer2.privacy.site_terms import site_terms
from aimer2.privacy.terms import Terms, terms
from aimer2.secure_aggregation.roster import trusted

CANARIES, GUESSES, DELTA = 1000, 100, 1e-5

STUDY = Study(
    name="audit",
    question="How much does the model tell of its patients?",
    purpose="testing",
    ethics="none needed: made-up patients",
    principal_investigator="Test",
    expires="2090-01-01",
    cohort={
        "dataset": "canaries",
        "minimum_patients": 500,
        "standardise": "none",
        "features": [{"name": f"x{number}"} for number in range(CANARIES)],
        "target": {"name": "y"},
    },
    model={"name": "logistic"},
    training={"learning_rate": 1.0, "local_steps": 10},
    method={"rounds": 3},
    evaluation={"held_out": 0},
    privacy={"differential_privacy": {"epsilon": 2.0, "delta": DELTA, "clip_norm": 1.0, "sampling_rate": 0.5}},
)

ANSWERS = [
    (1000, 1000, 500, 0.0, 0.0),
    (1000, 1000, 600, 0.2972, 0.2975),
    (1000, 200, 150, 0.820, 0.821),
    (1000, 100, 90, 1.626, 1.631),
    (1000, 100, 100, 3.465, 3.493),
    (5000, 500, 500, 4.978, 5.114),
    (200, 40, 40, 2.548, 2.554),
]


@pytest.mark.parametrize(("canaries", "guesses", "right", "at_delta", "at_none"), ANSWERS)
def test_known_answers_of_the_bound(canaries: int, guesses: int, right: int, at_delta: float, at_none: float) -> None:
    assert epsilon_at_least(canaries, guesses, right, 1e-5) == pytest.approx(at_delta, abs=1e-3)
    assert epsilon_at_least(canaries, guesses, right, 0.0) == pytest.approx(at_none, abs=1e-3)


@given(guesses=st.integers(1, 80), data=st.data(), delta=st.sampled_from([0.0, 1e-6, 1e-3]))
def test_more_right_guesses_prove_more_and_a_larger_delta_less(guesses: int, data: Any, delta: float) -> None:
    right = data.draw(st.integers(0, guesses - 1))
    proven = epsilon_at_least(100, guesses, right, delta)
    assert 0 <= proven <= epsilon_at_least(100, guesses, right + 1, delta) + 1e-9
    assert epsilon_at_least(100, guesses, right, min(delta * 10, 0.5)) <= proven + 1e-9


def test_an_impossible_count_is_refused() -> None:
    for canaries, guesses, right in ((10, 20, 5), (10, 5, 6), (10, 0, 0)):
        with pytest.raises(BadInput):
            epsilon_at_least(canaries, guesses, right, 0.0)


def proven(asked: Terms | None = None) -> float:
    """ε that an attacker proves who reads the trained weights.

    Each made-up patient has a feature that nobody else has, so that whether the weight of it has risen tells of this patient alone: the worst
    case for which the guarantee must hold.
    """
    learner: Any = make_learner(STUDY, feature_shape=(CANARIES,), files={}, device="cpu")
    assert isinstance(learner, PrivateTorchLearner)
    if asked is not None:
        learner._terms = asked
    inside = np.random.default_rng().random(CANARIES) < 0.5
    rows = Samples(100.0 * np.eye(CANARIES)[inside], np.ones(int(inside.sum())), np.flatnonzero(inside).astype(np.uint64))
    for number in range(1, STUDY.method.rounds + 1):
        learner.fit(rows, steps=10, batch_size=None, round_number=number, rng=np.random.default_rng(number))
    order = np.argsort(learner.parameters()["weight"][0])
    right = int((~inside[order[: GUESSES // 2]]).sum() + inside[order[-GUESSES // 2 :]].sum())
    return epsilon_at_least(CANARIES, GUESSES, right, DELTA)


def test_the_attack_proves_less_than_the_stated_epsilon() -> None:
    assert proven() <= 2.0


def test_without_noise_the_attack_proves_more_than_one() -> None:
    assert proven(replace(terms(STUDY), noise_multiplier=0.0)) > 1.0


def test_an_attack_on_a_tenth_of_the_noise_refutes_the_stated_epsilon() -> None:
    calibrated = terms(STUDY)
    assert proven(replace(calibrated, noise_multiplier=calibrated.noise_multiplier / 10)) > 2.0


SITE_EPSILON = 2.0
CANARY_SITES = 600


def proven_of_sites(noise_multiplier: float) -> float:
    """ε that an attacker proves of one round's sum, who knows everything but which sites' parts are zeros.

    Each site moves a number of the model that no other moves. Only so many sites' noise is unknown to him as the guarantee counts on: that of all
    others he subtracts. What he is given is the sum that secure aggregation opens, read as the coordinator reads it.
    """
    hidden = trusted(CANARY_SITES)
    place = SitePart(grid(CANARY_SITES, hidden, noise_multiplier, CANARY_SITES), 1.0, CANARY_SITES)
    inside, source = np.random.default_rng().random(CANARY_SITES) < 0.5, SecureBytes()
    total = np.zeros(CANARY_SITES, np.int64)
    for number in range(CANARY_SITES):
        part = {"w": np.zeros(CANARY_SITES, np.float32)}
        part["w"][number] = 7.0 * inside[number]
        words = place.noisy(part, 1.0, source)[0] if number < hidden else place.rounded(part)[0]
        total += tree.load(words["w"])
    told = np.asarray(place.read({"w": total})["w"])
    order = np.argsort(told)
    right = int((~inside[order[: GUESSES // 2]]).sum() + inside[order[-GUESSES // 2 :]].sum())
    return epsilon_at_least(CANARY_SITES, GUESSES, right, DELTA)


def test_an_attack_on_the_sum_of_sites_proves_less_than_stated_and_more_with_a_tenth_of_the_noise() -> None:
    privacy = {"differential_privacy": {"level": "site", "epsilon": SITE_EPSILON, "delta": DELTA, "clip_norm": 1.0}}
    fields = STUDY.model_dump() | {"privacy": privacy, "method": {"rounds": 1}}
    calibrated = site_terms(Study(**fields))
    assert calibrated.epsilon(1) <= SITE_EPSILON
    assert proven_of_sites(calibrated.noise_multiplier) <= SITE_EPSILON
    assert proven_of_sites(calibrated.noise_multiplier / 10) > SITE_EPSILON
