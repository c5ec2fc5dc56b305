"""Images in a study: read batch by batch from the snapshot, prepared as the study says, counted by patient."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.client.simulate import simulate
from aimer2.connectors.resampling import resampled
from aimer2.connectors.table import Column, Table, pseudonyms
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadData, BadStudy
from aimer2.core.study import Image, Study
from aimer2.core.task import Task
from aimer2.learners.catalogue import make_learner
from aimer2.study.check import check
from aimer2.study.cohort import complete, design, own_moments, split
from aimer2.study.images import Pictures, check_image, prepared
from aimer2.study.pack import initialise
from aimer2.study.perform import open_performer
from aimer2.study.preflight import Environment, checks

KEY = bytes(range(32))
MACHINE = Environment({"torch": "2.13.0", "python": "3.11.9"}, disk_free=10 << 30, memory_available=8 << 30)
XRAY = {"name": "xray", "height": 8, "width": 8}


def study(image: Mapping[str, Any] = XRAY, **changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "chest",
        "question": "Which chest X-rays show a bright spot?",
        "purpose": "testing",
        "ethics": "none needed: drawn images",
        "principal_investigator": "Test",
        "expires": "2090-01-01",
        "cohort": {"dataset": "chest", "image": image, "target": {"name": "spot"}},
        "model": {"name": "cnn", "options": {"channels": [8, 8]}},
        "training": {"learning_rate": 0.02, "optimiser": "adam", "batch_size": 16, "local_epochs": 2},
        "method": {"rounds": 6},
        "sites": {"minimum": 1},
    }
    for place, change in changes.items():
        fields[place] = {**fields.get(place, {}), **change}
    return Study(**fields)


def table(seed: int = 0, rows: int = 90, per_patient: int = 1, size: int = 8) -> Table:
    """Noise, in half of the patients with a bright square anywhere."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (rows, 1, size, size), np.uint8)
    spot = (np.arange(rows) // per_patient) % 2
    for row in np.flatnonzero(spot):
        top, left = rng.integers(0, size - 3, 2)
        images[row, 0, top : top + 3, left : left + 3] = 230
    ids = [f"{seed}-{row // per_patient}" for row in range(rows)]
    return Table({"xray": Column("image", images), "spot": Column("number", spot.astype(np.float64))}, pseudonyms(ids, KEY))


def test_intensities_are_those_of_the_formulas() -> None:
    eight, sixteen = np.array([[[[0, 51, 255]]]], np.uint8), np.array([[[[0, 13107, 65535]]]], np.uint16)
    for stored in (eight, sixteen):
        assert prepared(stored, Image(name="x", height=1, width=3)).ravel() == pytest.approx([0, 0.2, 1])
    scaled = Image(name="x", height=1, width=3, mean=(0.2,), deviation=(0.4,))
    assert prepared(eight, scaled).ravel() == pytest.approx([-0.5, 0, 2], abs=1e-6)
    own = prepared(np.concatenate([eight, eight // 2, eight * 0 + 9]), Image(name="x", height=1, width=3, intensity="image"))
    assert own[:2].mean(axis=(1, 2, 3)) == pytest.approx([0, 0], abs=1e-6)
    assert own[:2].std(axis=(1, 2, 3)) == pytest.approx([1, 1], abs=1e-3)
    assert (own[2] == 0).all(), "an image of one colour is not stretched"


def test_another_size_is_resampled_where_the_study_says_so() -> None:
    stored = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 6), np.uint8)
    made = prepared(stored, Image(name="x", height=4, width=9, resize="stretch"))
    assert made == pytest.approx(resampled(stored / 255, 4, 9), abs=1e-6)
    assert made.dtype == np.float32


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"channels": 3}, "grey, 8×8, the study asks for colour, 8×8"),
        ({"height": 4}, "the study asks for grey, 4×8"),
        ({"bits": 16}, "8 bits, the study asks for 16"),
    ],
)
def test_images_of_another_form_are_refused_before_the_first_round(changed: Mapping[str, Any], told: str) -> None:
    asked = study({**XRAY, **changed})
    failed = [found for found in checks(asked, table(), MACHINE) if not found.passed]
    assert [found.name for found in failed] == ["images"] and told in failed[0].finding and failed[0].blocking
    with pytest.raises(BadData, match=told):
        design(asked.cohort, table())
    check_image(Image(name="xray", height=4, width=9, resize="stretch", bits=8), table().columns["xray"])


