"""The language in which a statistical question names its columns: ``Surv(time, status) ~ age + C(sex, "f", "m") + age:bmi``.

Wilkinson and Rogers 1973, "Symbolic Description of Factorial Models", as R and its descendants write it. Left of ``~`` stands the response,
one column or ``Surv(time, event)`` or ``Surv(entry, time, event)``; right of it terms joined by ``+``. ``a:b`` is an interaction, ``a*b``
means ``a + b + a:b``, ``0`` or ``- 1`` leaves the intercept out. A term is a column, a function of one (`FUNCTIONS`), or a category: ``C(sex)``,
or with its categories ``C(sex, "female", "male")``, the first being the reference. ``offset(log(days))`` is a term whose coefficient is 1,
``weights(count)`` says for how many a row stands, ``strata(hospital)`` within which groups to compare, ``cluster(family)`` whose rows belong
together. A column whose name is no name stands in backticks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import final

FUNCTIONS = ("log", "log2", "log10", "log1p", "sqrt", "exp", "square")
"""Functions of one column that a formula may name."""

ROLES = ("offset", "weights", "strata", "cluster")

_TOKEN = re.compile(
    r"""\s*(?:(?P<name>[^\W\d][\w.]*)|`(?P<quoted>[^`]+)`|(?P<number>\d+(?:\.\d+)?)"""
    r"""|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<sign>[~+\-*:(),]))"""
)


@final
@dataclass(frozen=True, slots=True)
class Variable:
    """A column as a formula names it; ``function`` of it; ``is_category``: written as ``C(…)``; ``levels``: the categories given there."""

    name: str
    function: str = ""
    is_category: bool = False
    levels: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.function}({self.name})" if self.function else self.name


Term = tuple[Variable, ...]
"""One variable, or several that interact."""


@final
@dataclass(frozen=True, slots=True)
class Formula:
    """A formula, parsed. ``survival``: the response is (time, event) or (entry, time, event)."""

    response: tuple[Variable, ...]
    terms: tuple[Term, ...]
    intercept: bool = True
    survival: bool = False
    offset: tuple[Variable, ...] = ()
    weights: tuple[Variable, ...] = ()
    strata: tuple[Variable, ...] = ()
    cluster: tuple[Variable, ...] = ()

    @property
    def variables(self) -> tuple[Variable, ...]:
        """Each variable once, in the order of the text, the response first."""
        inside = [variable for term in self.terms for variable in term]
        return tuple(dict.fromkeys([*self.response, *inside, *self.offset, *self.weights, *self.strata, *self.cluster]))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return tuple(dict.fromkeys(variable.name for variable in self.variables))


@cache
def parse(text: str) -> Formula:
    """Raises ValueError with a sentence for people."""
    return _Parser(list(_tokens(text))).formula()


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """(kind, text): name, number, string, or the sign itself."""
    place = 0
    while place < len(text.rstrip()):
        found = _TOKEN.match(text, place)
        if found is None:
            raise ValueError(f"the formula cannot be read at {text[place:].strip()[:20]!r}")
        kind, value = next((kind, value) for kind, value in found.groupdict().items() if value is not None)
        kinds = {"quoted": "name", "double": "string", "single": "string", "sign": value}
        yield kinds.get(kind, kind), value
        place = found.end()


@final
class _Parser:
    """Recursive descent; one token ahead."""

    def __init__(self, tokens: Sequence[tuple[str, str]]) -> None:
        self._tokens = [*tokens, ("end", "")]
        self._place = 0
        self._response: tuple[Variable, ...] = ()
        self._is_survival = False
        self._intercept = True
        self._roles: dict[str, list[Variable]] = {role: [] for role in ROLES}

    def formula(self) -> Formula:
        if self._next[0] != "~":
            self._left()
        self._take("~")
        terms = self._right()
        self._take("end")
        known = dict.fromkeys((*self._response, *(one for term in terms for one in term)))
        if len({one.name for one in self._response} & {one.name for term in terms for one in term}):
            raise ValueError("a column stands on both sides of '~'")
        if len({one.name for one in known if one.levels}) < len([one for one in known if one.levels]):
            raise ValueError("a column has two lists of categories")
        roles = {role: tuple(variables) for role, variables in self._roles.items()}
        return Formula(self._response, tuple(terms), self._intercept, self._is_survival, **roles)

    @property
    def _next(self) -> tuple[str, str]:
        return self._tokens[self._place]

    def _take(self, kind: str) -> str:
        found, text = self._next
        if found != kind:
            raise ValueError(f"the formula lacks {kind!r} before {text!r}" if text else f"the formula ends where {kind!r} is wanted")
        self._place += 1
        return text

    def _left(self) -> None:
        if self._next == ("name", "Surv") and self._tokens[self._place + 1][0] == "(":
            self._place += 2
            response = [self._variable()]
            while self._next[0] == ",":
                self._take(",")
                response.append(self._variable())
            self._take(")")
            if len(response) not in (2, 3):
                raise ValueError("Surv takes (time, event) or (entry, time, event)")
            self._response, self._is_survival = tuple(response), True
        else:
            self._response = (self._variable(),)

    def _right(self) -> list[Term]:
        terms: dict[frozenset[Variable], Term] = {}
        sign = "+"
        if self._next[0] in "+-":
            sign = self._take(self._next[0])
        while True:
            for term in self._summand(sign):
                if sign == "-":
                    terms.pop(frozenset(term), None)
                else:
                    terms.setdefault(frozenset(term), term)
            if self._next[0] not in ("+", "-"):
                # main effects first, as every coding of interactions wants them
                return sorted(terms.values(), key=len)
            sign = self._take(self._next[0])

    def _summand(self, sign: str) -> list[Term]:
        kind, text = self._next
        if kind == "number":
            self._place += 1
            if text not in ("0", "1"):
                raise ValueError(f"{text} is no term; 0 or 1 says whether there is an intercept")
            self._intercept = (text == "1") == (sign == "+")
            return []
        if kind == "name" and text in ROLES and self._tokens[self._place + 1][0] == "(":
            self._place += 2
            self._roles[text].append(self._variable())
            self._take(")")
            return []
        return self._product()

    def _product(self) -> list[Term]:
        factors = [[self._variable()]]
        while self._next[0] in (":", "*"):
            if self._take(self._next[0]) == ":":
                factors[-1].append(self._variable())
            else:
                factors.append([self._variable()])
        return [
            tuple(dict.fromkeys(variable for factor in chosen for variable in factor))
            for count in range(1, len(factors) + 1)
            for chosen in combinations(factors, count)
        ]

    def _variable(self) -> Variable:
        name = self._take("name")
        if self._next[0] != "(":
            return Variable(name)
        self._take("(")
        if name == "C":
            column, levels = self._take("name"), []
            while self._next[0] == ",":
                self._take(",")
                levels.append(self._take("string"))
            self._take(")")
            if len(set(levels)) != len(levels) or len(levels) == 1:
                raise ValueError(f"C({column}, …) needs two or more different categories, or none")
            return Variable(column, is_category=True, levels=tuple(levels))
        if name not in FUNCTIONS:
            raise ValueError(f"there is no function {name!r}; use one of: {', '.join(FUNCTIONS)}, C, {', '.join(ROLES)}")
        column = self._take("name")
        self._take(")")
        return Variable(column, function=name)
