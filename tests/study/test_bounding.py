"""How far a site may move the model, in the clear and in secret."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aimer2.client.simulate import simulate
from aimer2.core import tree
from aimer2.core.errors import BadUpdate
from aimer2.core.study import Method, Study
from aimer2.core.tree import Mapped
from aimer2.study.bounding import bounded, faults

Make = Callable[..., Study]


def sums(change: list[float], weight: float) -> dict[str, Any]:
    return {"difference": {"w": np.array(change, np.float32) * np.float32(weight)}, "weight": {"rows": np.array([weight])}}


def mean(found: Any) -> np.ndarray[Any, Any]:
    return np.asarray(tree.load(found["difference"]["w"]), np.float64) / float(found["weight"]["rows"][0])


@pytest.mark.parametrize("weight", [1.0, 40.0])
def test_a_longer_change_is_shortened_to_the_bound_and_keeps_its_direction(weight: float) -> None:
    found = mean(bounded(Method(largest_change=1.0), "train", sums([3.0, 4.0], weight)))
    assert np.linalg.norm(found) == pytest.approx(1.0, rel=1e-6)
    assert np.linalg.norm(found) <= 1.0
    assert found[1] / found[0] == pytest.approx(4 / 3)


def test_a_shorter_one_and_every_other_sum_stay_bit_for_bit() -> None:
    given = sums([0.3, 0.4], 7.0)
    assert bounded(Method(largest_change=0.6), "train", given)["difference"] is given["difference"]
    assert bounded(Method(largest_change=1e-3), "train", given)["weight"] is given["weight"]
    assert bounded(Method(largest_change=1e-3), "final", given) is given
    assert bounded(Method(), "train", given) is given
    assert list(bounded(Method(largest_change=1e-3), "train", given)) == list(given), "the order of the masks"


def test_an_update_that_cannot_be_measured_does_not_leave() -> None:
    for odd in ({"metrics": {}}, sums([1.0], 0.0), sums([1.0], -3.0), sums([float("nan")], 2.0)):
        with pytest.raises(BadUpdate):
            bounded(Method(largest_change=1.0), "train", odd)


def test_lazy_changes_stay_lazy() -> None:
    given = sums([3.0, 4.0], 1.0)
    lazy = Mapped(lambda part: part, [given["difference"]["w"]])
    assert isinstance(bounded(Method(largest_change=1.0), "train", {**given, "difference": {"w": lazy}})["difference"]["w"], Mapped)


def test_a_method_that_moves_the_model_by_other_sums_is_refused(study: Make) -> None:
    assert faults(study(method={"name": "fedprox", "largest_change": 1.0})) == []
    assert [fault.place for fault in faults(study(method={"name": "scaffold", "largest_change": 1.0}))] == ["method.largest_change"]
    assert faults(study(method={"name": "scaffold"})) == []


@pytest.mark.parametrize("secure", [False, True])
def test_one_site_with_altered_data_moves_the_model_no_further_than_the_bound(study: Make, secure: bool) -> None:
    rng = np.random.default_rng(1)
    frames = {name: pd.DataFrame({"age": rng.normal(size=60), "chol": rng.normal(size=60)}) for name in ("north", "south", "west")}
    for frame in frames.values():
        frame["disease"] = (frame["age"] > 0).astype(int)
    frames["west"] = frames["west"].assign(age=frames["west"]["age"] * 1e6)

    def moved(**method: float) -> float:
        asked = study(
            method={"name": "fedavg", "rounds": 1, **method},
            privacy={} if secure else {"secure_aggregation": False, "why_not_secure": "a test"},
            cohort={"dataset": "heart", "features": [{"name": "age"}, {"name": "chol"}], "target": {"name": "disease"}, "standardise": "none"},
            evaluation={"held_out": 0},
        )
        return float(np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in simulate(asked, frames).model.values()])))

    assert moved() > 1000
    assert moved(largest_change=0.5) <= 0.5