def test_the_contract_names_a_column_that_is_not_there_or_holds_no_images() -> None:
    found = {one.name: one for one in checks(study({**XRAY, "name": "scan"}), table(), MACHINE)}
    assert not found["columns"].passed and "'scan'" in found["columns"].finding
    numbers = Table({"xray": Column("number", np.zeros(90)), "spot": table().columns["spot"]}, table().patient)
    assert "is a number, the study asks for images" in next(one.finding for one in checks(study(), numbers, MACHINE) if one.name == "images")
    assert all(one.passed for one in checks(study(), table(), MACHINE))


def test_patients_are_counted_and_split_not_images() -> None:
    several = table(rows=120, per_patient=6)
    found = {one.name: one for one in checks(study(cohort={"minimum_patients": 21}), several, MACHINE)}
    assert not found["patients"].passed
    train, held_out = split(design(study().cohort, several), 0.4)
    assert not set(train.patient.tolist()) & set(held_out.patient.tolist())
    assert len(train) + len(held_out) == 120 and len(held_out) % 6 == 0 < len(held_out)


def test_images_larger_than_memory_are_divided_and_read_by_the_batch(tmp_path: Path) -> None:
    """Sixty gigabytes of pixels, nearly all of them holes in a file."""
    rows, size = 250_000, 512
    values = np.memmap(tmp_path / "holes", np.uint8, "w+", shape=(rows, 1, size, size))
    values[rows - 1, 0, 5, 7] = 255
    large = Table({"xray": Column("image", values), "spot": Column("number", np.arange(rows) % 2.0)}, np.arange(rows, dtype=np.uint64))
    asked = study({"name": "xray", "height": size, "width": size})
    assert all(found.passed for found in checks(asked, large, MACHINE))
    parts = split(design(asked.cohort, large), 0.2)
    rest = [complete(part, asked.cohort, own_moments(part)) for part in parts]
    assert sum(map(len, rest)) == rows
    samples = next(part for part in rest if part.patients is not None and part.patients[-1] == rows - 1)
    features, targets = samples.at(np.arange(len(samples) - 3, len(samples))).batch(np.array([2, 0]))
    assert features.shape == (2, 1, size, size) and features.dtype == np.float32
    assert (features[0].sum(), features[0, 0, 5, 7], features[1].sum()) == (1, 1, 0)
    assert targets.tolist() == [1, samples.targets[len(samples) - 3]]


def test_rows_of_rows_are_those_of_the_column() -> None:
    pictures = Pictures.of(table().columns["xray"], Image(**XRAY))
    twice = pictures.at(np.arange(0, 90, 3)).at(np.arange(30) % 2 == 1)
    assert (len(twice), twice.shape) == (15, (15, 1, 8, 8))
    np.testing.assert_array_equal(np.asarray(twice), pictures[np.arange(3, 90, 6)])


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ({"framework": "trees", "name": "boosted", "options": {}}, "model.framework"),
        ({"options": {"channels": [8, 8, 8, 8]}}, "cohort.image"),
        ({"framework": "keras", "options": {"channels": [8, 8, 8, 8]}}, "cohort.image"),
    ],
)
def test_models_that_do_not_fit_are_refused(model: dict[str, Any], place: str, tmp_path: Path) -> None:
    assert check(study(sites={"minimum": 3}), tmp_path, SystemClock()) == []
    assert place in {fault.place for fault in check(study(model=model), tmp_path, SystemClock())}


@pytest.mark.parametrize("framework", ["numpy", "sklearn"])
def test_other_frameworks_take_the_pixels_as_columns(framework: str) -> None:
    asked = study(model={"framework": framework, "name": "logistic", "options": {}}, training={"optimiser": "sgd"}, method={"rounds": 1})
    done = simulate(asked, {f"site-{number}": table(number) for number in range(3)})
    assert sorted(leaf.size for leaf in done.model.values()) == [1, 64]


@pytest.mark.parametrize(
    "image",
    [{"mean": [0.5]}, {"mean": [0.5, 0.5], "deviation": [0.2, 0.2]}, {"intensity": "image", "mean": [0.5], "deviation": [0.2]}, {"channels": 2}],
)
def test_a_preparation_that_means_nothing_is_a_fault(image: dict[str, Any]) -> None:
    with pytest.raises(BadStudy):
        study({**XRAY, **image})


