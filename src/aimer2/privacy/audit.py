"""How much privacy a training lost at least, measured from outside: what an attacker's right guesses prove.

Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run": m made-up patients are each put in or left out by a coin; from what was
released an attacker guesses r of the coins and gets v right. Under (ε, δ)-differential privacy the number of right guesses is hardly ever larger than
Binomial(r, 1/(1 + e^−ε)) (theorem 5.2 with its δ term), so many right guesses prove that ε was larger. It can only refute a claim, never prove one.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from aimer2.core.errors import BadInput

_LARGEST = 64.0


def epsilon_at_least(canaries: int, guesses: int, right: int, delta: float, *, confidence: float = 0.95) -> float:
    """The largest ε that so many right guesses refute with this confidence; 0 where they refute none. How many to guess is decided beforehand."""
    if not 0 <= right <= guesses <= canaries or guesses == 0 or not 0 <= delta < 1 or not 0 < confidence < 1:
        raise BadInput("Right guesses are among the guesses, guesses among the made-up patients.")
    low, high = 0.0, 1.0
    while high < _LARGEST and _chance(canaries, guesses, right, high, delta) < 1 - confidence:
        low, high = high, high + 1
    for _ in range(40):
        middle = (low + high) / 2
        if _chance(canaries, guesses, right, middle, delta) < 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def _chance(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The largest chance, under any (ε, δ)-private training, to guess so many or more right."""
    mass = _binomial(guesses, 1 / (1 + math.exp(-epsilon)))
    tail = float(mass[right:].sum())
    if right == 0:
        return 1.0
    # What δ adds: the failures that it allows, put where they help the attacker most.
    below = np.cumsum(mass[:right][::-1]) / np.arange(1, right + 1)
    return min(tail + 2 * canaries * delta * float(below.max()), 1.0)


def _binomial(trials: int, share: float) -> npt.NDArray[np.float64]:
    """The chance of each number of successes from 0 to ``trials``."""
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, trials + 1)))))
    k = np.arange(trials + 1)
    failing = math.log1p(-share) if share < 1 else -math.inf
    with np.errstate(invalid="ignore"):
        powers = k * math.log(share) + np.where(k == trials, 0.0, (trials - k) * failing)
    mass: npt.NDArray[np.float64] = np.exp(logs[-1] - logs - logs[::-1] + powers)
    return mass
