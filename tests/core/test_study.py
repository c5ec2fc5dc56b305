"""The study document: every fault in its place, one document however it is written."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any

import pytest

from aimer2.core.errors import BadStudy
from aimer2.core.study import Feature, Study, Target, Training, read_study

TOML = """
name = "heart"
question = "Does this patient have a heart disease?"
purpose = "Care research"
ethics = "EK 12/2026"
principal_investigator = "Dr Ada Example"
expires = 2030-06-30
seed = 7

[requires]
torch = ">=2.4"

[cohort]
dataset = "heart"
minimum_patients = 20
missing = "mean"

[[cohort.features]]
name = "age"
unit = "a"
minimum = 0
maximum = 120

[[cohort.features]]
name = "sex"
kind = "category"
categories = ["female", "male"]

[cohort.target]
name = "disease"

[model]
name = "mlp"
options = { hidden = [8, 4], dropout = 0.5 }

[training]
learning_rate = 0.01
local_steps = 5

[method]
name = "fedprox"
rounds = 3
parameters = { mu = 0.1 }

[sites]
names = ["a", "b"]
"""


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "name": "heart",
        "question": "Does this patient have a heart disease?",
        "purpose": "Care research",
        "ethics": "EK 12/2026",
        "principal_investigator": "Dr Ada Example",
        "expires": datetime.date(2030, 6, 30),
        "seed": 7,
        "requires": {"torch": ">=2.4"},
        "cohort": {
            "dataset": "heart",
            "minimum_patients": 20,
            "missing": "mean",
            "features": [
                {"name": "age", "unit": "a", "minimum": 0, "maximum": 120},
                {"name": "sex", "kind": "category", "categories": ["female", "male"]},
            ],
            "target": {"name": "disease"},
        },
        "model": {"name": "mlp", "options": {"hidden": [8, 4], "dropout": 0.5}},
        "training": {"learning_rate": 0.01, "local_steps": 5},
        "method": {"name": "fedprox", "rounds": 3, "parameters": {"mu": 0.1}},
        "sites": {"names": ["a", "b"]},
    } | changes


def changed(place: str, value: Any) -> dict[str, Any]:
    """The fields with one value replaced; ``...`` takes it out."""
    whole = json.loads(json.dumps(fields(expires="2030-06-30")))
    *path, last = [int(part) if part.isdigit() else part for part in place.split("/")]
    inner = whole
    for part in path:
        inner = inner[part] if isinstance(inner, list) else inner.setdefault(part, {})
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return whole  # type: ignore[no-any-return]


def faults(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    with pytest.raises(BadStudy) as caught:
        Study(**document)
    return [(fault.place, fault.problem, fault.remedy) for fault in caught.value.faults]


def test_toml_and_python_are_one_study(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(TOML)
    assert read_study(tmp_path / "study.toml") == Study(**fields())
    assert Study(**json.loads(Study(**fields()).model_dump_json())) == Study(**fields())


# place in the document, wrong value, where the fault is told, a part of what is said
WRONG: list[tuple[str, Any, str, str]] = [
    ("name", ..., "name", "is missing"),
    ("name", "Heart", "name", "pattern"),
    ("question", "Why?", "question", "at least 10"),
    ("nmae", "x", "nmae", "is not a field"),
    ("version", 2, "version", "1"),
    ("expires", "tomorrow", "expires", "date"),
    ("expires", "2030-06-30T12:00:00", "expires", "date"),
    ("seed", -1, "seed", "greater"),
    ("seed", 2**63, "seed", "less"),
    ("cohort/dataset", "../x", "cohort.dataset", "pattern"),
    ("cohort/features", [], "cohort.features", "at least 1"),
    ("cohort/features/1/name", "", "cohort.features[2].name", "at least 1"),
    ("cohort/features/0/kind", "text", "cohort.features[1].kind", "number"),
    ("cohort/features/1/categories", ["female"], "cohort.features[2]", "at least two"),
    ("cohort/features/1/categories", ["female", "male", "male"], "cohort.features[2]", "twice"),
    ("cohort/features/0/categories", ["x"], "cohort.features[1]", "no `categories`"),
    ("cohort/features/0/minimum", 130, "cohort.features[1]", "larger"),
    ("cohort/features/0/minimum", float("nan"), "cohort.features[1].minimum", "finite"),
    ("cohort/features/1/name", "disease", "cohort", "more than once: disease"),
    ("cohort/target/categories", ["yes"], "cohort.target", "two categories"),
    ("cohort/target/categories", ["yes", "yes"], "cohort.target", "twice"),
    ("cohort/target", {"name": "d", "kind": "multiclass", "categories": ["x", "y"]}, "cohort.target", "at least three"),
    ("cohort/target", {"name": "d", "kind": "multiclass", "categories": ["x", "y", "z", "x"]}, "cohort.target", "twice"),
    ("cohort/target", {"name": "d", "kind": "regression", "categories": ["x"]}, "cohort.target", "no categories"),
    ("cohort/target", {"name": "d", "kind": "multilabel", "labels": ["a"]}, "cohort.target", "two or more columns"),
    ("cohort/target", {"name": "d", "kind": "multilabel"}, "cohort.target", "two or more columns"),
    ("cohort/target", {"name": "d", "kind": "multilabel", "labels": ["a", "age"]}, "cohort", "more than once: age"),
    ("cohort/target", {"name": "d", "kind": "multilabel", "labels": ["a", "b"], "unit": "d"}, "cohort.target", "no `unit`"),
    ("cohort/target/labels", ["a", "b"], "cohort.target", "of no other"),
    ("cohort/target", {"name": "d", "kind": "multilabel", "labels": [f"l{n}" for n in range(51)]}, "cohort.target.labels", "at most 50"),
    ("cohort/target", {"name": "d", "kind": "survival"}, "cohort.target", "`event`"),
    ("cohort/target/event", "death", "cohort.target", "of no other"),
    ("cohort/target/intervals", [1, 2], "cohort.target", "belong to a survival"),
    ("cohort/target", {"name": "d", "kind": "survival", "event": "d"}, "cohort", "more than once: d"),
    ("cohort/target", {"name": "d", "kind": "survival", "event": "e", "intervals": [2, 2]}, "cohort.target", "rising order"),
    ("cohort/target", {"name": "d", "kind": "survival", "event": "e", "categories": ["yes"]}, "cohort.target", "two categories"),
    ("cohort/minimum_patients", 0, "cohort.minimum_patients", "greater"),
    ("model/name", ..., "model", "either"),
    ("model/code", "model.py", "model", "either"),
    ("model/options/hidden", {"a": 1}, "model.options.hidden", "is not a number, a text, true or false"),
    ("training/learning_rate", 0, "training.learning_rate", "greater than 0"),
    ("training/learning_rate", "fast", "training.learning_rate", "number"),
    ("training/local_epochs", 1, "training", "not both"),
    ("training", {"patience": 2}, "training", "there is one only"),
    ("training/validation", 0.2, "training", "give `patience`"),
    ("training/accumulation", 1, "training.accumulation", "greater"),
    ("training/class_weights", [1, 0], "training.class_weights[2]", "greater"),
    ("method/rounds", 0, "method.rounds", "greater"),
    ("method/name", "FedAvg", "method.name", "pattern"),
    ("method/parameters/mu", [1], "method.parameters.mu", "is not a number, a text, true or false"),
    ("sites/names/1", "Site B", "sites.names[2]", "lower-case"),
    ("sites/quorum", 0, "sites.quorum", "greater"),
    ("evaluation/held_out", 1.5, "evaluation.held_out", "less than or equal to 1"),
    ("privacy/differential_privacy/delta", 1, "privacy.differential_privacy.delta", "less than 1"),
    ("privacy/noise", 1, "privacy.noise", "is not a field"),
]


@pytest.mark.parametrize(("place", "value", "told", "problem"), WRONG, ids=[f"{place}={value}"[:50] for place, value, *_ in WRONG])
def test_each_fault_is_told_once_in_its_place(place: str, value: Any, told: str, problem: str) -> None:
    found = faults(changed(place, value))
    assert [at for at, *_ in found] == [told]
    assert problem in found[0][1]
    assert found[0][2]


def test_the_remedy_speaks_of_what_is_wrong() -> None:
    assert "'_'" in faults(changed("method/name", "FedAvg"))[0][2]
    assert faults(changed("model", {"code": "../model.py"}))[0] == (
        "model.code",
        "String should match pattern '^[A-Za-z0-9_-]+\\.py$'",
        "name a file beside the study, for example model.py",
    )


def test_fields_that_came_later_are_written_only_where_they_are_set() -> None:
    """An older study keeps its digest."""
    written = Study(**fields()).model_dump(mode="json")
    assert not {"labels", "event", "intervals"} & written["cohort"]["target"].keys()
    assert not {"accumulation", "class_weights", "ties", "patience", "validation"} & written["training"].keys()
    assert "horizons" not in written["evaluation"]
    target = {"name": "days", "kind": "survival", "event": "death", "intervals": [1, 2]}
    later = Study(**(changed("cohort/target", target) | {"training": {"local_epochs": 3, "patience": 2}}))
    assert Study.model_validate_json(later.model_dump_json()) == later
    assert later.model_dump(mode="json")["training"]["patience"] == 2


def test_what_a_target_asks_of_table_and_model() -> None:
    def of(**target: Any) -> tuple[tuple[str, ...], int, int]:
        made = Target(name="d", **target)
        return tuple(column.name for column in made.columns), made.classes, made.outputs

    assert of() == (("d",), 2, 1)
    assert of(kind="regression") == (("d",), 1, 1)
    assert of(kind="multiclass", categories=("x", "y", "z")) == (("d",), 3, 3)
    assert of(kind="multilabel", labels=("a", "b")) == (("a", "b"), 2, 2)
    assert of(kind="survival", event="e") == (("d", "e"), 1, 1)
    assert of(kind="survival", event="e", intervals=(1, 2)) == (("d", "e"), 2, 2)


def test_all_faults_at_once() -> None:
    document = changed("name", "Heart") | {"seed": -1, "model": {"framework": "excel", "name": "x"}}
    del document["cohort"]["target"]
    assert [place for place, *_ in faults(document)] == ["name", "seed", "cohort.target", "model.framework"]


def test_a_study_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Study(**fields()).seed = 8


@pytest.mark.parametrize(
    ("text", "problem"),
    [("name = ", "not TOML"), ("name = 'a'\nname = 'b'", "not TOML"), ("\xff", "not TOML")],
)
def test_a_file_that_is_no_toml(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "study.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadStudy, match=problem):
        read_study(tmp_path / "study.toml")


@pytest.mark.parametrize("name", ["no.toml", "."])
def test_a_path_that_is_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadStudy, match="no such file"):
        read_study(tmp_path / name)


def test_a_day_counts_to_its_end() -> None:
    assert Study(**fields()).expires_at == pytest.approx(datetime.datetime(2030, 7, 1, tzinfo=datetime.UTC).timestamp(), abs=1)
    moment = datetime.datetime(2030, 6, 30, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    assert Study(**fields(expires=moment)).expires_at == datetime.datetime(2030, 6, 30, 10, tzinfo=datetime.UTC).timestamp()


@pytest.mark.parametrize(
    ("training", "rows", "steps"),
    [
        ({}, 100, 4),  # one epoch of 32: 32 + 32 + 32 + 4
        ({"batch_size": 32}, 96, 3),
        ({"batch_size": None}, 96, 1),
        ({"batch_size": None, "local_epochs": 5}, 96, 5),
        ({"batch_size": 10, "local_epochs": 0.5}, 95, 5),
        ({"batch_size": 10, "local_epochs": 0.01}, 95, 1),
        ({"batch_size": 10, "local_steps": 7}, 95, 7),
        ({"batch_size": 200}, 3, 1),
    ],
)
def test_steps_per_round(training: dict[str, Any], rows: int, steps: int) -> None:
    assert Training(**training).steps(rows) == steps


def test_categories_are_compared_in_time_that_grows_as_their_number() -> None:
    def seconds(number: int) -> float:
        categories, best = tuple(map(str, range(number))), float("inf")
        for _ in range(3):
            began = time.process_time()
            Feature(name="level", kind="category", categories=categories)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(8000) < 32 * seconds(500), "16 times as many; each with each other would take 256 times as long"
