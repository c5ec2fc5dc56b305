"""Gradient descent as written out here is torch's own to the bit, and the first step loads no compiler."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from aimer2.core.study import Training
from aimer2.learners.torch_descent import Sgd, optimiser, seed


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.03])
def test_every_step_has_the_bits_of_torch(momentum: float, weight_decay: float) -> None:
    ours, theirs = (_parameters() for _ in range(2))
    own = optimiser(Training(learning_rate=0.07, momentum=momentum, weight_decay=weight_decay), ours, 0.07)
    assert isinstance(own, Sgd)
    other = torch.optim.SGD(theirs, lr=0.07, momentum=momentum, weight_decay=weight_decay)
    rng = np.random.default_rng(3)
    for number in range(6):
        own.zero_grad()
        assert all(parameter.grad is None for parameter in ours)
        for mine, its in zip(ours, theirs, strict=True):
            gradient = torch.from_numpy(rng.normal(size=mine.shape).astype(np.float32))
            # one parameter is left out of every other step, as a frozen layer is
            mine.grad, its.grad = (None, None) if mine.ndim == 1 and number % 2 else (gradient.clone(), gradient.clone())
        own.step()
        other.step()
        assert all(torch.equal(mine, its) for mine, its in zip(ours, theirs, strict=True))


def test_the_seed_is_that_of_torch() -> None:
    torch.manual_seed(2**62 + 5)
    expected = torch.rand(9)
    seed(2**62 + 5, torch.device("cpu"))
    assert torch.equal(torch.rand(9), expected)


def test_training_loads_no_compiler() -> None:
    lines = [
        "import sys, numpy as np, torch",
        "from aimer2.core.dataset import Samples",
        "from aimer2.core.study import Target, Training",
        "from aimer2.learners.recipe import Recipe",
        "from aimer2.learners.torch import TorchLearner",
        "learner = TorchLearner(lambda: torch.nn.Linear(3, 1), Recipe(Training(momentum=0.5), Target(name='y'), 1, (3,)))",
        "rows = Samples(np.ones((8, 3), np.float32), np.arange(8) % 2)",
        "learner.fit(rows, steps=2, batch_size=4, round_number=1, rng=np.random.default_rng(1))",
        "learner.evaluate(rows)",
        "assert 'torch._dynamo' not in sys.modules",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def _parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (4,), (1, 4))]
