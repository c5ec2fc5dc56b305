"""torch's optimisers, with its plainest written out; and its seed.

``torch.optim`` loads torch's compiler at the first optimiser made (seconds in a fresh process), and its bookkeeping costs a step of a small
model more than the arithmetic. So gradient descent with momentum and weight decay stands here, with the bits of ``torch.optim.SGD``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor, nn

from aimer2.core.study import Training
from aimer2.learners.recipe import WITH_MOMENTUM

_OF_TORCH: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


class Optimiser(Protocol):
    """What a fit asks of an optimiser."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self) -> None: ...
    def step(self) -> Any: ...


@final
class Sgd:
    """g ← gradient + weight_decay·w; v ← momentum·v + g (v = g at first); w ← w − rate·v."""

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float, momentum: float, weight_decay: float) -> None:
        self._parameters = list(parameters)
        self.param_groups: list[dict[str, Any]] = [{"params": self._parameters}]
        self._rate = rate
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._velocity: list[Tensor | None] = [None] * len(self._parameters)

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for number, parameter in enumerate(self._parameters):
            gradient = parameter.grad
            if gradient is None:
                continue
            if self._weight_decay:
                gradient = gradient.add(parameter, alpha=self._weight_decay)
            if self._momentum:
                velocity = self._velocity[number]
                gradient = gradient.clone() if velocity is None else velocity.mul_(self._momentum).add_(gradient)
                self._velocity[number] = gradient
            parameter.add_(gradient, alpha=-self._rate)


def optimiser(training: Training, parameters: Sequence[nn.Parameter], rate: float) -> Optimiser:
    """The study's, fresh."""
    if training.optimiser == "sgd":
        return Sgd(parameters, rate, training.momentum, training.weight_decay)
    momentum = {"momentum": training.momentum} if training.optimiser in WITH_MOMENTUM else {}
    return _OF_TORCH[training.optimiser](parameters, lr=rate, weight_decay=training.weight_decay, **momentum)


def seed(number: int, device: torch.device) -> None:
    """Seeds the generators that a model on this device draws from; ``torch.manual_seed`` also looks for devices of every other kind, which takes
    longer than a small step."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(number)


def foreseen(rng: np.random.Generator) -> int:
    """A number from the stream, which stays where it is: the batches are those of every other framework."""
    state = rng.bit_generator.state
    number = int(rng.integers(2**63))
    rng.bit_generator.state = state
    return number
