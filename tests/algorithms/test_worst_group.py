"""Groups across hospitals: the mixture by hand, the worst group gains, few patients tell nothing, and the limits that are FedAvg."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.fedavg import FedAvg
from aimer2.algorithms.worst_group import WorstGroup
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadData
from aimer2.core.protocols import Local
from aimer2.core.study import Study, Target, Training
from aimer2.core.update import Update, total
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.study.check import promises


@dataclass
class Bowl:
    """Loss (x − b)² / 2."""

    def initial(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": np.zeros(1)}

    def gradient(self, parameters: Mapping[str, Any], features: Any, targets: Any) -> tuple[float, dict[str, Any]]:
        away = parameters["x"] - targets
        return float((away**2).mean() / 2), {"x": np.array([away.mean()])}

    def predict(self, parameters: Mapping[str, Any], features: Any) -> Any:
        return np.repeat(parameters["x"], len(features))


def hospital(*counts: int, b: tuple[float, ...] = (0.0, 3.0)) -> Samples:
    """So many rows of each group, whose optima are ``b``."""
    group = np.repeat(np.arange(len(counts)), counts)
    return Samples(np.zeros((len(group), 1)), np.array(b)[group], groups=np.eye(len(counts))[group])


def local(method: Any, state: Any, data: Samples, seed: int = 1, steps: int = 1) -> Update:
    recipe = Recipe(Training(learning_rate=0.1), Target(name="y", kind="regression"), 1000, (1,))
    site = Local(data, NumpyLearner(Bowl, recipe), {}, np.random.default_rng(seed), state.round_number + 1, steps, None)
    update: Update = method.local(method.broadcast(state), site)
    return update


def run(method: Any, sites: list[Samples], rounds: int, start: float = 1.0) -> Any:
    state = method.init({"x": np.array([start])})
    for number in range(rounds):
        state = method.update(state, total([local(method, state, data, 100 * number + place) for place, data in enumerate(sites)]))
    return state


def test_the_first_round_is_fedavg_and_the_mixture_follows_the_losses_over_all_sites() -> None:
    """30 and 20 rows of the first group, 10 and 40 of the second; at x = 1 their losses are 1/2 and 2."""
    sites = [hospital(30, 10), hospital(20, 40)]
    method = WorstGroup(mixture_rate=0.3)
    state = run(method, sites, 1)
    assert state.model["x"] == run(FedAvg(), sites, 1).model["x"]
    gained = [0.3 * 0.5, 0.3 * 2.0]
    level = log((exp(gained[0]) + exp(gained[1])) / 2)
    assert state.mixture["log"] == pytest.approx([one - level for one in gained])


def test_rows_of_the_worse_group_count_more_in_the_second_round() -> None:
    sites = [hospital(30, 10), hospital(20, 40)]
    method = WorstGroup(mixture_rate=0.3)
    state = run(method, sites, 1)
    sent = local(method, state, sites[0])
    expected = 30 * exp(state.mixture["log"][0]) + 10 * exp(state.mixture["log"][1])
    assert sent.sums["weight"]["share"] == pytest.approx(expected)
    assert sent.sums["weight"]["rows"] == 40


def test_it_rests_where_both_groups_fare_alike_and_fedavg_does_not() -> None:
    """A tenth of the patients has its optimum at 3, the others at 0: least for the worst is 1.5."""
    sites = [hospital(360, 40), hospital(180, 20)]
    late = [float(run(WorstGroup(mixture_rate=0.05), sites, rounds).model["x"][0]) for rounds in (300, 320, 340, 360)]
    assert np.mean(late) == pytest.approx(1.5, abs=0.15)
    assert float(run(FedAvg(), sites, 300).model["x"][0]) == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize(("method", "sites"), [(WorstGroup(mixture_rate=0.0), [hospital(30, 10)]), (WorstGroup(), [hospital(30), hospital(20)])])
def test_without_a_rate_or_with_one_group_it_is_fedavg_bit_for_bit(method: Any, sites: list[Samples]) -> None:
    assert run(method, sites, 5).model["x"].tolist() == run(FedAvg(), sites, 5).model["x"].tolist()


def test_of_a_group_of_few_patients_nothing_is_told() -> None:
    method = WorstGroup()
    sent = local(method, method.init({"x": np.ones(1)}), hospital(30, 9)).sums["groups"]
    assert sent["rows"].tolist() == [30.0, 0.0]
    assert sent["loss"].tolist() == [15.0, 0.0]


def test_rows_of_no_known_group_count_once_and_rows_without_groups_are_refused() -> None:
    data, method = hospital(30, 10), WorstGroup()
    assert data.groups is not None
    data.groups[:5] = 0.0
    state = run(method, [data, hospital(20, 20)], 1)
    sent = local(method, state, data)
    assert sent.sums["weight"]["share"] == pytest.approx(5 + 25 * exp(state.mixture["log"][0]) + 10 * exp(state.mixture["log"][1]))
    with pytest.raises(BadData, match="no group"):
        local(method, method.init({"x": np.ones(1)}), Samples(np.zeros((3, 1)), np.zeros(3)))


def study(method: str, **cohort: Any) -> Study:
    return Study(
        name="groups",
        question="Is the model as good for all?",
        purpose="test",
        ethics="none needed",
        principal_investigator="Test Person",
        expires="2100-01-01",
        cohort={"dataset": "d", "features": [{"name": "x"}], "target": {"name": "y"}} | cohort,
        model={"framework": "numpy", "name": "logistic"},
        method={"name": method},
    )


def test_method_and_column_belong_together() -> None:
    sex = {"group": {"name": "sex", "kind": "category", "categories": ["f", "m"]}}
    assert promises(study("worst_group", **sex)) == []
    assert [fault.place for fault in promises(study("worst_group"))] == ["cohort.group"]
    assert [fault.place for fault in promises(study("fedavg", **sex))] == ["cohort.group"]
