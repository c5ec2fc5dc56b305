"""From a formula and the study's columns to numbers: one coding of categories for all sites, known without any data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData
from aimer2.core.said import say
from aimer2.core.study import Feature
from aimer2.core.study.formula import Formula, Term, Variable

Floats = npt.NDArray[np.float64]

INTERCEPT = "intercept"

_FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "square": np.square,
}


@final
@dataclass(frozen=True, slots=True)
class Coded:
    """One column of a design: its name, and per variable the category (None: a number) that it stands for."""

    name: str
    parts: tuple[tuple[Variable, int | None], ...]


@final
@dataclass(frozen=True, slots=True)
class Design:
    """The right side of a formula: one column per number and per category but the first, the intercept first.

    Treatment contrasts, the first category being the reference: in a term a category has all its columns only where the rest of the term (of a
    category alone: the intercept) is not in the formula, as R has it.
    """

    columns: tuple[Coded, ...]
    has_intercept: bool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def matrix(self, frame: Frame) -> Floats:
        """``(n, p)``. Raises BadData where a function has no value, as the logarithm of 0."""
        made = np.empty((len(frame), len(self.columns)))
        for place, column in enumerate(self.columns):
            made[:, place] = 1.0
            for variable, level in column.parts:
                values = numbers(variable, frame)
                made[:, place] *= values if level is None else values == level
        return made


@cache
def design(formula: Formula, features: tuple[Feature, ...], *, intercept: bool = True) -> Design:
    """``intercept``: whether the method has one at all; Cox regression has none."""
    categories = {feature.name: feature.categories for feature in features}
    kept = formula.intercept and intercept
    columns = [Coded(INTERCEPT, ())] if kept else []
    spanned: set[frozenset[Variable]] = {frozenset()} if formula.intercept or not intercept else set()
    for term in formula.terms:
        whole = frozenset(term)
        full = {variable for variable in term if whole - {variable} not in spanned}
        columns += _coded(term, categories, full)
        spanned.add(whole)
        if len(term) == 1 and categories[term[0].name] and full:
            # all its columns add up to the intercept
            spanned.add(frozenset())
    return Design(tuple(columns), kept)


def _coded(term: Term, categories: Mapping[str, Sequence[str]], full: set[Variable]) -> list[Coded]:
    choices: list[list[tuple[str, int | None]]] = []
    for variable in term:
        levels = categories[variable.name]
        if levels:
            choices.append([(f"{variable} = {level}", code) for code, level in enumerate(levels) if variable in full or code > 0])
        else:
            choices.append([(str(variable), None)])
    return [
        Coded(" : ".join(name for name, _ in chosen), tuple((variable, code) for variable, (_, code) in zip(term, chosen, strict=True)))
        for chosen in product(*choices)
    ]


Part = tuple[Variable, str | None]
"""A factor of a column of a design: a number, or whether a category is this one."""


def factors(formula: Formula, features: tuple[Feature, ...]) -> list[tuple[Part, ...]]:
    """Of each column of the design what is multiplied in it; of the intercept nothing."""
    levels = {feature.name: feature.categories for feature in features}
    coded = design(formula, features).columns
    return [tuple((variable, None if code is None else levels[variable.name][code]) for variable, code in column.parts) for column in coded]


def named(parts: Iterable[Part]) -> str:
    """A product by its factors, in one order whatever the formula's."""
    return " : ".join(sorted(str(variable) if level is None else f"{variable} = {level}" for variable, level in parts)) or INTERCEPT


def of_function(variable: Variable) -> str:
    """What a term whose products with a function of a column are summed has after it: they are other equations than those of the column."""
    return f" of {variable}" if variable.function else ""


def crossed(columns: Sequence[tuple[Part, ...]], response: str) -> Iterator[tuple[str, str]]:
    """Of each variable on the right side, by its column's name, what it is multiplied with where the products of all pairs of columns of a design are
    summed, and those with the response. The square of a number by itself is left out."""
    for first in columns:
        for place, (variable, _) in enumerate(first):
            rest = (*first[:place], *first[place + 1 :])
            yield variable.name, f"{named([*rest, (Variable(response), None)])}{of_function(variable)}"
            for second in columns:
                is_other_category = any(one == another and level != other for one, level in first for another, other in second)
                if not is_other_category and (rest or second != first):
                    yield variable.name, f"{named([*rest, *second])}{of_function(variable)}"


def numbers(variable: Variable, frame: Frame) -> Floats:
    """A variable's values ``(n,)``: the column, or the function of it. Raises BadData where the function has no value."""
    values = frame.columns[variable.name]
    if not variable.function:
        return values
    with np.errstate(all="ignore"):
        made: Floats = np.asarray(_FUNCTIONS[variable.function](values), np.float64)
    if (~np.isfinite(made) & ~np.isnan(values)).any():
        raise BadData(say("{variable} has no value for some patients.", variable=variable))
    return made


def groups(variables: Sequence[Variable], features: Sequence[Feature], frame: Frame) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Each row's group ``(n,)`` by the categories of these columns together, and the names of all groups, also of those that nobody is in.

    Raises BadData where a column is no category.
    """
    categories = {feature.name: feature.categories for feature in features}
    code, names = np.zeros(len(frame), np.int64), [""]
    for variable in variables:
        levels = categories[variable.name]
        if not levels:
            raise BadData(say("{name} is no category, so it makes no groups.", name=variable.name))
        code = code * len(levels) + frame.columns[variable.name].astype(np.int64)
        names = [f"{name}, {variable} = {level}".removeprefix(", ") for name in names for level in levels]
    return code, tuple(names)


def too_few(design: Design, formula: Formula, features: Sequence[Feature], rows: Frame, disclosure: Disclosure, *, further: int = 0) -> Iterator[str]:
    """What speaks against a regression on these rows: more coefficients (those of the columns, and ``further`` ones) than the patients allow, or a
    category that some patients have, but fewer than the minimum cell."""
    coefficients = len(design.columns) + further
    if rows.counted() < disclosure.patients_per_parameter * coefficients:
        yield f"{coefficients} coefficients are too many for the patients here"
    used = {variable.name for variable in formula.variables}
    for feature in features:
        if feature.name in used:
            for code, level in enumerate(feature.categories):
                if disclosure.is_small(rows.counted(rows.columns[feature.name] == code)):
                    yield f"fewer than {disclosure.minimum_cell} patients have {feature.name} = {level}"


def rare_outcome(y: npt.NDArray[Any], rows: Frame, disclosure: Disclosure) -> Iterator[str]:
    """What speaks against telling of an outcome of 0 or 1."""
    if any(disclosure.is_small(rows.counted(y == outcome)) for outcome in (0, 1)):
        yield f"fewer than {disclosure.minimum_cell} patients have one of the outcomes"
