"""What the entries of a privacy ledger add up to: the budget in force, who set it, and every charge. Pure: it reads no file and no clock."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Any, TypeAlias, final

from aimer2.audit.entries import Entry
from aimer2.audit.kinds import Kind
from aimer2.core.errors import BadInput, Tampered
from aimer2.core.said import say
from aimer2.privacy.terms import library

if TYPE_CHECKING:
    from aimer2.privacy.accounting import Spent

SMALLEST, LARGEST = 0.01, 100.0
"""The ε that a budget may have: finer is no accounting, and more is no privacy."""

Task: TypeAlias = tuple[str, str, int]
"""Digest of the study, id of the task, attempt."""

Mechanism: TypeAlias = tuple[str, tuple[tuple[str, float], ...]]
"""Its kind and its parameters: what two uses of it have in common."""


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be spent of a data set, for good: ε at δ. Raises BadInput where that is no budget."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not SMALLEST <= self.epsilon <= LARGEST:
            raise BadInput(say("A privacy budget has an ε from {smallest} to {largest}.", smallest=SMALLEST, largest=f"{LARGEST:g}"))
        if not 0 < self.delta < 1:
            raise BadInput("A privacy budget has a δ between 0 and 1.")

    def permits_less(self, other: Budget) -> bool:
        """Than the other, or as much: neither number is larger."""
        return self.epsilon <= other.epsilon and self.delta <= other.delta

    def __str__(self) -> str:
        return f"ε = {floor(self.epsilon)} at δ = {self.delta:g}"


@final
@dataclass(frozen=True, slots=True)
class Proposal:
    """What one named person wants and a second one has not confirmed yet: a budget, or that of another data set."""

    by: str
    time: str
    budget: Budget | None
    shared: str | None


@final
@dataclass(frozen=True, slots=True)
class Charge:
    """What one task of a study costs. ``committed``: its update was stored; until then it counts as spent all the same."""

    study: str
    task: str
    attempt: int
    time: str
    spent: Mapping[str, Any]
    committed: bool = False


@final
@dataclass(slots=True)
class Balance:
    """``epsilon``: of all charges at the δ of the budget, as it was recorded; ``totals``: uses by mechanism, the one charged last at the end."""

    budget: Budget | None = None
    set_by: tuple[str, ...] = ()
    proposal: Proposal | None = None
    shared: str | None = None
    epsilon: float = 0.0
    charges: dict[Task, Charge] = field(default_factory=dict)
    totals: dict[Mechanism, int] = field(default_factory=dict)

    def apply(self, entry: Entry) -> None:
        """Goes one entry further; entries of the log itself (a new key) change nothing. Raises Tampered where it is none of a ledger."""
        try:
            self._apply(entry, entry.details)
        except (KeyError, TypeError, ValueError, AttributeError, BadInput):
            raise Tampered(say("Entry {sequence} is none of a privacy ledger.", sequence=entry.sequence)) from None

    def _apply(self, entry: Entry, details: Mapping[str, Any]) -> None:
        if entry.kind == Kind.BUDGET_PROPOSED:
            self.proposal = Proposal(entry.actor, entry.time, _budget(details), details.get("shared"))
        elif entry.kind == Kind.BUDGET_SET:
            self.budget, self.shared, self.proposal = _budget(details), details.get("shared"), None
            self.set_by = tuple(str(name) for name in details["by"])
            self.epsilon = float(details["reached"])
        elif entry.kind in (Kind.PRIVACY_RESERVED, Kind.PRIVACY_SPENT, Kind.PRIVACY_RELEASED):
            self._charge(entry, (str(entry.study), str(details["task"]), int(details["attempt"])))

    def _charge(self, entry: Entry, task: Task) -> None:
        details: Mapping[str, Any] = entry.details
        if entry.kind == Kind.PRIVACY_RESERVED:
            self.charges[task] = Charge(*task, entry.time, details["spent"])
            self.totals = self.after(details["spent"])
            self.epsilon = float(details["reached"])
        elif entry.kind == Kind.PRIVACY_SPENT:
            self.charges[task] = replace(self.charges[task], committed=True)
        else:
            self.totals = self.without(task)
            del self.charges[task]
            self.epsilon = float(details["reached"])

    def after(self, spent: Mapping[str, Any]) -> dict[Mechanism, int]:
        """The totals with this charge."""
        key = _mechanism(spent)
        rest = {name: count for name, count in self.totals.items() if name != key}
        return rest | {key: self.totals.get(key, 0) + int(spent["count"])}

    def without(self, task: Task) -> dict[Mechanism, int]:
        """The totals less that charge."""
        spent = self.charges[task].spent
        key = _mechanism(spent)
        left = self.totals[key] - int(spent["count"])
        return {name: left if name == key else count for name, count in self.totals.items() if name != key or left}


@final
class Composition:
    """ε of totals, composed anew only where they changed: the same mechanism in round after round stays one, and is composed last."""

    _OPEN = 4
    """Mechanisms that are still being charged; the others are composed for good until one of them is charged again."""

    def __init__(self) -> None:
        self._closed: dict[Mechanism, int] = {}
        self._accountant: Any = None

    def epsilon(self, totals: Mapping[Mechanism, int], delta: float) -> float:
        """Raises NotAvailable where dp-accounting is not installed."""
        if not totals:
            return 0.0
        accounting = library()
        if self._accountant is None or any(totals.get(key) != count for key, count in self._closed.items()):
            self._closed, self._accountant = {}, accounting.Accountant()
        rest = [key for key in totals if key not in self._closed]
        for key in rest[: -self._OPEN]:
            self._accountant.add(_spent(accounting, key, totals[key]))
            self._closed[key] = totals[key]
        still = [_spent(accounting, key, totals[key]) for key in rest[-self._OPEN :]]
        return float(self._accountant.epsilon(delta, still))


def are_different(one: str, other: str) -> bool:
    """Whether two names are those of two people; order of the words, capitals and a title more or less make no other person."""
    left, right = words(one), words(other)
    return not (left <= right or right <= left)


def words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", name).casefold()))


def ceiling(epsilon: float) -> str:
    """Rounded up to two digits: what has been spent is never told as less."""
    return str(Decimal(repr(epsilon)).quantize(Decimal("0.01"), ROUND_CEILING)) if epsilon <= LARGEST else "more than 100"


def floor(epsilon: float) -> str:
    """Rounded down to two digits: what may be spent is never told as more."""
    return str(Decimal(repr(epsilon)).quantize(Decimal("0.01"), ROUND_FLOOR))


def _budget(details: Mapping[str, Any]) -> Budget | None:
    return None if details.get("shared") else Budget(float(details["epsilon"]), float(details["delta"]))


def _mechanism(spent: Mapping[str, Any]) -> Mechanism:
    return str(spent["kind"]), tuple(sorted((str(name), float(value)) for name, value in spent["parameters"].items()))


def _spent(accounting: Any, key: Mechanism, count: int) -> Spent:
    made: Spent = accounting.Spent.of_document({"kind": key[0], "parameters": dict(key[1]), "count": count})
    return made


def finite(epsilon: float) -> float:
    """As an entry can carry it."""
    return epsilon if math.isfinite(epsilon) else 1e308
