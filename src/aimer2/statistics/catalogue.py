"""Which statistical methods there are: every module of this room whose `EXAMPLE` is a statistic, and what other packages offer under the
entry point ``aimer2.statistics``."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aimer2.core.errors import BadStudy, Fault
from aimer2.core.study import Analysis, Feature, faults_of
from aimer2.statistics.statistic import AbstractStatistic

_SUM = re.compile(r"``([a-z_]+)``")


@cache
def names() -> tuple[str, ...]:
    """Names of all methods."""
    package = importlib.import_module("aimer2.statistics")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)} - {"catalogue"}
    ours = {name for name in modules if isinstance(getattr(importlib.import_module(f"aimer2.statistics.{name}"), "EXAMPLE", None), AbstractStatistic)}
    return tuple(sorted(ours | {entry.name for entry in importlib.metadata.entry_points(group="aimer2.statistics")}))


def make(analysis: Analysis, features: tuple[Feature, ...], place: str = "analyses") -> AbstractStatistic:
    """The method with its question; ``place``: where the study states it.

    Raises BadStudy with every fault: no such method; an option unknown, ill-typed or out of its range; a formula that the method cannot answer.
    """
    kind = _kind(analysis.method, place)
    given = {"formula": analysis.formula, "features": features, "rounds": analysis.rounds}
    if clash := sorted(given.keys() & analysis.options.keys()):
        raise BadStudy([Fault(f"{place}.options.{name}", "is no option", f"state `{name}` of the analysis itself") for name in clash])
    try:
        made: AbstractStatistic = _adapter(kind).validate_python({**analysis.options, **given})
    except ValidationError as error:
        raise BadStudy([_placed(fault, place, kind) for fault in faults_of(error)]) from None
    if found := list(made.faults()):
        raise BadStudy([Fault(f"{place}.formula", sentence, "change the question") for sentence in found])
    return made


def options(name: str) -> tuple[str, ...]:
    """The options of a method."""
    return _options(_kind(name, "analyses"))


def example(name: str) -> AbstractStatistic:
    """The instance that the contract suite runs."""
    made: AbstractStatistic = _module(name, "analyses").EXAMPLE
    return made


def version(name: str) -> int:
    return int(_kind(name, "analyses").version)


def summary(name: str) -> str:
    """First line of the method's page."""
    return (inspect.getdoc(_module(name, "analyses")) or name).splitlines()[0]


def leaves(name: str) -> tuple[str, ...]:
    """What a site sends under this method, one line per sum; taken from the paragraph "Leaves the site" of its page."""
    paragraphs = (inspect.getdoc(_module(name, "analyses")) or "").split("\n\n")
    text = next((p for p in paragraphs if p.startswith("Leaves the site:")), "Leaves the site: everything the method computes")
    return tuple(part.strip().rstrip(".") for part in " ".join(text.split()).removeprefix("Leaves the site:").split(";"))


def sums(name: str) -> frozenset[str]:
    """The names of the sums that a site sends, as the method's page tells them."""
    return frozenset(found for line in leaves(name) for found in _SUM.findall(line)[:1])


def _placed(fault: Fault, place: str, kind: type[AbstractStatistic]) -> Fault:
    if "Unexpected" in fault.problem:
        known = _options(kind)
        return Fault(f"{place}.options.{fault.place}", "is no option of this method", f"use some of: {', '.join(known) or 'none'}")
    return Fault(f"{place}.options.{fault.place}", fault.problem, fault.remedy)


def _options(kind: type[AbstractStatistic]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if field.name not in ("formula", "features", "rounds"))


@cache
def _adapter(kind: type[AbstractStatistic]) -> TypeAdapter[AbstractStatistic]:
    return TypeAdapter(kind)


def _kind(name: str, place: str) -> type[AbstractStatistic]:
    return type(_module(name, place).EXAMPLE)


@cache
def _module(name: str, place: str) -> Any:
    if name not in names():
        raise BadStudy([Fault(f"{place}.method", f"there is no statistical method {name!r}", f"use one of: {', '.join(names())}")])
    for entry in importlib.metadata.entry_points(group="aimer2.statistics", name=name):
        return entry.load()
    return importlib.import_module(f"aimer2.statistics.{name}")
