"""Counts of patients at risk and of events over time, as every method of survival makes them: exact times of a site, or intervals common to all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData
from aimer2.core.study.formula import Formula
from aimer2.statistics.comparison import has_few
from aimer2.statistics.design import Floats, numbers

Times = tuple[Floats, npt.NDArray[np.bool_]]
"""Each row's time and whether the event happened then."""


def faults(edges: Sequence[float]) -> Iterator[str]:
    """Of the ends of common intervals."""
    if any(later <= earlier for earlier, later in zip((0.0, *edges), edges, strict=False)):
        yield "`edges` are above 0 and rise"


def times(formula: Formula, rows: Frame) -> Times:
    """Of ``Surv(time, event)``. Raises BadData where a time is not above 0 or an event neither 0 nor 1."""
    time, event = (numbers(variable, rows) for variable in formula.response)
    if (time <= 0).any():
        raise BadData(f"{formula.response[0]} is not above 0 for some patients.")
    if not np.isin(event, (0.0, 1.0)).all():
        raise BadData(f"{formula.response[1]} is neither 0 nor 1 for some patients.")
    return time, event == 1


def binned(time: Floats, event: npt.NDArray[np.bool_], edges: Sequence[float]) -> Times:
    """Times as the number of the interval whose end they are counted at, from 1.

    Who is lost within an interval was under observation at its start only, and is counted up to the end of the one before; who is still under
    observation after the last edge is lost there.
    """
    place = np.searchsorted(np.asarray(edges), time, side="left") + 1
    beyond = place > len(edges)
    whole = np.isin(time, edges)
    end = np.where(event | whole, place, place - 1)
    return np.where(beyond, len(edges), end).astype(np.float64), event & ~beyond


def counts(given: Times, cell: npt.NDArray[np.int64], cells: int, ends: Floats) -> tuple[Floats, Floats]:
    """``(cells, T)``: how many rows of each cell are at risk just before each of these times, and how many have the event at it."""
    time, event = given
    at_risk, events = np.zeros((cells, len(ends))), np.zeros((cells, len(ends)))
    place = np.searchsorted(ends, time, side="left")
    inside = event & (place < len(ends))
    inside[inside] &= ends[place[inside]] == time[inside]
    np.add.at(events, (cell[inside], place[inside]), 1.0)
    for one in range(cells):
        own = np.sort(time[cell == one])
        at_risk[one] = len(own) - np.searchsorted(own, ends, side="left")
    return at_risk, events


def against(rows: Frame, cell: npt.NDArray[np.int64], given: Times, edges: Sequence[float], disclosure: Disclosure) -> Iterator[str]:
    """Why the counts of events per cell and interval must not leave."""
    place, event = binned(*given, edges)
    if has_few(rows.at(event), (cell * (len(edges) + 1) + place.astype(np.int64))[event], disclosure):
        why = "and this site tells times only as its `disclosure.exact_values` says"
        yield f"fewer than {disclosure.minimum_cell} patients have the event in some interval, {why}"
