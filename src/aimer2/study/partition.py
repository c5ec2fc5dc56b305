"""One data set divided among made-up hospitals, for research on what differences between hospitals do.

Every function gives each row to exactly one site, in the order of the data, and takes its randomness as an argument. Rows are divided, not
patients: of a data set with several rows per patient hand in one row each, or divide by a column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from aimer2.core.errors import BadData, BadInput
from aimer2.core.said import say

Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]
Data = TypeVar("Data", pd.DataFrame, Pair)
"""A frame, or features ``(n, …)`` and targets ``(n,)``."""

TRIES = 1_000
"""So often a random division is drawn again until no site has too few rows."""


def by_column(frame: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    """One site per value of the column, named by it.

    Raises BadData where the column is not there or a cell of it is missing.
    """
    if column not in frame.columns:
        raise BadData(say("There is no column {column}.", column=f"{column!r}"))
    if frame[column].isna().any():
        raise BadData(say("Column {column} is missing for some rows: they belong to no site.", column=f"{column!r}"))
    names = frame[column].astype(str)
    return {name: frame[names == name] for name in sorted(set(names))}


def iid(data: Data, sites: Sequence[str], *, rng: np.random.Generator) -> dict[str, Data]:
    """Shuffled, and divided into parts whose sizes differ by one row at most."""
    _check(sites)
    return _parts(data, sites, np.array_split(rng.permutation(_rows(data)), len(sites)))


def dirichlet(
    data: Data, sites: Sequence[str], *, alpha: float, rng: np.random.Generator, label: str | None = None, minimum: int = 1
) -> dict[str, Data]:
    """Sites with different shares of the classes: the rows of each class are divided by proportions drawn from Dirichlet(alpha, …, alpha).

    A small ``alpha`` gives sites of few classes, a large one IID. Hsu, Qi and Brown 2019 made the Dirichlet the measure of label skew; they
    draw each site's classes, whereas dividing each class, so that every row is used, is Yurochkin et al. 2019.

    ``label`` is the frame's column of classes; of a pair it is the targets. Drawn again until every site has ``minimum`` rows; raises
    BadInput where that does not happen.
    """
    _check(sites, alpha)
    classes = _classes(data, label)
    members = [np.flatnonzero(classes == value) for value in np.unique(classes)]

    def draw() -> list[npt.NDArray[np.int64]]:
        divided = [_divide(rng.permutation(rows), rng.dirichlet(np.full(len(sites), alpha))) for rows in members]
        return [np.concatenate(parts) for parts in zip(*divided, strict=True)]

    return _parts(data, sites, _until(draw, minimum))


def quantity(
    data: Data,
    sites: Sequence[str],
    *,
    rng: np.random.Generator,
    alpha: float | None = None,
    proportions: Sequence[float] | None = None,
    minimum: int = 1,
) -> dict[str, Data]:
    """Sites of different size, alike in all else: sizes by ``proportions``, or by proportions drawn from Dirichlet(alpha, …, alpha).

    Raises BadInput unless exactly one of the two is given, or where a site would have fewer than ``minimum`` rows.
    """
    _check(sites, alpha)
    rows = np.arange(_rows(data))
    if alpha is not None and proportions is None:
        return _parts(data, sites, _until(lambda: _divide(rng.permutation(rows), rng.dirichlet(np.full(len(sites), alpha))), minimum))
    if proportions is None or alpha is not None:
        raise BadInput("Give `alpha` or `proportions`.")
    shares = np.asarray(proportions, np.float64)
    if shares.shape != (len(sites),) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise BadInput("`proportions` has one positive number per site.")
    divided = _divide(rng.permutation(rows), shares / shares.sum())
    if min(map(len, divided)) < minimum:
        raise BadInput(say("With these proportions a site has fewer than {minimum} rows.", minimum=minimum))
    return _parts(data, sites, divided)


def _check(sites: Sequence[str], alpha: float | None = None) -> None:
    if not sites or len(set(sites)) < len(sites):
        raise BadInput("Every site needs a name of its own.")
    if alpha is not None and not 0 < alpha < np.inf:
        raise BadInput("`alpha` is a positive number.")


def _until(draw: Callable[[], list[npt.NDArray[np.int64]]], minimum: int) -> list[npt.NDArray[np.int64]]:
    for _ in range(TRIES):
        parts = draw()
        if min(map(len, parts)) >= minimum:
            return parts
    raise BadInput(
        say("No division gave every site {minimum} rows in {tries} tries.", minimum=minimum, tries=TRIES),
        remedy="Raise `alpha`, or take fewer sites or a smaller `minimum`.",
    )


def _divide(rows: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]) -> list[npt.NDArray[np.int64]]:
    """Consecutive pieces whose sizes are the shares, each cut rounded."""
    return np.split(rows, np.rint(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64))


def _classes(data: pd.DataFrame | Pair, label: str | None) -> npt.NDArray[Any]:
    if isinstance(data, pd.DataFrame):
        if label not in data.columns:
            raise BadData(say("There is no column {label}; `label` names the column of classes.", label=f"{label!r}"))
        codes, _ = pd.factorize(data[label], use_na_sentinel=False)
        return np.asarray(codes)
    if data[1].ndim > 1:
        raise BadInput("Rows are divided by one class each; these targets have several parts.", remedy="Divide iid, by quantity or by a column.")
    return data[1]


def _rows(data: pd.DataFrame | Pair) -> int:
    return len(data) if isinstance(data, pd.DataFrame) else len(data[1])


def _parts(data: Data, sites: Sequence[str], parts: Sequence[npt.NDArray[np.int64]]) -> dict[str, Data]:
    return {site: _take(data, np.sort(rows)) for site, rows in zip(sites, parts, strict=True)}


def _take(data: Data, rows: npt.NDArray[np.int64]) -> Data:
    if isinstance(data, pd.DataFrame):
        return data.iloc[rows]
    features, targets = data
    return features[rows], targets[rows]
