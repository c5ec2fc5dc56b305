"""The optimisers as plain arithmetic on any kind of array: the formulas of `torch.optim` with its defaults, so that a study's numbers do not
depend on the framework that a site has.

One step of each: w parameter, g gradient, η learning rate, λ weight decay, ρ momentum, t = 1, 2, … the step since the start of the round.

- ``sgd``: g ← g + λw; v ← ρv + g; w ← w − ηv.
- ``adam`` (Kingma & Ba 2015, Algorithm 1): g ← g + λw; m ← 0.9m + 0.1g; v ← 0.999v + 0.001g²; w ← w − η·m̂/(√v̂ + 10⁻⁸).
- ``adamw`` (Loshchilov & Hutter 2019, Algorithm 2): w ← w − ηλw, then as ``adam`` without λ.
- ``rmsprop``: g ← g + λw; v ← 0.99v + 0.01g²; b ← ρb + g/(√v + 10⁻⁸); w ← w − ηb.
- ``adagrad`` (Duchi, Hazan, Singer 2011): g ← g + λw; v ← v + g²; w ← w − η·g/(√v + 10⁻¹⁰).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

_BETA_1, _BETA_2, _ALPHA = 0.9, 0.999, 0.99

Stepped: TypeAlias = tuple[Any, tuple[Any, ...]]
"""The parameter and its slots after a step."""


@final
@dataclass(frozen=True, slots=True)
class Scalars:
    """The numbers of one step: λ and ρ, and those of `rates`, plain or as scalars of the framework."""

    decay: float
    momentum: float
    rate: Any
    shrink: Any
    adam_rate: Any
    adam_scale: Any


def rates(rate: float, decay: float, step: int) -> tuple[float, float, float, float]:
    """What changes from step to step: η, η·λ, and Adam's η/(1 − 0.9ᵗ) and 1/√(1 − 0.999ᵗ)."""
    return rate, rate * decay, rate / (1 - _BETA_1**step), (1 - _BETA_2**step) ** -0.5


@final
@dataclass(frozen=True, slots=True)
class Optimiser:
    """``step(w, g, slots, scalars)``: w and slots after one step; ``slots`` arrays of the parameter's shape, zero at the start of a round."""

    slots: int
    step: Callable[[Any, Any, Sequence[Any], Scalars], Stepped]


def _sgd(w: Any, g: Any, slots: Sequence[Any], s: Scalars) -> Stepped:
    velocity = s.momentum * slots[0] + (g + s.decay * w)
    return w - s.rate * velocity, (velocity,)


def _adam(w: Any, g: Any, slots: Sequence[Any], s: Scalars) -> Stepped:
    return _moved(w, g + s.decay * w, slots, s)


def _adamw(w: Any, g: Any, slots: Sequence[Any], s: Scalars) -> Stepped:
    return _moved(w - s.shrink * w, g, slots, s)


def _moved(w: Any, g: Any, slots: Sequence[Any], s: Scalars) -> Stepped:
    first = _BETA_1 * slots[0] + (1 - _BETA_1) * g
    second = _BETA_2 * slots[1] + (1 - _BETA_2) * g * g
    return w - s.adam_rate * first / (second**0.5 * s.adam_scale + 1e-8), (first, second)


def _rmsprop(w: Any, g: Any, slots: Sequence[Any], s: Scalars) -> Stepped:
    steep = g + s.decay * w
    square = _ALPHA * slots[0] + (1 - _ALPHA) * steep * steep
    buffer = s.momentum * slots[1] + steep / (square**0.5 + 1e-8)
    return w - s.rate * buffer, (square, buffer)


def _adagrad(w: Any, g: Any, slots: Sequence[Any], s: Scalars) -> Stepped:
    steep = g + s.decay * w
    square = slots[0] + steep * steep
    return w - s.rate * steep / (square**0.5 + 1e-10), (square,)


OPTIMISERS: Mapping[str, Optimiser] = {
    "sgd": Optimiser(1, _sgd),
    "adam": Optimiser(2, _adam),
    "adamw": Optimiser(2, _adamw),
    "rmsprop": Optimiser(2, _rmsprop),
    "adagrad": Optimiser(1, _adagrad),
}
