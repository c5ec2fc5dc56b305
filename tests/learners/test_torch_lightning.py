"""Modules that train themselves: a duck-typed one takes the steps of the same study in plain torch; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aimer2.core.dataset import Samples
from aimer2.core.errors import BadModel
from aimer2.core.study import Target, Training
from aimer2.learners.recipe import Recipe
from aimer2.learners.torch import TorchLearner

OWN: dict[str, Any] = {"optimiser": "module"}


class Duck(nn.Module):
    """Of the form of a LightningModule, without Lightning."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layer = nn.Linear(3, 1)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layer(x)
        return scores

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        features, targets = batch
        self.seen.append(batch_idx)
        return {"loss": nn.functional.binary_cross_entropy_with_logits(self(features).squeeze(1), targets)}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)


def learner(build: Any, **training: Any) -> TorchLearner:
    return TorchLearner(build, Recipe(Training(**training), Target(name="y"), 3, (3,), ("auc",)), "cpu")


def data() -> Samples:
    rng = np.random.default_rng(0)
    return Samples(rng.normal(size=(50, 3)), rng.integers(0, 2, 50))


def fit(mine: TorchLearner, **changes: Any) -> float:
    asked: dict[str, Any] = {"steps": 7, "batch_size": 16, "round_number": 1, "rng": np.random.default_rng(2)}
    return mine.fit(data(), **(asked | changes))


def test_its_own_steps_are_those_of_a_study_that_says_the_same() -> None:
    class Plain(Duck):
        training_step = None  # type: ignore[assignment]

    own, told = learner(Duck, **OWN), learner(Plain, optimiser="adamw", learning_rate=0.05, weight_decay=0.1)
    losses = [fit(each) for each in (own, told)]
    assert losses[0] == losses[1]
    module: Any = own._module
    assert module.seen == list(range(7))
    for name, leaf in own.parameters().items():
        np.testing.assert_array_equal(leaf, told.parameters()[name])


def test_corrections_reach_its_gradients() -> None:
    one, other = learner(Duck, **OWN), learner(Duck, **OWN)
    fit(one)
    fit(other, correction=lambda parameters, gradients: {name: gradient * 0 for name, gradient in gradients.items()})
    assert not np.array_equal(one.parameters()["layer.bias"], other.parameters()["layer.bias"])


def given(value: Any) -> type[Duck]:
    class Other(Duck):
        def configure_optimizers(self) -> Any:
            return value(self)

    return Other


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1)


@pytest.mark.parametrize("value", [lambda m: [sgd(m)], lambda m: {"optimizer": sgd(m)}], ids=["list", "mapping"])
def test_the_forms_in_which_one_optimiser_is_given(value: Any) -> None:
    fit(learner(given(value), **OWN))


@pytest.mark.parametrize(
    "value",
    [
        lambda m: [sgd(m), sgd(m)],
        lambda m: ([sgd(m)], ["scheduler"]),
        lambda m: {"optimizer": sgd(m), "lr_scheduler": "scheduler"},
        lambda m: None,
        lambda m: sgd(nn.Linear(1, 1)),
        lambda m: 1 / 0,
    ],
    ids=["two", "scheduler", "scheduler-in-mapping", "none", "of-another-module", "fails"],
)
def test_other_arrangements_are_refused(value: Any) -> None:
    with pytest.raises(BadModel):
        fit(learner(given(value), **OWN))


def test_optimisation_by_hand_and_steps_without_a_loss_are_refused() -> None:
    class ByHand(Duck):
        automatic_optimization = False

    class Silent(Duck):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None

    class Quoting(Duck):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ValueError(f"a row is {batch[0][0]}")

    for build in (ByHand, Silent, Quoting):
        with pytest.raises(BadModel) as refusal:
            fit(learner(build, **OWN))
        assert "tensor" not in str(refusal.value)


def test_module_and_study_must_agree_on_who_says_how_it_trains() -> None:
    with pytest.raises(BadModel, match="training_step"):
        learner(Duck)
    with pytest.raises(BadModel, match="no `training_step`"):
        learner(lambda: nn.Linear(3, 1), **OWN)
