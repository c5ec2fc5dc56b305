"""Group-wise sums in a whole study: what the median makes of them, and what one false hospital then does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from aimer2 import Study, simulate
from aimer2.secure_aggregation.groups import groups

NAMES = [f"site-{number}" for number in range(9)]


def study(aggregator: str, privacy: dict[str, Any], **changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "grouped",
        "question": "Which sums does the aggregator compare?",
        "purpose": "testing",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Test",
        "expires": "2090-01-01",
        "cohort": {
            "dataset": "drawn",
            "features": [{"name": "age"}, {"name": "dose"}],
            "target": {"name": "event"},
            "standardise": "none",
            "minimum_patients": 1,
        },
        "model": {"framework": "numpy", "name": "logistic"},
        "training": {"learning_rate": 0.5, "batch_size": None, "local_steps": 1},
        "method": {"rounds": 2, "aggregator": aggregator},
        "sites": {"minimum": 3},
        "evaluation": {"held_out": 0},
        "privacy": privacy,
    }
    return Study(**(fields | changes))


def frame(number: int) -> pd.DataFrame:
    rng = np.random.default_rng(number)
    age, dose = rng.normal(size=(2, 20 + 5 * number))
    return pd.DataFrame({"age": age, "dose": dose, "event": (age + 2 * dose + rng.logistic(size=len(age)) > 0).astype(int)})


FRAMES = {name: frame(number) for number, name in enumerate(NAMES)}
SECRET = {"group_size": 3}
CLEAR = {"secure_aggregation": False, "why_not_secure": "a test"}


@pytest.mark.parametrize("aggregator", ["median", "geometric_median"])
def test_a_group_counts_as_one_hospital_with_all_its_patients(aggregator: str) -> None:
    """One step of plain gradient descent on a group's sum is the step on its pooled rows."""
    pooled = {f"pool-{number}": pd.concat([FRAMES[site] for site in group]) for number, group in enumerate(groups(NAMES, 3, 1))}
    secret = simulate(study(aggregator, SECRET), FRAMES)
    clear = simulate(study(aggregator, CLEAR), pooled)
    for leaf, expected in clear.model.items():
        np.testing.assert_allclose(secret.model[leaf], expected, rtol=0, atol=1e-6)
    together = simulate(study("weighted_mean", {}), FRAMES)
    assert any(np.abs(together.model[leaf] - secret.model[leaf]).max() > 1e-4 for leaf in clear.model), "the median is no mean"


def test_one_false_hospital_moves_the_sum_of_all_and_not_the_median_of_groups() -> None:
    lying = FRAMES | {"site-4": FRAMES["site-4"].assign(dose=FRAMES["site-4"]["dose"] * -1000)}
    moved = {}
    for aggregator, privacy in {"weighted_mean": {}, "median": SECRET}.items():
        honest, false = (simulate(study(aggregator, privacy), frames).model["coefficients"] for frames in (FRAMES, lying))
        moved[aggregator] = float(np.abs(honest - false).max())
    assert moved["weighted_mean"] > 10 * moved["median"]
    assert moved["median"] < 0.1


def test_the_order_in_which_sites_answer_changes_no_bit() -> None:
    first, second = (simulate(study("median", SECRET), FRAMES, order=order).model for order in (NAMES, NAMES[::-1]))
    assert all(first[leaf].tobytes() == second[leaf].tobytes() for leaf in first)


def test_the_record_says_which_sums_the_coordinator_saw() -> None:
    stated = simulate(study("median", SECRET, method={"rounds": 1, "aggregator": "median"}), FRAMES).result["privacy"]
    assert stated["secure_aggregation"]["groups"] == [list(group) for group in groups(NAMES, 3, 1)]
    assert stated["statement"].startswith("The coordinator saw, of 3 groups of 3 sites, each one's sums of at least 3 updates, and no single one.")


def test_without_groups_a_study_keeps_its_digest() -> None:
    assert "group_size" not in study("weighted_mean", {}).model_dump_json()
