"""Schedules of the learning rate over the rounds of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import cos, pi

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1.0 + cos(pi * done)),
    "step": lambda done: 0.1 ** ((done >= 0.5) + (done >= 0.75)),
}
"""Name: factor of the learning rate by the share of rounds done. ``cosine`` is Loshchilov & Hutter 2017, equation 5, without restarts;
``step`` divides by ten after a half and after three quarters of the rounds (He et al. 2016, section 4.2)."""


def factor(schedule: str, round_number: int, rounds: int) -> float:
    """What the study's learning rate is multiplied with in this round; 1 in the first."""
    return SCHEDULES[schedule](min(max(round_number - 1, 0) / rounds, 1.0))
