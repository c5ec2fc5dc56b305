"""What a hospital reads about a new version: every changed field and line, and nothing else."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aimer2.core.study import Study
from aimer2.core.task import BlobRef
from aimer2.messages.package import Package
from aimer2.study.difference import changed_code, changed_fields


def package(**changes: Any) -> Package:
    fields: dict[str, Any] = {
        "name": "mortality",
        "question": "Does the model predict death in hospital?",
        "purpose": "A test.",
        "ethics": "EK 12/2026",
        "principal_investigator": "Dr Test",
        "expires": "2099-01-01",
        "cohort": {"dataset": "d", "features": [{"name": "age"}, {"name": "weight", "unit": "kg"}], "target": {"name": "death"}},
        "model": {"framework": "numpy", "name": "logistic_regression"},
        "method": {"name": "fedavg", "rounds": 2},
        "sites": {"minimum": 2},
        "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
    }
    roster = changes.pop("roster", {"a": "key-a", "b": "key-b"})
    initial = BlobRef(sha256=changes.pop("initial", "0" * 64), size=1)
    return Package(study=Study(**(fields | changes)), method_version=1, initial=initial, roster=roster)


def test_nothing_has_changed_in_the_same_study() -> None:
    assert changed_fields(package(), package()) == []
    assert changed_code({"model.py": "x = 1\n"}, {"model.py": "x = 1\n"}) == []


def test_each_changed_field_stands_with_both_values_at_its_place() -> None:
    cohort = {"dataset": "d", "features": [{"name": "age"}, {"name": "weight", "unit": "g"}, {"name": "smoker"}], "target": {"name": "death"}}
    found = changed_fields(
        package(), package(ethics="EK 13/2026", method={"name": "fedavg", "rounds": 9}, cohort=cohort, roster={"a": "key-a", "b": "other"})
    )
    assert 'ethics: "EK 12/2026" → "EK 13/2026"' in found
    assert "method.rounds: 2 → 9" in found
    assert 'cohort.features[weight].unit: "kg" → "g"' in found
    assert 'cohort.features[smoker].name: new: "smoker"' in found
    assert 'roster.b: "key-b" → "other"' in found
    assert not [line for line in found if "age" in line or "roster.a" in line or "question" in line]


def test_what_is_gone_is_told_and_so_are_other_weights() -> None:
    cohort = {"dataset": "d", "features": [{"name": "age"}], "target": {"name": "death"}}
    found = changed_fields(package(), package(cohort=cohort, initial="1" * 64))
    assert 'cohort.features[weight].unit: gone; it was "kg"' in found
    assert any(line.startswith("untrained weights (SHA-256)") for line in found)


LINES = st.lists(st.sampled_from(["a = 1", "b = 2", "c = 3", "import os"]), max_size=8)


@given(LINES, LINES)
def test_of_code_every_line_that_came_or_went_is_shown(old: list[str], new: list[str]) -> None:
    found = changed_code({"model.py": "\n".join(old)}, {"model.py": "\n".join(new)})
    came = [line[1:] for line in found if line.startswith("+") and not line.startswith("+++")]
    gone = [line[1:] for line in found if line.startswith("-") and not line.startswith("---")]
    assert sorted([*old, *came]) == sorted([*new, *gone])
    assert bool(found) == (old != new)
