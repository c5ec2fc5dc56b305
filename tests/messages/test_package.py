"""The digest that a hospital approves: pinned, and moved by any change."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aimer2.core.study import Study
from aimer2.core.task import BlobRef
from aimer2.messages.package import Package, digest

GOLDEN = Path(__file__).parents[1] / "golden" / "package-1.json"
DIGEST = "cd3c55ec59f6cde30a8d3e49672d723e87602910265120c8d8615a863b8978aa"


def package() -> Package:
    """Every field set, none to its default."""
    return Package(
        study=Study(
            name="heart",
            question="Does this patient have a heart disease?",
            purpose="Care research",
            ethics="EK 12/2026",
            principal_investigator="Dr Ada Example",
            expires=datetime.date(2030, 6, 30),
            seed=7,
            requires={"torch": ">=2.4"},
            cohort={
                "dataset": "heart",
                "features": [
                    {"name": "age", "unit": "a", "minimum": 0, "maximum": 120.5},
                    {"name": "sex", "kind": "category", "categories": ["female", "male"]},
                ],
                "target": {"name": "disease", "categories": ["no", "yes"], "unit": "1"},
                "minimum_patients": 20,
                "missing": "mean",
                "standardise": "site",
            },
            model={"framework": "numpy", "name": "logistic", "options": {"intercept": False, "sizes": [8, 4.5], "kind": "x"}},
            training={
                "optimiser": "adam",
                "learning_rate": 1,
                "momentum": 0.5,
                "weight_decay": 1e-9,
                "schedule": "cosine",
                "batch_size": 16,
                "local_steps": 5,
            },
            method={
                "name": "fedprox",
                "rounds": 3,
                "parameters": {"mu": 0.1, "flag": True, "count": 3, "word": "one"},
                "aggregator": "krum",
                "aggregator_parameters": {"byzantine": 1},
                "compression": {"name": "random_k", "parameters": {"fraction": 0.25}},
                "downlink": "zstd",
            },
            sites={"names": ["a", "b", "c"], "minimum": 3, "quorum": 2, "deadline_seconds": 60, "block": 2},
            evaluation={"held_out": 0.3, "metrics": ["auc", "brier"], "release_per_site": True},
            privacy={
                "secure_aggregation": True,
                "differential_privacy": {"epsilon": 3, "delta": 1e-5, "noise_multiplier": 1.1, "clip_norm": 0.5, "sampling_rate": 0.25},
            },
        ),
        method_version=2,
        files={"model.py": BlobRef(sha256="a" * 64, size=100)},
        initial=BlobRef(sha256="b" * 64, size=200),
        roster={"a": "key-a", "b": "key-b", "c": "key-c"},
    )


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


# Values that the form admits only in other company.
FIXED = {("format",), ("study", "version"), ("study", "cohort", "unit"), ("study", "model", "code"), ("study", "training", "local_epochs")}
OTHER: dict[str, Any] = {
    "expires": "2030-07-01",
    "kind": None,
    "framework": "torch",
    "missing": "zero",
    "standardise": "none",
    "level": "site",
    "sha256": "c" * 64,
    "dataset": "heart-2",
    "word": "two",
    "aggregator": "median",
    "downlink": "changes",
}
PATHS = [path for path in leaves(package().model_dump(mode="json")) if path not in FIXED]


def replaced(path: tuple[Any, ...]) -> dict[str, Any]:
    whole: dict[str, Any] = package().model_dump(mode="json")
    inner: Any = whole
    for part in path[:-1]:
        inner = inner[part]
    value, last = inner[path[-1]], path[-1]
    if isinstance(value, bool):
        inner[last] = not value
    elif isinstance(value, int | float):
        inner[last] = value * 0.5 if value < 1 and not isinstance(value, int) else value + 1
    elif value is None:
        inner[last] = {"unit": "kg", "minimum": -1.0, "maximum": 1e9}[last]
    else:
        inner[last] = OTHER.get(last) or value + "x"
    return whole


def test_the_digest_is_pinned() -> None:
    """A change here makes every approval ever given void."""
    assert digest(package()) == DIGEST
    assert digest(Package.model_validate_json(GOLDEN.read_bytes())) == DIGEST


@pytest.mark.parametrize(
    "path", [p for p in PATHS if p[-1] not in ("kind", "unit", "minimum", "maximum") and "categories" not in p], ids=lambda p: "/".join(map(str, p))
)
def test_any_change_changes_the_digest(path: tuple[Any, ...]) -> None:
    assert digest(Package.model_validate(replaced(path))) != DIGEST


@pytest.mark.parametrize(
    "change",
    [
        {
            "features": [
                {"name": "age", "unit": "mo", "minimum": 0, "maximum": 120.5},
                {"name": "sex", "kind": "category", "categories": ["female", "male"]},
            ]
        },
        {
            "features": [
                {"name": "age", "unit": "a", "minimum": 1, "maximum": 120.5},
                {"name": "sex", "kind": "category", "categories": ["female", "male"]},
            ]
        },
        {
            "features": [
                {"name": "age", "unit": "a", "minimum": 0, "maximum": 120},
                {"name": "sex", "kind": "category", "categories": ["female", "male"]},
            ]
        },
        {
            "features": [
                {"name": "age", "unit": "a", "minimum": 0, "maximum": 120.5},
                {"name": "sex", "kind": "category", "categories": ["male", "female"]},
            ]
        },
        {
            "features": [
                {"name": "sex", "kind": "category", "categories": ["female", "male"]},
                {"name": "age", "unit": "a", "minimum": 0, "maximum": 120.5},
            ]
        },
        {"target": {"name": "disease", "categories": ["yes", "no"], "unit": "1"}},
        {"target": {"name": "disease", "kind": "regression", "unit": "1"}},
        {"target": {"name": "disease", "categories": ["no", "yes"]}},
    ],
    ids=["unit", "minimum", "maximum", "order of categories", "order of features", "which is the event", "kind of target", "unit of target"],
)
def test_any_change_of_what_is_read_changes_the_digest(change: dict[str, Any]) -> None:
    whole = package().model_dump(mode="json")
    whole["study"]["cohort"] |= change
    assert digest(Package.model_validate(whole)) != DIGEST


@pytest.mark.parametrize("more", [("files", "other.py"), ("roster", "d"), ("requires", "numpy"), ("parameters", "nu")])
def test_an_entry_more_or_less_changes_the_digest(more: tuple[str, str]) -> None:
    where, key = more
    fewer, larger = package().model_dump(mode="json"), package().model_dump(mode="json")

    def mapping(whole: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {**whole, **whole["study"], **whole["study"]["method"]}[where]
        return found

    mapping(fewer).popitem()
    mapping(larger)[key] = next(iter(mapping(larger).values()))
    assert len({digest(Package.model_validate(whole)) for whole in (fewer, larger)} | {DIGEST}) == 3


def test_what_is_written_otherwise_but_means_the_same_is_one_study() -> None:
    whole = package().model_dump(mode="json")
    whole["study"]["training"]["learning_rate"] = 1.0
    whole["study"]["cohort"]["features"][0]["minimum"] = -0.0
    whole["study"]["method"]["parameters"]["count"] = 3.0
    whole["roster"] = dict(reversed(whole["roster"].items()))
    whole = dict(reversed(whole.items()))
    assert digest(Package.model_validate(whole)) == DIGEST
    again = json.loads(json.dumps(whole))
    assert digest(Package.model_validate_json(json.dumps(again))) == DIGEST


def test_true_and_one_are_different() -> None:
    whole = package().model_dump(mode="json")
    whole["study"]["method"]["parameters"]["flag"] = 1
    assert digest(Package.model_validate(whole)) != DIGEST