def test_a_study_of_tables_keeps_its_document() -> None:
    plain = study().model_dump(mode="json")["cohort"] | {"image": None, "features": [{"name": "age"}]}
    assert "image" not in Study(**(study().model_dump(mode="json") | {"cohort": plain, "model": {"name": "mlp"}})).model_dump()["cohort"]


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "fedbn"])
def test_hospitals_learn_together_what_an_image_shows(method: str) -> None:
    changes: dict[str, Any] = {"method": {"name": method, "rounds": 4}, "evaluation": {"held_out": 0.3}}
    if method == "scaffold":
        changes["training"] = {"optimiser": "sgd", "learning_rate": 0.1}
    if method == "fedbn":
        changes["model"] = {"options": {"channels": [8, 8], "batch_norm": True}}
    done = simulate(study(**changes), {f"site-{n}": table(n, per_patient=2) for n in range(3)})
    value = {figure.name: figure.value for figure in done.figures}
    assert value["auc"] is not None and value["auc"] > 0.9
    assert {leaf.shape for name, leaf in done.model.items() if name == "blocks.0.weight"} <= {(8, 1, 3, 3)}


@pytest.mark.parametrize("kind", ["multiclass", "regression", "multilabel", "survival"])
def test_every_kind_of_target_is_told_from_images(kind: str) -> None:
    rng = np.random.default_rng(1)
    tables = {}
    for number in range(3):
        made = table(number)
        spot = made.columns["spot"].values
        columns = {
            "class": Column("category", (spot * (1 + rng.integers(0, 2, 90))).astype(np.int32), ("none", "left", "right")),
            "time": Column("number", 5 - 3 * spot + rng.random(90)),
            "event": Column("number", np.ones(90)),
        }
        tables[f"site-{number}"] = Table({**made.columns, **columns}, made.patient)
    target = {
        "multiclass": {"name": "class", "kind": kind, "categories": ["none", "left", "right"]},
        "regression": {"name": "time", "kind": kind},
        "multilabel": {"name": "both", "kind": kind, "labels": ["spot", "event"]},
        "survival": {"name": "time", "kind": kind, "event": "event"},
    }[kind]
    done = simulate(study(cohort={"target": target}, method={"rounds": 2}), tables)
    assert done.figures and all(np.isfinite(leaf).all() for leaf in done.model.values())


def test_under_differential_privacy_the_unit_is_the_patient_with_all_images() -> None:
    """One step in which everyone is drawn: a patient's many images move the model by no more than clip_norm / expected patients."""
    terms = {"noise_multiplier": 1e-9, "delta": 1e-4, "clip_norm": 0.5, "sampling_rate": 1.0}
    asked = study(
        cohort={"minimum_patients": 20},
        training={"learning_rate": 1.0, "optimiser": "sgd", "batch_size": 32, "local_epochs": None, "local_steps": 1},
        evaluation={"held_out": 0},
        privacy={"differential_privacy": terms, "secure_aggregation": False, "why_not_secure": "a test"},
    )
    many = table(rows=60, per_patient=2)
    one_more = many.columns["xray"].values[:1].repeat(40, axis=0)
    columns = {
        "xray": Column("image", np.concatenate([many.columns["xray"].values, 255 - one_more])),
        "spot": Column("number", np.concatenate([many.columns["spot"].values, np.ones(40)])),
    }
    greater = Table(columns, np.concatenate([many.patient, pseudonyms(["new"] * 40, KEY)]))
    moved = []
    for rows in (many, greater):
        performer = open_performer(asked, rows, site="north", files={})
        task = Task(id="t", study="0" * 64, site="north", stage="train", round_number=1)
        moved.append(performer.perform(task, {"model": initial(asked)}, {}).sums["difference"])
    # The sums are of 20 patients, the public size: Σ n·(w − w₀) = 20 · step.
    distance = np.sqrt(sum(float(((moved[1][name] - moved[0][name]) ** 2).sum()) for name in moved[0])) / 20
    assert 0 < distance <= 0.5 / 20 + 1e-6


def initial(asked: Study) -> Mapping[str, Any]:
    learner = make_learner(asked, feature_shape=(1, 8, 8), files={})
    initialise(learner, asked)
    return learner.parameters()


def test_batch_normalisation_under_differential_privacy_names_the_remedy(tmp_path: Path) -> None:
    terms = {"noise_multiplier": 1.0, "delta": 1e-4, "clip_norm": 0.5, "sampling_rate": 0.5}
    asked = study(
        model={"options": {"batch_norm": True}},
        cohort={"minimum_patients": 50},
        training={"local_epochs": None, "local_steps": 1, "batch_size": 32},
        privacy={"differential_privacy": terms},
        sites={"minimum": 3},
    )
    faults = {fault.place: fault for fault in check(asked, tmp_path, SystemClock())}
    assert "group" in faults["model.options.batch_norm"].remedy
