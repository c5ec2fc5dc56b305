"""Which compressions there are: every module of this room that has one, and what other packages offer under ``aimer2.compression``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aimer2.compression.compressor import Compressor
from aimer2.core.catalogue import Catalogue
from aimer2.core.ranges import COMPRESSION, made
from aimer2.core.study import Scalar

_ROOM = Catalogue("aimer2.compression", "aimer2.compression", "compression", frozenset({"compressor", "lossless", "packing", "scales"}))
_PLACE = "method.compression.name"


def names() -> tuple[str, ...]:
    """Names of all compressions."""
    return _ROOM.names()


def make(name: str, parameters: Mapping[str, Scalar]) -> Compressor:
    """The compression with its parameters.

    Raises BadStudy with every fault: no such compression; a parameter unknown, ill-typed or out of its range.
    """
    kind: type[Compressor] = type(example(name))
    return made(kind, name, COMPRESSION, parameters)


def example(name: str) -> Any:
    """The instance with all defaults."""
    return _ROOM.example(name, _PLACE)


def summary(name: str) -> str:
    """First line of the compression's page."""
    return _ROOM.summary(name, _PLACE)
