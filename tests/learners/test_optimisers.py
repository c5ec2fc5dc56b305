"""Each formula against torch's own optimiser, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from aimer2.learners.optimisers import OPTIMISERS, Scalars, rates
from aimer2.learners.recipe import WITH_MOMENTUM

TORCH: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


def test_every_optimiser_of_torch_is_here() -> None:
    assert OPTIMISERS.keys() == TORCH.keys()


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(("name", "momentum"), [(name, 0.0) for name in TORCH] + [(name, 0.8) for name in WITH_MOMENTUM])
def test_the_steps_are_those_of_torch(name: str, momentum: float, decay: float) -> None:
    rng = np.random.default_rng(1)
    w = rng.normal(size=5)
    reference = torch.nn.Parameter(torch.tensor(w))
    extra = {"momentum": momentum} if name in WITH_MOMENTUM else {}
    optimiser = TORCH[name]([reference], lr=0.07, weight_decay=decay, **extra)
    slots: tuple[Any, ...] = tuple(np.zeros(5) for _ in range(OPTIMISERS[name].slots))
    for step in range(1, 9):
        g = rng.normal(size=5)
        reference.grad = torch.tensor(g)
        optimiser.step()
        w, slots = OPTIMISERS[name].step(w, g, slots, Scalars(decay, momentum, *rates(0.07, decay, step)))
    np.testing.assert_allclose(w, reference.detach().numpy(), rtol=1e-12)
