"""Which aggregators there are: every module of this room, and what other packages offer under the entry point ``aimer2.aggregators``."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

from aimer2.core.errors import BadStudy, Fault
from aimer2.core.protocols import Aggregator
from aimer2.core.ranges import AGGREGATOR, made
from aimer2.core.study import Scalar

_NOT_AGGREGATORS = {"catalogue", "span", "stack"}


class Named(Aggregator, Protocol):
    """An aggregator that a study can name: a frozen dataclass whose fields are its parameters, and ``block`` (`Sites.block`)."""

    @property
    def sites_needed(self) -> int:
        """With fewer answers a false update could not be outvoted."""
        ...


@cache
def names() -> tuple[str, ...]:
    """Names of all aggregators."""
    package = importlib.import_module("aimer2.algorithms.aggregators")
    ours = {module.name for module in pkgutil.iter_modules(package.__path__)} - _NOT_AGGREGATORS
    return tuple(sorted(ours | {entry.name for entry in importlib.metadata.entry_points(group="aimer2.aggregators")}))


def make(name: str, block: int, parameters: Mapping[str, Scalar]) -> Named:
    """The aggregator with its parameters.

    Raises BadStudy with every fault: no such aggregator; a parameter unknown, ill-typed or out of its range.
    """
    kind: type[Named] = type(example(name))
    return made(kind, name, AGGREGATOR, parameters, block=block)


def example(name: str) -> Any:
    """The instance with all defaults."""
    return _module(name).EXAMPLE


def summary(name: str) -> str:
    """First line of the aggregator's page."""
    return (inspect.getdoc(_module(name)) or name).splitlines()[0]


@cache
def _module(name: str) -> Any:
    if name not in names():
        raise BadStudy([Fault("method.aggregator", f"there is no aggregator {name!r}", f"use one of: {', '.join(names())}")])
    for entry in importlib.metadata.entry_points(group="aimer2.aggregators", name=name):
        return entry.load()
    return importlib.import_module(f"aimer2.algorithms.aggregators.{name}")
