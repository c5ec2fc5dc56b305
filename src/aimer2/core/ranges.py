"""The numbers that a parameter of a method, an aggregator or a compression may be: others are refused when it is made, before any site is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeVar, final

from aimer2.core.errors import BadStudy, Fault
from aimer2.core.said import say
from aimer2.core.study import Scalar

Made = TypeVar("Made")


@final
@dataclass(frozen=True, slots=True)
class Range:
    """Which numbers, and how that is said."""

    words: str
    has: Callable[[float], bool]


AT_LEAST_0 = Range("at least 0", lambda value: value >= 0)
AT_LEAST_1 = Range("at least 1", lambda value: value >= 1)
ABOVE_0 = Range("above 0", lambda value: value > 0)
BELOW_1 = Range("at least 0 and below 1", lambda value: 0 <= value < 1)

METHOD = "method.parameters"
AGGREGATOR = "method.aggregator_parameters"
COMPRESSION = "method.compression.parameters"


def refuse_outside(made: Any, place: str = METHOD, /, **ranges: Range) -> None:
    """Raises BadStudy with a fault for each parameter that is outside its range or not finite; ``place``: where the study states it."""
    faults = []
    for name, wanted in ranges.items():
        value = getattr(made, name)
        if not (isfinite(value) and wanted.has(value)):
            faults.append(
                Fault(
                    f"{place}.{name}",
                    say("is {value}, not {words}", value=f"{value:g}", words=wanted.words),
                    say("give a number {words}", words=wanted.words),
                )
            )
    if faults:
        raise BadStudy(faults)


def made(kind: Callable[..., Made], name: str, place: str, parameters: Mapping[str, Scalar], **fixed: Any) -> Made:
    """The method or aggregator with its parameters; ``fixed`` are the fields that the study states elsewhere.

    Raises BadStudy with every fault: a parameter unknown, ill-typed or out of its range.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(kind) if field.name not in fixed}  # type: ignore[arg-type]
    faults, usable = [], {}
    for given, value in parameters.items():
        if given not in defaults:
            faults.append(
                Fault(
                    f"{place}.{given}",
                    say("{name} has no such parameter", name=name),
                    say("use one of: {defaults}", defaults=", ".join(defaults) or say("none")),
                )
            )
        elif not _fits(value, defaults[given]):
            wanted = type(defaults[given]).__name__
            faults.append(Fault(f"{place}.{given}", say("is not a {wanted}", wanted=wanted), say("give a {wanted}", wanted=wanted)))
        else:
            usable[given] = value
    try:
        result = kind(**fixed, **usable)
    except BadStudy as outside:
        raise BadStudy([*faults, *outside.faults]) from None
    if faults:
        raise BadStudy(faults)
    return result


def _fits(value: Scalar, default: Any) -> bool:
    return type(value) is type(default) or (isinstance(default, float) and type(value) is int)
