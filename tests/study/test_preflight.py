from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.connectors.table import Column, Table, describe, pseudonyms
from aimer2.core.errors import BadData
from aimer2.core.study import Study
from aimer2.core.task import Check, FigureDocument
from aimer2.study.cohort import complete, design, own_moments
from aimer2.study.evaluation import released
from aimer2.study.preflight import Environment, checks, probe

KEY = bytes(range(32))
ROWS = 60
MACHINE = Environment({"torch": "2.13.0+cpu", "numpy": "2.4.6", "python": "3.11.9"}, disk_free=10 << 30, memory_available=8 << 30)


def study(**changes: Any) -> Study:
    """A study that `table` meets; a change is named by its path, `cohort__missing`."""
    fields: dict[str, Any] = {
        "name": "heart",
        "question": "Who has coronary disease?",
        "purpose": "test",
        "ethics": "none needed: test",
        "principal_investigator": "Dr. A",
        "expires": "2030-01-01",
        "requires": {"torch": ">=2.4", "Python": ">=3.11"},
        "cohort": {
            "dataset": "heart",
            "features": [
                {"name": "age", "unit": "a", "minimum": 0, "maximum": 120},
                {"name": "sex", "kind": "category", "categories": ["f", "m"]},
            ],
            "target": {"name": "disease", "categories": ["no", "yes"]},
        },
        "model": {"framework": "torch", "name": "logistic"},
        "evaluation": {"held_out": 0.25},
    }
    fields = copy.deepcopy(fields)
    for path, value in changes.items():
        place = fields
        *way, last = path.split("__")
        for step in way:
            place = place.setdefault(step, {})
        place[last] = value
    return Study(**fields)


def table(**columns: Column | None) -> Table:
    rng = np.random.default_rng(1)
    good: dict[str, Column | None] = {
        "age": Column("number", rng.uniform(20, 90, ROWS), unit="a"),
        "sex": Column("category", rng.integers(0, 2, ROWS).astype(np.int32), ("f", "m")),
        "disease": Column("category", rng.integers(0, 2, ROWS).astype(np.int32), ("no", "yes")),
    }
    return Table({name: column for name, column in (good | columns).items() if column is not None}, pseudonyms(list(map(str, range(ROWS))), KEY))


def failed(*arguments: Any) -> dict[str, Check]:
    return {check.name: check for check in checks(*arguments) if not check.passed}


def ages(*first: float) -> Column:
    values = np.full(ROWS, 50.0)
    values[: len(first)] = first
    return Column("number", values, unit="a")


def test_data_that_meet_the_study_pass_every_check() -> None:
    found = checks(study(), table(), MACHINE)
    assert [check.name for check in found] == [
        *("columns", "kinds", "units", "categories", "ranges"),
        *("missing", "patients", "training", "held-out", "classes"),
        *("packages", "framework", "disk", "memory"),
    ]
    assert all(check.passed for check in found), found


NO = Column("category", np.zeros(ROWS, np.int32), ("no", "yes"))


@pytest.mark.parametrize(
    ("changes", "columns", "name", "finding"),
    [
        ({}, {"age": None}, "columns", "no column 'age'"),
        ({}, {"sex": ages()}, "kinds", "'sex' is a number, the study asks for a category"),
        ({}, {"age": replace(ages(), unit="mo")}, "units", "'age' is in mo, the study asks for a"),
        ({}, {"sex": Column("category", np.full(ROWS, 2, np.int32), ("f", "m", "x"))}, "categories", "'sex' has a category"),
        ({}, {"age": ages(-1, 130)}, "ranges", "'age' is out of the study's range from 0 to 120 for fewer than 10 patients"),
        ({}, {"age": ages(*[np.nan] * 21)}, "missing", "'age', for about 20 patients"),
        ({"cohort__minimum_patients": ROWS + 1}, {}, "patients", f"fewer usable patients than the {ROWS + 1}"),
        ({"cohort__missing": "drop", "cohort__minimum_patients": ROWS}, {"age": ages(np.nan)}, "patients", "fewer usable"),
        ({"cohort__missing": "drop"}, {"age": ages(*[np.nan] * ROWS)}, "training", "No patient is left"),
        ({"requires": {"torch": ">=3"}}, {}, "packages", "torch is 2.13.0+cpu, the study asks for >=3"),
        ({"requires": {"Scikit_Learn": ">=1"}}, {}, "packages", "Scikit_Learn is not installed"),
        ({"requires": {"torch": "newest"}}, {}, "packages", "cannot be told"),
    ],
)
def test_each_fault_is_found_by_its_check(changes: dict[str, Any], columns: dict[str, Any], name: str, finding: str) -> None:
    found = failed(study(**changes), table(**columns), MACHINE)
    assert finding in found[name].finding
    assert found[name].blocking
    assert set(found) <= {name, "patients", "training", "held-out", "classes"}


