"""A feasibility question: the pooled count within its stated bound, and nothing that tells of few patients."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimer2.client.feasibility import feasibility
from aimer2.client.questions import Terms
from aimer2.client.simulate import simulate
from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadInput, BadStudy
from aimer2.core.study import Feature
from aimer2.core.task import BlobRef
from aimer2.messages.package import Package
from aimer2.site.description import describe_request
from aimer2.statistics.feasibility import Feasibility

CRITERIA = ("age >= 60", "sex = f", "ef < 40")
FEATURES = (Feature(name="age"), Feature(name="sex", kind="category", categories=("f", "m")), Feature(name="ef"))


def asked(criteria: tuple[str, ...] = CRITERIA, to_nearest: int = 10) -> Feasibility:
    return Feasibility(formula="~ age + sex + ef", features=FEATURES, criteria=criteria, to_nearest=to_nearest)


def patients(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {"age": rng.uniform(30, 90, rows), "sex": pd.Categorical(rng.choice(["f", "m"], rows), ["f", "m"]), "ef": rng.uniform(20, 70, rows)}
    )
    table.loc[rng.random(rows) < 0.1, "ef"] = np.nan
    return table


def flow(table: pd.DataFrame) -> list[int]:
    first = table[table.age >= 60]
    second = first[first.sex == "f"]
    return [len(table), len(first), len(second), int((second.ef < 40).sum())]


def frame(table: pd.DataFrame) -> Frame:
    columns = {"age": table.age.to_numpy(float), "sex": (table.sex == "m").to_numpy(float), "ef": table.ef.to_numpy(float)}
    return Frame(columns, np.arange(len(table), dtype=np.uint64))


def test_the_whole_way_it_is_the_pooled_count_within_its_bound() -> None:
    hospitals = {name: patients(rows, seed) for seed, (name, rows) in enumerate({"a": 400, "b": 233, "c": 87}.items())}
    study = feasibility(CRITERIA, dataset="heart", categories={"sex": ["f", "m"]}, terms=Terms(minimum_sites=3))
    assert study.question == "How many patients meet: age >= 60, then sex = f, then ef < 40?"
    assert study.privacy.secure_aggregation
    package = Package(study=study, method_version=1, initial=BlobRef(sha256="0" * 64, size=0), roster=dict.fromkeys(hospitals, "key"))
    assert any("a feasibility question" in line for line in describe_request(package, "0" * 64)), "the hospital reads what it is"
    (table,) = simulate(study, hospitals).tables
    assert [row[0] for row in table.rows] == ["all patients", *CRITERIA]
    exact = flow(pd.concat(hospitals.values()))
    off = table.facts["off by at most"]
    assert off == 27
    assert all(abs(int(row[1]) - count) <= off for row, count in zip(table.rows, exact, strict=True))
    assert table.facts["hospitals"] == 3


@given(st.integers(0, 200), st.integers(0, 10**6), st.sampled_from([5, 10, 25]))
@settings(max_examples=40)
def test_each_hospital_tells_multiples_only_and_none_for_few(rows: int, seed: int, to_nearest: int) -> None:
    table = patients(rows, seed)
    sums = asked(to_nearest=to_nearest).sums({}, frame(table), 1)["patients"]
    for told, count in zip(sums, flow(table), strict=True):
        assert told % to_nearest == 0
        assert (told == 0) == (count < to_nearest)
        assert abs(told - count) < to_nearest


def test_a_patient_more_or_less_mostly_changes_nothing() -> None:
    """Over all sizes, leaving one patient out changes the answer once in ten (at the edge of a multiple), not always."""
    answers = [_count(size) for size in range(10, 300)]
    assert sum(one != other for one, other in itertools.pairwise(answers)) <= len(answers) / 9


def _count(size: int) -> float:
    ages = Frame({"age": np.full(size, 70.0)}, np.arange(size, dtype=np.uint64))
    return float(Feasibility(formula="~ age", features=(Feature(name="age"),), criteria=("age >= 60",)).sums({}, ages, 1)["patients"][1])


def test_a_hospital_with_a_larger_smallest_cell_refuses() -> None:
    rows = frame(patients(300, 1))
    assert list(asked(to_nearest=10).against(rows, Disclosure(minimum_cell=10), secure=True)) == []
    (why,) = asked(to_nearest=10).against(rows, Disclosure(minimum_cell=20), secure=True)
    assert "fewer than 20" in why


def test_its_cohorts_are_what_earlier_questions_are_compared_with() -> None:
    table = patients(300, 1)
    assert [len(cohort.rows) for cohort in asked().cohorts(frame(table))] == flow(table)


@pytest.mark.parametrize(
    "criteria",
    [(), ("age >= 60",), (*CRITERIA, "weight > 3"), (*CRITERIA, "sex > f"), (*CRITERIA, "sex = x"), (*CRITERIA, "age = old"), (*CRITERIA, "age")],
)
def test_what_cannot_be_asked_is_told(criteria: tuple[str, ...]) -> None:
    assert list(asked(criteria).faults())


def test_faults_before_anybody_is_asked() -> None:
    with pytest.raises(BadInput):
        feasibility([], dataset="heart")
    with pytest.raises(BadStudy):
        feasibility(["age >= 60"], dataset="no data set!")
