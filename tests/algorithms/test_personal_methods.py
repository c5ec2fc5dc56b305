"""Personal methods on parabolas: each by hand, and the limit in which it equals another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.ditto import Ditto
from aimer2.algorithms.fedavg import FedAvg
from aimer2.algorithms.fedbn import FedBN
from aimer2.algorithms.fedper import FedPer
from aimer2.algorithms.fedrep import FedRep
from aimer2.algorithms.frozen_backbone import FrozenBackbone
from aimer2.algorithms.local_fine_tuning import LocalFineTuning
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadStudy
from aimer2.core.protocols import Local
from aimer2.core.study import Target, Training
from aimer2.core.update import total
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe

H = 0.1


@dataclass
class Bowl:
    """Loss (base + head − b)² / 2: base and head have the same gradient, base + head − b."""

    def initial(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"base": np.zeros(1), "head": np.zeros(1)}

    def gradient(self, parameters: Mapping[str, Any], features: Any, targets: Any) -> tuple[float, dict[str, Any]]:
        away = parameters["base"] + parameters["head"] - targets
        slope = np.array([away.mean()])
        return float((away**2).mean() / 2), {"base": slope, "head": slope}

    def predict(self, parameters: Mapping[str, Any], features: Any) -> Any:
        return np.repeat(parameters["base"] + parameters["head"], len(features))


class Pair:
    """Two sites with optima b; their memories; drives a method by hand."""

    def __init__(self, *b: float, rows: tuple[int, ...] = (1, 3), steps: int = 1) -> None:
        self.b, self.rows, self.steps = b, rows, steps
        self.memory: list[dict[str, Any]] = [{} for _ in b]

    def site(self, number: int, round_number: int) -> Local:
        recipe = Recipe(Training(learning_rate=H), Target(name="y", kind="regression"), 100, (1,))
        data = Samples(np.zeros((self.rows[number], 1)), np.full(self.rows[number], self.b[number]))
        return Local(
            data=data,
            learner=NumpyLearner(Bowl, recipe),
            memory=self.memory[number],
            rng=np.random.default_rng(1),
            round_number=round_number,
            steps=self.steps,
            batch_size=None,
        )

    def run(self, method: Any, rounds: int) -> Any:
        state = method.init({"base": np.zeros(1), "head": np.zeros(1)})
        for number in range(1, rounds + 1):
            sent = method.broadcast(state)
            state = method.update(state, total([method.local(sent, self.site(k, number)) for k in range(len(self.b))]))
        return state

    def personal(self, method: Any, state: Any, number: int) -> dict[str, float]:
        made = method.personal(method.broadcast(state), self.site(number, 1))
        return {name: float(leaf[0]) for name, leaf in made.items()}


def values(method: Any, state: Any) -> dict[str, float]:
    return {name: float(leaf[0]) for name, leaf in method.model(state).items()}


def test_fedper_by_hand() -> None:
    """One step from 0: each site's base and head move by h·b; the base is averaged with weights 1/4 and 3/4, the heads stay."""
    pair, method = Pair(4.0, -8.0), FedPer(head="head")
    state = pair.run(method, 1)
    assert values(method, state) == pytest.approx({"base": 0.1 * (4 - 24) / 4, "head": 0.0})
    assert pair.personal(method, state, 0) == pytest.approx({"base": -0.5, "head": 0.4})
    assert pair.personal(method, state, 1) == pytest.approx({"base": -0.5, "head": -0.8})


def test_fedper_with_one_site_is_fedavg() -> None:
    pair, method = Pair(4.0, rows=(5,), steps=3), FedPer(head="head")
    expected = values(FedAvg(), Pair(4.0, rows=(5,), steps=3).run(FedAvg(), 4))
    assert pair.personal(method, pair.run(method, 4), 0) == pytest.approx(expected, abs=1e-15)


def test_fedrep_by_hand() -> None:
    """Two head steps from 0 bring the head to b·(1 − 0.9²) = 0.19·b; the base then moves by h·(b − head) = 0.081·b."""
    pair, method = Pair(10.0, -20.0), FedRep(head="head", head_steps=2)
    state = pair.run(method, 1)
    assert values(method, state)["base"] == pytest.approx(0.81 * 0.1 * (10 - 60) / 4)
    assert pair.personal(method, state, 0)["head"] == pytest.approx(1.9)
    assert pair.personal(method, state, 1)["head"] == pytest.approx(-3.8)


def test_fedrep_without_head_steps_is_a_frozen_head() -> None:
    method, frozen = FedRep(head="head", head_steps=0), FrozenBackbone(trained="base")
    assert values(method, Pair(4.0, -8.0, steps=3).run(method, 5)) == values(frozen, Pair(4.0, -8.0, steps=3).run(frozen, 5))


