"""LoRA on one weight by hand; with A = I its first step is a frozen backbone's; what cannot be adapted is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aimer2.algorithms.frozen_backbone import FrozenBackbone
from aimer2.algorithms.lora import Lora
from aimer2.algorithms.parts import Parted
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadModel, BadStudy
from aimer2.core.protocols import Local
from aimer2.core.study import Target, Training
from aimer2.core.update import total
from aimer2.learners.recipe import Recipe
from aimer2.learners.torch import TorchLearner

H = 0.05


def learner(build: Any, features: int) -> TorchLearner:
    return TorchLearner(build, Recipe(Training(learning_rate=H), Target(name="y", kind="regression"), 10, (features,)), "cpu")


def site(build: Any, data: Samples, steps: int = 1) -> Local:
    made = learner(build, data.feature_shape[0])
    return Local(data=data, learner=made, memory={}, rng=np.random.default_rng(1), round_number=1, steps=steps, batch_size=None)


def single() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 1, bias=False)).double()


def deep() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)).double()


def test_two_steps_by_hand() -> None:
    """y = w·x with x = 1, loss (w − b)², so dw = 2(w − b); w = w₀ + s·up·down, d up = dw·s·down, d down = dw·s·up."""
    method, b, w0, s, down, up = Lora(rank=1, alpha=3.0), 5.0, 2.0, 3.0, 0.5, 0.0
    state = Parted({"0.down": np.array([[down]]), "0.up": np.array([[up]])}, {"0.weight": np.array([[w0]])})
    update = method.local(method.broadcast(state), site(single, Samples(np.ones((4, 1)), np.full(4, b)), steps=2))
    for _ in range(2):
        dw = 2 * (w0 + s * up * down - b)
        up, down = up - H * dw * s * down, down - H * dw * s * up
    moved = method.update(state, total([update]))
    assert moved.model["0.up"][0, 0] == pytest.approx(up, abs=1e-12)
    assert moved.model["0.down"][0, 0] == pytest.approx(down, abs=1e-12)
    assert method.model(moved)["0.weight"][0, 0] == pytest.approx(w0 + s * up * down, abs=1e-12)
    assert update.sums["weight"]["rows"] == 4


def test_with_the_identity_its_first_step_is_that_of_a_frozen_backbone() -> None:
    """And nothing else of the model moves, running means neither."""
    rng = np.random.default_rng(2)
    data = Samples(rng.normal(size=(20, 3)), rng.normal(size=20))
    start = learner(deep, 3).parameters()
    lora, frozen = Lora(rank=3, alpha=3.0, layers="0"), FrozenBackbone(trained="0.weight")
    state = lora.init(start)
    state = replace(state, model=dict(state.model) | {"0.down": np.eye(3)})
    after = lora.model(lora.update(state, total([lora.local(lora.broadcast(state), site(deep, data))])))
    state = frozen.init(start)
    expected = frozen.model(frozen.update(state, total([frozen.local(frozen.broadcast(state), site(deep, data))])))
    assert after.keys() == start.keys()
    for name, leaf in expected.items():
        np.testing.assert_allclose(after[name], leaf, rtol=0, atol=1e-12)
        assert np.array_equal(after[name], start[name]) == (name != "0.weight")


def test_at_the_start_the_model_is_the_given_one_and_only_adapters_and_head_travel() -> None:
    start = learner(deep, 3).parameters()
    method = Lora(rank=2, head="3")
    state = method.init(start)
    assert set(state.model) == {"0.down", "0.up", "3.weight", "3.bias"}
    assert {name: leaf.shape for name, leaf in state.model.items()} == {"0.down": (2, 3), "0.up": (3, 2), "3.weight": (1, 3), "3.bias": (1,)}
    assert {name: leaf.tolist() for name, leaf in method.model(state).items()} == {name: leaf.tolist() for name, leaf in start.items()}
    assert method.init(start).model["0.down"].tolist() == state.model["0.down"].tolist(), "drawn anew"


def test_the_head_trains_in_full() -> None:
    rng = np.random.default_rng(2)
    data, method = Samples(rng.normal(size=(20, 3)), rng.normal(size=20)), Lora(rank=2, head="3")
    start = learner(deep, 3).parameters()
    state = method.init(start)
    moved = method.model(method.update(state, total([method.local(method.broadcast(state), site(deep, data, steps=3))])))
    assert {name for name in start if not np.array_equal(moved[name], start[name])} == {"0.weight", "3.weight", "3.bias"}


def test_what_is_no_linear_layer_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.names = nn.Embedding(3, 2)
            self.out = nn.Linear(1, 1)

        def forward(self, x: Any) -> Any:
            return self.out(x)

    with pytest.raises(BadModel, match=r"names\.weight is not the weight of a plain"):
        Lora().check(learner(Odd, 1))
    Lora(layers="out").check(learner(Odd, 1))
    with pytest.raises(BadStudy, match="no linear layer there"):
        Lora(layers="0.bias").check(learner(single_with_bias, 1))


def single_with_bias() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 1))
