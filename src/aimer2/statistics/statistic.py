"""What every statistical method is: a question, the sums that a site makes for it, the step that the coordinator takes, the tables of the answer.

A method is a frozen dataclass whose fields are the question: its formula, the study's columns, its options. Between rounds it keeps named
float64 arrays. So a method says four things (`start`, `sums`, `step`, `tables`) and is an `Algorithm` by that; besides it says in `against` what
speaks against answering it on a site's data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, final

import numpy as np
from pydantic import ConfigDict

from aimer2.core import tree
from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.protocols import Local
from aimer2.core.study import Feature
from aimer2.core.study.formula import Formula, parse
from aimer2.core.table import Table
from aimer2.core.task import SiteId
from aimer2.core.tree import NumpyArray, Tree
from aimer2.core.update import Update
from aimer2.statistics.design import crossed, factors, named, of_function

Values = Mapping[str, NumpyArray]
"""Named float64 arrays."""


@final
@dataclass(frozen=True, slots=True)
class Found:
    """A method's state: what it has found so far. ``values`` without a leaf before the first round."""

    values: Tree
    round_number: int = 0
    done: bool = False


@final
class Cohort(NamedTuple):
    """Rows by whose values columns are told."""

    name: str
    rows: Frame
    columns: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class AbstractStatistic(ABC):
    """A statistical method. The fields of those that derive from it are options of the question."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    version: ClassVar[int] = 1
    of_sites: ClassVar[frozenset[str]] = frozenset()
    """Sums over sites, not over patients: of what a site's own sum makes, as for errors that are robust against differences between sites."""

    crosses: ClassVar[bool] = False
    """Whether the sums hold the products of all pairs of columns of the design: they tell of those columns too."""

    formula: str
    features: tuple[Feature, ...]
    rounds: int = 30

    @property
    def name(self) -> str:
        """As the catalogue has it: that of its module."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def parsed(self) -> Formula:
        return parse(self.formula)

    def faults(self) -> Iterator[str]:
        """What is wrong with the question itself, before any data: one sentence each."""
        yield from ()

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        """Why this site must not answer: one sentence each, which tells no more than that. ``secure``: nobody sees this site's sums alone."""
        patients = self.read(frame).counted()
        if patients < disclosure.minimum_cell:
            yield f"it would rest on fewer than {disclosure.minimum_cell} patients"

    def read(self, frame: Frame) -> Frame:
        """The rows that count: those in which no column of the formula is missing."""
        return frame.complete(self.parsed.columns)

    def cohorts(self, frame: Frame) -> Iterator[Cohort]:
        """Whose values the answer is made of: the rows that count (named ""), and those of each category that it looks at."""
        rows, columns = self.read(frame), frozenset(self.parsed.columns)
        yield Cohort("", rows, columns)
        for feature in self.features:
            if feature.name in columns:
                for code, level in enumerate(feature.categories):
                    yield Cohort(f"{feature.name} = {level}", rows.at(rows.columns[feature.name] == code), columns)

    def columns_apart(self, frame: Frame) -> Iterator[Cohort]:
        """The cohorts of a method that looks at each column by itself, where that is not missing; each has its column's name."""
        groups_of = [variable.name for variable in self.parsed.strata]
        yield Cohort("", self.read(frame), frozenset(groups_of))
        for variable in dict.fromkeys(variable for term in self.parsed.terms for variable in term):
            yield Cohort(variable.name, frame.complete([variable.name, *groups_of]), frozenset([variable.name, *groups_of]))

    def equations(self) -> Mapping[str, Sequence[str]]:
        """What the answer tells of each column, as the terms whose products with it are summed: so many equations of its patients' values."""
        formula = self.parsed
        found: dict[str, dict[str, None]] = {}
        columns = factors(formula, self.features) if formula.response else [()]
        if formula.response and self.crosses:
            for name, label in crossed(columns, ", ".join(str(variable) for variable in formula.response)):
                found.setdefault(name, {})[label] = None
        told = [*map(named, columns), *(str(variable) for variable in formula.offset)]
        for variable in formula.strata:
            told += [f"{variable} = {level}" for feature in self.features if feature.name == variable.name for level in feature.categories]
        for variable in formula.response or tuple(variable for term in formula.terms for variable in term):
            found.setdefault(variable.name, {}).update(dict.fromkeys(f"{term}{of_function(variable)}" for term in told))
        weighted = "".join(f" · {variable}" for variable in formula.weights)
        return {name: tuple(f"{label}{weighted}" for label in labels) for name, labels in found.items()}

    @abstractmethod
    def start(self) -> Values:
        """What is known before the first round."""

    @abstractmethod
    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        """The site half: sums over the rows. Their names and shapes depend on ``values`` and the round alone, never on the data."""

    @abstractmethod
    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        """The coordinator half: the next values, and whether that is the answer. Raises BadUpdate where the sums have none."""

    @abstractmethod
    def tables(self, name: str, values: Values) -> Sequence[Table]:
        """The answer; ``name`` is that of the analysis."""

    def told(self, values: Values) -> Values:
        """What sites are told of the values."""
        return values

    def init(self, model: Tree) -> Found:
        return Found(dict(model) or dict(self.start()))

    def select(self, state: Found, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Found) -> Mapping[str, Tree]:
        return {"values": dict(self.told(loaded(state.values)))}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        return Update({"sums": dict(self.sums(loaded(received["values"]), Frame.of(site.data), site.round_number))})

    def update(self, state: Found, total: Update) -> Found:
        number = state.round_number + 1
        values, done = self.step(loaded(state.values), loaded(total.sums["sums"]), number)
        return replace(state, values=dict(values), round_number=number, done=done)

    def model(self, state: Found) -> Tree:
        return state.values

    def finished(self, state: Found) -> bool:
        return state.done or state.round_number >= self.rounds


def loaded(leaves: Tree) -> dict[str, NumpyArray]:
    """In memory, as float64."""
    return {name: np.asarray(tree.load(leaf), np.float64) for name, leaf in leaves.items()}
