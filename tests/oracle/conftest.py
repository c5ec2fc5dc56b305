"""A statistical method asked of several frames without a study: what disclosure control would refuse must still be computed rightly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aimer2.client.tables import Tables
from aimer2.core.dataset import Frame
from aimer2.statistics.statistic import AbstractStatistic, Found, loaded
from aimer2.study.analysing import local_of

Ask = Callable[..., Tables]


def frame_of(method: AbstractStatistic, data: pd.DataFrame, patients: Sequence[int] | None = None) -> Frame:
    def coded(name: str, categories: tuple[str, ...]) -> Any:
        if not categories:
            return data[name].to_numpy(np.float64)
        codes = pd.Categorical(data[name].astype(str), categories=categories).codes
        return np.where(codes < 0, np.nan, codes.astype(np.float64))

    columns = {feature.name: coded(feature.name, feature.categories) for feature in method.features}
    return Frame(columns, np.arange(len(data), dtype=np.uint64) if patients is None else np.asarray(patients, np.uint64))


def asked(method: AbstractStatistic, sites: Sequence[pd.DataFrame], patients: Sequence[Sequence[int]] | None = None) -> Tables:
    """The rounds of one method over these sites' data, summed in their order; ``patients``: of each site whose rows they are, if not one's each."""
    frames = [frame_of(method, data, patients[place] if patients else None) for place, data in enumerate(sites)]
    state: Found = method.init({})
    while not method.finished(state):
        received = {name: loaded(leaves) for name, leaves in method.broadcast(state).items()}
        updates = [method.local(received, local_of(frame, 1, f"site-{place}", state.round_number + 1)) for place, frame in enumerate(frames)]
        total = updates[0]
        for update in updates[1:]:
            total = total + update
        state = method.update(state, total)
    return Tables(method.tables("main", loaded(state.values)))


@pytest.fixture(name="ask")
def ask_fixture() -> Ask:
    return asked


def parted(data: pd.DataFrame, kind: str, by: str = "") -> list[pd.DataFrame]:
    """Ways to part patients among sites: evenly, by size, one patient alone, by a covariate, and one site that has nobody."""
    if kind == "even":
        return [data.iloc[place::4] for place in range(4)]
    if kind == "one-patient":
        return [data.iloc[:1], data.iloc[1:40], data.iloc[40:]]
    if kind == "nobody":
        return [data.iloc[:0], data.iloc[: len(data) // 2], data.iloc[len(data) // 2 :]]
    assert kind == "sorted"
    ordered = data.sort_values(by, kind="stable")
    return [ordered.iloc[start : start + -(-len(data) // 3)] for start in range(0, len(data), -(-len(data) // 3))]


KINDS = ("even", "one-patient", "nobody", "sorted")


@pytest.fixture(params=KINDS)
def part(request: pytest.FixtureRequest) -> Callable[..., list[pd.DataFrame]]:
    return lambda data, by: parted(data, request.param, by)
