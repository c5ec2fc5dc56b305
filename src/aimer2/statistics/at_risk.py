"""Counts of patients at risk and of events over time, as every method of survival makes them: exact times of a site, or intervals common to all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData
from aimer2.core.said import say
from aimer2.core.study.formula import Formula
from aimer2.statistics.comparison import has_few
from aimer2.statistics.design import Floats, numbers

Times = tuple[Floats, npt.NDArray[np.int64]]
"""Each row's time, and which kind of event happened then, from 1; 0: none, it was lost."""


def faults(edges: Sequence[float]) -> Iterator[str]:
    """Of the ends of common intervals."""
    if any(later <= earlier for earlier, later in zip((0.0, *edges), edges, strict=False)):
        yield "`edges` are above 0 and rise"


def times(formula: Formula, rows: Frame, kinds: int = 1) -> Times:
    """Of ``Surv(time, event)``. Raises BadData where a time is not above 0 or an event not one of 0 … kinds."""
    time, event = (numbers(variable, rows) for variable in formula.response)
    if (time <= 0).any():
        raise BadData(say("{response} is not above 0 for some patients.", response=formula.response[0]))
    if not np.isin(event, np.arange(kinds + 1.0)).all():
        raise BadData(say("{response} is not one of 0 to {kinds} for some patients.", response=formula.response[1], kinds=kinds))
    return time, event.astype(np.int64)


def binned(given: Times, edges: Sequence[float]) -> Times:
    """Times as the number of the interval whose end they are counted at, from 1.

    Who is lost within an interval was under observation at its start only, and is counted up to the end of the one before; who is still under
    observation after the last edge is lost there.
    """
    time, event = given
    place = np.searchsorted(np.asarray(edges), time, side="left") + 1
    end = np.where((event > 0) | np.isin(time, edges), place, place - 1)
    beyond = place > len(edges)
    return np.where(beyond, len(edges), end).astype(np.float64), np.where(beyond, 0, event)


def counts(given: Times, cell: npt.NDArray[np.int64], cells: int, ends: Floats, kinds: int = 1) -> tuple[Floats, Floats]:
    """``(cells, T)``: how many rows of each cell are at risk just before each of these times; ``(kinds, cells, T)``: how many have each kind of event
    at it."""
    time, event = given
    at_risk, events = np.zeros((cells, len(ends))), np.zeros((kinds, cells, len(ends)))
    place = np.searchsorted(ends, time, side="left")
    inside = (event > 0) & (place < len(ends))
    inside[inside] &= ends[place[inside]] == time[inside]
    np.add.at(events, (event[inside] - 1, cell[inside], place[inside]), 1.0)
    for one in range(cells):
        own = np.sort(time[cell == one])
        at_risk[one] = len(own) - np.searchsorted(own, ends, side="left")
    return at_risk, events


def at_edges(given: Times, cell: npt.NDArray[np.int64], cells: int, edges: Sequence[float], kinds: int = 1) -> tuple[Floats, Floats]:
    """`counts` at the ends of common intervals."""
    return counts(binned(given, edges), cell, cells, np.arange(1.0, len(edges) + 1), kinds)


def most_at_risk(patients: Floats, at_risk: Floats, every: Floats) -> Floats:
    """``(cells, T)``: how many can have been at risk at the events of each interval, if those lost within it were lost at its end.

    The exact curve at an edge lies between those of ``at_risk`` (all lost first) and of this. ``patients``: of each cell; ``every``: events of all
    kinds.
    """
    return np.concatenate([patients[:, None], (at_risk - every)[:, :-1]], axis=1)


def against(rows: Frame, cell: npt.NDArray[np.int64], given: Times, edges: Sequence[float], disclosure: Disclosure) -> Iterator[str]:
    """Why the counts of events per cell and interval must not leave."""
    place, kind = binned(given, edges)
    held = kind > 0
    if has_few(rows.at(held), ((cell * (len(edges) + 1) + place.astype(np.int64)) * (kind.max(initial=0) + 1) + kind)[held], disclosure):
        why = "and this site tells times only as its `disclosure.exact_values` says"
        yield f"fewer than {disclosure.minimum_cell} patients have the event in some interval, {why}"
