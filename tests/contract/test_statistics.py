"""What every statistical method promises, whoever wrote it: one suite over the catalogue, each run with its `EXAMPLE`."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest

from aimer2.core import tree
from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadStudy
from aimer2.core.study import Analysis
from aimer2.core.table import Table
from aimer2.core.update import Update, total
from aimer2.statistics import catalogue
from aimer2.statistics.statistic import AbstractStatistic, Found, loaded
from aimer2.study.analysing import local_of

ROWS = 240


@pytest.fixture(params=catalogue.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def method(name: str) -> AbstractStatistic:
    return catalogue.example(name)


def frame(method: AbstractStatistic, rows: int = ROWS) -> Frame:
    """Drawn columns: categories by their codes; numbers within their stated range (whole ones in a wide range), else around 3, positive and many of
    them tied; the response of every second row 0 or 1."""
    rng = np.random.default_rng(5)
    response = {one.name for one in method.parsed.response[-1:]}
    columns = {
        feature.name: rng.integers(len(feature.categories), size=rows).astype(np.float64)
        if feature.categories
        else rng.integers(0, 2, rows).astype(np.float64)
        if feature.name in response
        else np.round(rng.uniform(feature.minimum, feature.maximum, rows), 0 if feature.maximum - feature.minimum > 10 else 2)
        if feature.minimum is not None and feature.maximum is not None
        else np.round(1 + rng.gamma(2.0, 1.0, rows), 1)
        for feature in method.features
    }
    return Frame(columns, np.arange(rows, dtype=np.uint64))


def run(method: AbstractStatistic, frames: list[Frame]) -> tuple[Found, list[Update]]:
    state, seen = method.init({}), []
    while not method.finished(state):
        received = {name: loaded(leaves) for name, leaves in method.broadcast(state).items()}
        given = total([method.local(received, local_of(one, 1, "a", state.round_number + 1)) for one in frames])
        seen.append(given)
        state = method.update(state, given)
    return state, seen


def test_it_says_what_leaves_the_site(name: str, method: AbstractStatistic) -> None:
    _, seen = run(method, [frame(method)])
    assert {leaf for update in seen for leaf in update.sums["sums"]} <= catalogue.sums(name)
    assert catalogue.summary(name) and all(catalogue.leaves(name))


def test_sums_of_two_sites_are_those_of_their_pooled_patients(method: AbstractStatistic) -> None:
    """The law that makes everything else work; Σ over sites of squares of site sums (robust errors) are the one thing that sites make."""
    whole = frame(method)
    state = method.init({})
    while not method.finished(state):
        received = {name: loaded(leaves) for name, leaves in method.broadcast(state).items()}
        number = state.round_number + 1
        halves = [method.local(received, local_of(whole.at(np.arange(start, ROWS, 2)), 1, "a", number)) for start in (0, 1)]
        together = method.local(received, local_of(whole, 1, "a", number))
        for leaf, values in together.sums["sums"].items():
            if leaf not in method.of_sites:
                np.testing.assert_allclose(tree.load((halves[0] + halves[1]).sums["sums"][leaf]), values, rtol=1e-9, atol=1e-9, err_msg=leaf)
        state = method.update(state, together)


def test_sums_of_nobody_are_zero_and_have_every_site_s_form(method: AbstractStatistic) -> None:
    state, whole = method.init({}), frame(method)
    while not method.finished(state):
        received = {name: loaded(leaves) for name, leaves in method.broadcast(state).items()}
        number = state.round_number + 1
        nobody, some = (method.local(received, local_of(one, 1, "a", number)).sums["sums"] for one in (Frame.empty(list(whole.columns)), whole))
        assert {leaf: (values.dtype, values.shape) for leaf, values in nobody.items()} == {
            leaf: (np.dtype(np.float64), values.shape) for leaf, values in some.items()
        }
        assert not any(np.any(values) for values in nobody.values())
        state = method.update(state, Update({"sums": some}))


def test_its_state_is_finite_numbers_and_its_answer_tables(method: AbstractStatistic) -> None:
    state, _ = run(method, [frame(method)])
    assert state.done and all(np.isfinite(values).all() and values.dtype == np.float64 for values in loaded(state.values).values())
    made = method.tables("main", loaded(state.values))
    assert made and all(Table(**table.model_dump()) == table and len(row) == len(table.columns) for table in made for row in table.rows)


def test_the_same_bits_again(method: AbstractStatistic) -> None:
    first, second = (run(method, [frame(method)])[0] for _ in range(2))
    assert {name: values.tobytes() for name, values in loaded(first.values).items()} == {
        name: values.tobytes() for name, values in loaded(second.values).items()
    }


def test_few_patients_are_refused(method: AbstractStatistic) -> None:
    limits = Disclosure(minimum_cell=10)
    assert list(method.against(frame(method, 9), limits, secure=True))
    assert not list(method.against(frame(method, 2000), limits, secure=True))


def test_its_options_are_checked(name: str) -> None:
    example = catalogue.example(name)
    with pytest.raises(BadStudy, match="nonsense: is no option"):
        catalogue.make(Analysis(method=name, formula=example.formula, options={"nonsense": 1}), example.features)
    made = catalogue.make(Analysis(method=name, formula=example.formula, rounds=example.rounds, options=own(example)), example.features)
    assert made == example


def own(example: AbstractStatistic) -> dict[str, Any]:
    return {field.name: getattr(example, field.name) for field in dataclasses.fields(example) if field.name in catalogue.options(example.name)}


def test_it_is_final_and_frozen_with_a_version(method: AbstractStatistic) -> None:
    kind = type(method)
    assert getattr(kind, "__final__", False) and kind.__dataclass_params__.frozen and kind.version >= 1  # type: ignore[attr-defined]
    assert "Leaves the site:" in (inspect.getdoc(inspect.getmodule(kind)) or "")