def test_one_class_or_nobody_held_out_is_a_warning() -> None:
    found = failed(study(), table(disease=NO), MACHINE)
    assert set(found) == {"classes"}
    assert not found["classes"].blocking
    found = failed(study(evaluation__held_out=1e-9), table(), MACHINE)
    assert set(found) == {"held-out"}
    assert not found["held-out"].blocking
    assert "held-out" not in {check.name for check in checks(study(evaluation__held_out=0), table(), MACHINE)}


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (replace(MACHINE, packages={"python": "3.11.9"}), "framework"),
        (replace(MACHINE, disk_free=1 << 20), "disk"),
        (replace(MACHINE, memory_available=1 << 20), "memory"),
    ],
)
def test_a_machine_that_lacks_something_is_found(machine: Environment, name: str) -> None:
    assert name in failed(study(), table(), machine)
    assert "memory" not in {check.name for check in checks(study(), table(), replace(MACHINE, memory_available=None))}


def test_all_faults_come_in_one_answer() -> None:
    strange = Column("category", np.full(ROWS, 2, np.int32), ("f", "m", "x"))
    found = failed(study(requires={"torch": "<2"}), table(age=ages(-1), sex=strange, disease=None), replace(MACHINE, disk_free=0))
    assert set(found) == {"columns", "categories", "ranges", "packages", "disk"}
    both = failed(study(), table(age=replace(ages(), unit=None), disease=None, sex=None), MACHINE)
    assert "'sex'" in both["columns"].finding
    assert "'disease'" in both["columns"].finding
    assert "units" in both


def test_the_probe_tells_this_machine() -> None:
    found = probe(Path("/"))
    assert found.packages["numpy"] == np.__version__
    assert "no-such-package" not in found.packages and found.packages.get("") is None
    assert {"numpy", "python"} <= set(found.packages) and len(found.packages) > 10
    assert "python" in found.packages
    assert found.disk_free > 0
    assert found.memory_available is None or found.memory_available > 1 << 20


MARKER = 91827.0
LEVEL = "Ecce-Homo-1987"


def texts(document: Study, data: Table) -> str:
    """All that a site would say about these data."""
    said = [check.finding for check in checks(document, data, MACHINE)]
    try:
        made = design(document.cohort, data)
        complete(made, document.cohort, own_moments(made))
    except BadData as error:
        said += [error.sentence, error.advice, str(error.__cause__), repr(error.__context__)]
    return " ".join(said)


@pytest.mark.parametrize("minimum_cell", [1, 2, 5])
def test_patients_who_are_there_are_never_told_as_none(minimum_cell: int) -> None:
    """Two of them, at a hospital that would tell of one: rounded to 5 they would be 0."""
    few = Column("category", np.array([1] * 2 + [0] * (ROWS - 2), np.int32), ("f", "m"))
    data = replace(table(age=ages(-1, 130), sex=few), minimum_cell=minimum_cell)
    assert "for fewer than 5 patients" in failed(study(), data, MACHINE)["ranges"].finding
    assert describe(data, minimum_cell=minimum_cell).columns[1].categories["(rarer)" if minimum_cell > 2 else "m"] == "<5"
    measured = [FigureDocument(name="accuracy", value=0.5, n=patients) for patients in (2, 5)]
    asking = study(evaluation__release_per_site=True, evaluation__metrics=["accuracy"])
    assert [one.n for one in released(asking, "final", measured, minimum_cell)] == [5]