def test_fedbn_keeps_the_named_layers_and_without_any_is_fedavg() -> None:
    pair, method = Pair(4.0, -8.0), FedBN(layers="head")
    state = pair.run(method, 1)
    assert pair.personal(method, state, 1) == pytest.approx({"base": -0.5, "head": -0.8})
    assert values(FedBN(), Pair(4.0, -8.0).run(FedBN(), 5)) == values(FedAvg(), Pair(4.0, -8.0).run(FedAvg(), 5))


def test_fedbn_is_refused_where_nothing_would_stay() -> None:
    with pytest.raises(BadStudy, match="no layer with running means"):
        FedBN().check(Pair(1.0).site(0, 1).learner)
    FedBN(layers="head").check(Pair(1.0).site(0, 1).learner)


def test_ditto_rests_between_its_own_optimum_and_the_common_model() -> None:
    """With s = base + head, F' = s − b for both leaves: v rests where s − b + λ(s − w)/2 = 0 in each leaf, so s = (2b + λw)/(2 + λ)."""
    pair, method = Pair(4.0, -8.0, rows=(1, 1), steps=20), Ditto(lambda_=0.5)
    state = pair.run(method, 60)
    common = sum(values(method, state).values())
    assert common == pytest.approx(-2.0, abs=1e-6)
    for number, b in enumerate(pair.b):
        assert sum(pair.personal(method, state, number).values()) == pytest.approx((2 * b + 0.5 * common) / 2.5, abs=1e-6)


def test_the_common_model_of_ditto_is_fedavgs_and_without_a_pull_each_trains_alone() -> None:
    method = Ditto(lambda_=0.0)
    pair = Pair(4.0, -8.0, steps=3)
    state = pair.run(method, 5)
    assert values(method, state) == values(FedAvg(), Pair(4.0, -8.0, steps=3).run(FedAvg(), 5))
    alone = values(FedAvg(), Pair(4.0, rows=(1,), steps=3).run(FedAvg(), 5))
    assert pair.personal(method, state, 0) == pytest.approx(alone, abs=1e-15)


def test_fine_tuning_by_hand_and_with_no_step_it_is_fedavg() -> None:
    """k steps in the sum of base and head: s − b shrinks by 1 − 2h a step."""
    pair = Pair(4.0, -8.0)
    method = LocalFineTuning(fine_tuning_steps=3)
    state = pair.run(method, 2)
    common = sum(values(method, state).values())
    assert sum(pair.personal(method, state, 1).values()) == pytest.approx(-8 + 0.8**3 * (common + 8))
    assert pair.personal(LocalFineTuning(fine_tuning_steps=0), state, 1) == values(method, state)


def test_a_frozen_backbone_by_hand() -> None:
    """Only the head moves, by h·Σ n b / Σ n; with every layer named it is FedAvg."""
    method, everything = FrozenBackbone(trained="head"), FrozenBackbone(trained="*")
    assert values(method, Pair(4.0, -8.0).run(method, 1)) == pytest.approx({"base": 0.0, "head": -0.5})
    assert values(everything, Pair(4.0, -8.0).run(everything, 3)) == values(FedAvg(), Pair(4.0, -8.0).run(FedAvg(), 3))


@pytest.mark.parametrize("method", [FedPer(head="head"), FedRep(head="head"), FedBN(layers="head"), Ditto()], ids=lambda m: type(m).__name__)
def test_a_round_that_is_asked_anew_starts_from_what_was_there_before(method: Any) -> None:
    pair = Pair(4.0, -8.0)
    state = pair.run(method, 2)
    first = method.local(method.broadcast(state), pair.site(0, 3))
    kept = {name: float(leaf[0]) for name, leaf in pair.memory[0]["after"].items()}
    again = method.local(method.broadcast(state), pair.site(0, 3))
    assert first == again
    assert kept == {name: float(leaf[0]) for name, leaf in pair.memory[0]["after"].items()}


@pytest.mark.parametrize("method", [FedPer(head="head"), FedRep(head="head", head_steps=1)], ids=lambda m: type(m).__name__)
def test_a_site_that_comes_at_the_end_trains_a_head(method: Any) -> None:
    pair = Pair(4.0, -8.0)
    state = pair.run(method, 1)
    pair.memory[0] = {}
    base = values(method, state)["base"]
    assert pair.personal(method, state, 0) == pytest.approx({"base": base, "head": 0.1 * (4 - base)})


@pytest.mark.parametrize(("method", "words"), [(FedPer(head="heat"), "heat"), (FedBN(layers="norm"), "norm"), (FrozenBackbone(trained="x*"), "x")])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(method: Any, words: str) -> None:
    with pytest.raises(BadStudy, match=words) as caught:
        method.init({"base": np.zeros(1), "head": np.zeros(1)})
    assert "base, head" in caught.value.faults[0].remedy


def test_a_head_that_is_the_whole_model_is_refused() -> None:
    with pytest.raises(BadStudy, match="whole model"):
        FedPer(head="*").init({"base": np.zeros(1), "head": np.zeros(1)})
