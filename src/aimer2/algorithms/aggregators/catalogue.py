"""Which aggregators there are: every module of this room, and what other packages offer under the entry point ``aimer2.aggregators``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from aimer2.core.catalogue import Catalogue
from aimer2.core.protocols import Aggregator
from aimer2.core.ranges import AGGREGATOR, made
from aimer2.core.study import Scalar

_ROOM = Catalogue("aimer2.algorithms.aggregators", "aimer2.aggregators", "aggregator", frozenset({"span", "stack"}))
_PLACE = "method.aggregator"


class Named(Aggregator, Protocol):
    """An aggregator that a study can name: a frozen dataclass whose fields are its parameters, and ``block`` (`Sites.block`)."""

    @property
    def sites_needed(self) -> int:
        """With fewer answers a false update could not be outvoted."""
        ...


def names() -> tuple[str, ...]:
    """Names of all aggregators."""
    return _ROOM.names()


def make(name: str, block: int, parameters: Mapping[str, Scalar]) -> Named:
    """The aggregator with its parameters.

    Raises BadStudy with every fault: no such aggregator; a parameter unknown, ill-typed or out of its range.
    """
    kind: type[Named] = type(example(name))
    return made(kind, name, AGGREGATOR, parameters, block=block)


def example(name: str) -> Any:
    """The instance with all defaults."""
    return _ROOM.example(name, _PLACE)


def summary(name: str) -> str:
    """First line of the aggregator's page."""
    return _ROOM.summary(name, _PLACE)