cells = st.sampled_from([0.0, 1.0, 50.0, MARKER, -MARKER, float("nan")])
codes = st.integers(-1, 2)


@given(
    st.lists(st.tuples(cells, codes, codes, cells), min_size=1, max_size=30),
    st.booleans(),
    st.sampled_from(["refuse", "drop", "mean", "zero"]),
    st.sampled_from(["binary", "regression"]),
    st.sampled_from([10, 20]),
)
def test_nothing_said_quotes_a_cell_or_counts_fewer_than_the_minimum_cell(
    rows: list[tuple[float, int, int, float]], swap: bool, missing: str, kind: str, minimum_cell: int
) -> None:
    age, sex, disease, number = (list(part) for part in zip(*rows, strict=True))
    columns = {
        "age": Column("number", np.array(age), unit="a"),
        "sex": Column("category", np.array(sex, np.int32), ("f", "m", LEVEL)),
        "disease": Column("number", np.array(number)) if swap else Column("category", np.array(disease, np.int32), ("no", "yes", LEVEL)),
    }
    target = {"name": "disease", "kind": kind}
    data = Table(columns, pseudonyms([str(n) for n in range(len(rows))], KEY), minimum_cell)
    said = " ".join(check.finding for check in checks(study(cohort__missing=missing, cohort__target=target), data, MACHINE))
    assert not [count for count in range(1, minimum_cell) if f"about {count} patients" in said]
    said = texts(study(cohort__missing=missing, cohort__target=target), data)
    assert "91827" not in said
    assert LEVEL not in said
    assert not [f"{count} patients" for count in range(1, 10) if f" {count} patients" in said]
    for pseudonym in data.patient.tolist():
        assert str(pseudonym) not in said


SURVIVAL = {"name": "days", "kind": "survival", "event": "disease", "categories": ["no", "yes"]}
DAYS = Column("number", np.arange(ROWS, dtype=np.float64))


def test_survival_needs_times_and_warns_of_a_site_without_an_event() -> None:
    asked = study(cohort__target=SURVIVAL, model__name="linear")
    assert not failed(asked, table(days=DAYS), MACHINE)
    found = failed(asked, table(days=DAYS, disease=NO), MACHINE)
    assert set(found) == {"events"} and not found["events"].blocking
    found = failed(asked, table(days=Column("number", DAYS.values - 3)), MACHINE)
    assert set(found) == {"ranges"} and found["ranges"].blocking
    assert set(failed(asked, table(), MACHINE)) == {"columns"}


def test_labels_of_which_only_one_side_occurs_are_named() -> None:
    yes = Column("category", np.ones(ROWS, np.int32), ("no", "yes"))
    labels = {"name": "findings", "kind": "multilabel", "labels": ["disease", "fever"], "categories": ["no", "yes"]}
    asked = study(cohort__target=labels)
    assert failed(asked, table(fever=yes), MACHINE)["classes"].finding == "Only one side occurs among the patients to train on: fever."
    assert not failed(asked, table(fever=table().columns["disease"]), MACHINE)


def test_early_stopping_needs_a_validation_part_that_can_judge() -> None:
    stops = {"training__patience": 2, "training__local_epochs": 5}
    assert not failed(study(**stops), table(), MACHINE)
    found = failed(study(**stops, training__validation=1e-9), table(), MACHINE)
    assert found["validation"].blocking and "too few patients" in found["validation"].finding
    asked = study(**stops, cohort__target=SURVIVAL, model__name="linear")
    assert "has had the event" in failed(asked, table(days=DAYS, disease=NO), MACHINE)["validation"].finding
