"""Which methods there are: every module of this room, and what other packages offer under the entry point ``aimer2.algorithms``."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from aimer2.core.errors import BadStudy, Fault
from aimer2.core.protocols import Algorithm
from aimer2.core.study import Scalar

_NOT_METHODS = {"catalogue", "aggregators", "adaptive", "ranges", "remembered"}


@cache
def names() -> tuple[str, ...]:
    """Names of all methods."""
    package = importlib.import_module("aimer2.algorithms")
    ours = {module.name for module in pkgutil.iter_modules(package.__path__)} - _NOT_METHODS
    return tuple(sorted(ours | {entry.name for entry in importlib.metadata.entry_points(group="aimer2.algorithms")}))


def make(name: str, rounds: int, parameters: Mapping[str, Scalar]) -> Algorithm[Any]:
    """The method with its hyper-parameters.

    Raises BadStudy with every fault: no such method; a hyper-parameter unknown, ill-typed or out of its range.
    """
    kind = _kind(name)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name != "rounds"}
    faults = [
        Fault(f"method.parameters.{given}", f"{name} has no such hyper-parameter", f"use one of: {', '.join(fields) or 'none'}")
        for given in parameters
        if given not in fields
    ]
    for given, value in parameters.items():
        if given in fields and not _fits(value, fields[given].default):
            wanted = type(fields[given].default).__name__
            faults.append(Fault(f"method.parameters.{given}", f"is not a {wanted}", f"give a {wanted}"))
    usable = {given: value for given, value in parameters.items() if given in fields and _fits(value, fields[given].default)}
    try:
        made: Algorithm[Any] = kind(rounds=rounds, **usable)
    except BadStudy as outside:
        raise BadStudy([*faults, *outside.faults]) from None
    if faults:
        raise BadStudy(faults)
    return made


def example(name: str) -> Algorithm[Any]:
    """The instance that the contract suite runs."""
    made: Algorithm[Any] = _module(name).EXAMPLE
    return made


def version(name: str) -> int:
    return int(_kind(name).version)


def summary(name: str) -> str:
    """First line of the method's page."""
    return (inspect.getdoc(_module(name)) or name).splitlines()[0]


def leaves(name: str) -> tuple[str, ...]:
    """What a site sends under this method, one line per sum; taken from the paragraph "Leaves the site" of its page."""
    paragraphs = (inspect.getdoc(_module(name)) or "").split("\n\n")
    text = next((p for p in paragraphs if p.startswith("Leaves the site:")), "Leaves the site: everything the method computes")
    return tuple(part.strip().rstrip(".") for part in " ".join(text.split()).removeprefix("Leaves the site:").split(";"))


def _kind(name: str) -> type[Any]:
    return type(_module(name).EXAMPLE)


@cache
def _module(name: str) -> Any:
    if name not in names():
        raise BadStudy([Fault("method.name", f"there is no method {name!r}", f"use one of: {', '.join(names())}")])
    for entry in importlib.metadata.entry_points(group="aimer2.algorithms", name=name):
        return entry.load()
    return importlib.import_module(f"aimer2.algorithms.{name}")


def _fits(value: Scalar, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))
