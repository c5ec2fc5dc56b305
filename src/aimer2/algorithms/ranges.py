"""The numbers that a hyper-parameter may be: a method refuses others when it is made, before any site is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, final

from aimer2.core.errors import BadStudy, Fault


@final
@dataclass(frozen=True, slots=True)
class Range:
    """Which numbers, and how that is said."""

    words: str
    has: Callable[[float], bool]


AT_LEAST_0 = Range("at least 0", lambda value: value >= 0)
ABOVE_0 = Range("above 0", lambda value: value > 0)
BELOW_1 = Range("at least 0 and below 1", lambda value: 0 <= value < 1)


def refuse_outside(method: Any, **ranges: Range) -> None:
    """Raises BadStudy with a fault for each hyper-parameter that is outside its range or not finite."""
    faults = []
    for name, wanted in ranges.items():
        value = getattr(method, name)
        if not (isfinite(value) and wanted.has(value)):
            faults.append(Fault(f"method.parameters.{name}", f"is {value:g}, not {wanted.words}", f"give a number {wanted.words}"))
    if faults:
        raise BadStudy(faults)
