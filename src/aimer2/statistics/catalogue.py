"""Which statistical methods there are: every module of this room whose `EXAMPLE` is a statistic, and what other packages offer under the
entry point ``aimer2.statistics``."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aimer2.core.catalogue import Catalogue
from aimer2.core.errors import BadStudy, Fault
from aimer2.core.said import say
from aimer2.core.study import Analysis, Feature, faults_of
from aimer2.statistics.statistic import AbstractStatistic

_PACKAGE = "aimer2.statistics"
_PLACE = "analyses.method"
_GIVEN = ("formula", "features", "rounds", "noise")
"""Fields of a method that are no options: what the study says of every analysis, and what follows from its ε."""


@cache
def _room() -> Catalogue:
    modules = {module.name for module in pkgutil.iter_modules(importlib.import_module(_PACKAGE).__path__)} - {"catalogue"}
    none = {name for name in modules if not isinstance(getattr(importlib.import_module(f"{_PACKAGE}.{name}"), "EXAMPLE", None), AbstractStatistic)}
    return Catalogue(_PACKAGE, _PACKAGE, "statistical method", frozenset(none))


def names() -> tuple[str, ...]:
    """Names of all methods."""
    return _room().names()


def make(analysis: Analysis, features: tuple[Feature, ...], place: str = "analyses") -> AbstractStatistic:
    """The method with its question; ``place``: where the study states it.

    Raises BadStudy with every fault: no such method; an option unknown, ill-typed or out of its range; a formula that the method cannot answer.
    """
    kind = _kind(analysis.method, place)
    given = {"formula": analysis.formula, "features": features, "rounds": analysis.rounds}
    if clash := sorted({*_GIVEN} & analysis.options.keys()):
        raise BadStudy([Fault(f"{place}.options.{name}", "is no option", "leave it out: the study states it elsewhere") for name in clash])
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
    found: AbstractStatistic = _room().example(name, _PLACE)
    return found


def version(name: str) -> int:
    return int(_kind(name, "analyses").version)


def rounds(name: str) -> int:
    """How many rounds a question in one line allows: enough for most data."""
    fields: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(_kind(name, "analyses"))}
    return int(fields["rounds"])


def summary(name: str) -> str:
    """First line of the method's page."""
    return _room().summary(name, _PLACE)


def leaves(name: str) -> tuple[str, ...]:
    """What a site sends under this method, one line per sum; taken from the paragraph "Leaves the site" of its page."""
    return _room().leaves(name, _PLACE)


def sums(name: str) -> frozenset[str]:
    """The names of the sums that a site sends, as the method's page tells them."""
    return _room().sums(name, _PLACE)


def _placed(fault: Fault, place: str, kind: type[AbstractStatistic]) -> Fault:
    if "Unexpected" in fault.problem:
        known = _options(kind)
        return Fault(
            f"{place}.options.{fault.place}", "is no option of this method", say("use some of: {known}", known=", ".join(known) or say("none"))
        )
    return Fault(f"{place}.options.{fault.place}", fault.problem, fault.remedy)


def _options(kind: type[AbstractStatistic]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if field.name not in _GIVEN)


@cache
def _adapter(kind: type[AbstractStatistic]) -> TypeAdapter[AbstractStatistic]:
    return TypeAdapter(kind)


def _kind(name: str, place: str) -> type[AbstractStatistic]:
    return type(_room().example(name, f"{place}.method"))
