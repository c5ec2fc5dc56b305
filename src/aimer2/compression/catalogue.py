"""Which compressions there are: every module of this room that has one, and what other packages offer under ``aimer2.compression``."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from aimer2.compression.compressor import Compressor
from aimer2.core.errors import BadStudy, Fault
from aimer2.core.ranges import COMPRESSION, made
from aimer2.core.study import Scalar

_NOT_COMPRESSIONS = {"catalogue", "compressor", "lossless", "packing", "scales"}


@cache
def names() -> tuple[str, ...]:
    """Names of all compressions."""
    package = importlib.import_module("aimer2.compression")
    ours = {module.name for module in pkgutil.iter_modules(package.__path__)} - _NOT_COMPRESSIONS
    return tuple(sorted(ours | {entry.name for entry in importlib.metadata.entry_points(group="aimer2.compression")}))


def make(name: str, parameters: Mapping[str, Scalar]) -> Compressor:
    """The compression with its parameters.

    Raises BadStudy with every fault: no such compression; a parameter unknown, ill-typed or out of its range.
    """
    kind: type[Compressor] = type(example(name))
    return made(kind, name, COMPRESSION, parameters)


def example(name: str) -> Any:
    """The instance with all defaults."""
    return _module(name).EXAMPLE


def summary(name: str) -> str:
    """First line of the compression's page."""
    return (inspect.getdoc(_module(name)) or name).splitlines()[0]


@cache
def _module(name: str) -> Any:
    if name not in names():
        raise BadStudy([Fault("method.compression.name", f"there is no compression {name!r}", f"use one of: {', '.join(names())}")])
    for entry in importlib.metadata.entry_points(group="aimer2.compression", name=name):
        return entry.load()
    return importlib.import_module(f"aimer2.compression.{name}")
