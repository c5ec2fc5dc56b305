"""Images and columns in one model: the columns prepared as those of a table, joined after what the convolutions see, by every learner that can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Picture
from sklearn.metrics import roc_auc_score

from aimer2.cli.made_up_patients import made_up_patients
from aimer2.cli.made_up_sites import Reading
from aimer2.client.leave_one_out import leave_one_out
from aimer2.client.simulate import simulate
from aimer2.connectors.mapping import ColumnMapping, DataMapping
from aimer2.connectors.table import Column, Table, pseudonyms
from aimer2.core.clock import SystemClock
from aimer2.core.dataset import Samples
from aimer2.core.study import Study
from aimer2.core.task import Task
from aimer2.learners.catalogue import make_learner
from aimer2.site.description import reads, what_leaves
from aimer2.study.check import check
from aimer2.study.cohort import complete, design, feature_shape, own_moments, split
from aimer2.study.pack import initialise
from aimer2.study.perform import open_performer
from aimer2.study.prediction import predict, read_features
from aimer2.study.preflight import Environment, checks

MACHINE = Environment({"torch": "2.13.0", "python": "3.11.9"}, disk_free=10 << 30, memory_available=8 << 30)
COLUMNS = [{"name": "age"}, {"name": "smoker", "kind": "category", "categories": ["never", "past", "now"]}]


def study(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "chest",
        "question": "Is there a spot on this X-ray, of a patient of an age at which it matters?",
        "purpose": "testing",
        "ethics": "none needed: drawn images",
        "principal_investigator": "Test",
        "expires": "2090-01-01",
        "cohort": {"dataset": "chest", "image": {"name": "xray", "height": 8, "width": 8}, "features": COLUMNS, "target": {"name": "ill"}},
        "model": {"name": "cnn", "options": {"channels": [8, 8]}},
        "training": {"learning_rate": 0.02, "optimiser": "adam", "batch_size": 16, "local_epochs": 2},
        "method": {"rounds": 5},
        "sites": {"minimum": 3},
        "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
    }
    for place, change in changes.items():
        fields[place] = {name: value for name, value in {**fields.get(place, {}), **change}.items() if value is not None}
    return Study(**fields)


def table(seed: int, rows: int = 120) -> Table:
    """Ill are the old with a bright spot: an image alone, or an age alone, tells half of it. Ages are about another mean at each site."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (rows, 1, 8, 8), np.uint8)
    spot, age = rng.random(rows) < 0.5, rng.normal(50 + 5 * seed, 20, rows)
    for row in np.flatnonzero(spot):
        top, left = rng.integers(0, 5, 2)
        images[row, 0, top : top + 3, left : left + 3] = 230
    columns = {
        "xray": Column("image", images),
        "age": Column("number", age),
        "smoker": Column("category", rng.integers(0, 3, rows, np.int32), ("now", "never", "past")),
        "ill": Column("number", (spot & (age > 55)).astype(np.float64)),
    }
    return Table(columns, pseudonyms([f"{seed}-{row}" for row in range(rows)], bytes(32)))


def test_a_row_is_the_image_and_behind_it_each_column_everywhere() -> None:
    asked, made = study(), table(0)
    whole = design(asked.cohort, made)
    moments = own_moments(whole)
    rows = complete(whole.at(np.arange(120) % 2 == 1), asked.cohort, moments)
    features, _ = rows.at(np.array([4, 0])).batch(np.array([1, 0]))
    assert (rows.feature_shape, feature_shape(asked.cohort), features.shape, features.dtype) == ((4, 8, 8), (4, 8, 8), (2, 4, 8, 8), np.float32)
    for found, row in zip(features, (1, 9), strict=True):
        np.testing.assert_allclose(found[0], made.columns["xray"].values[row, 0] / 255, rtol=1e-6)
        told = made.columns["smoker"].categories[made.columns["smoker"].values[row]]
        ages = made.columns["age"].values
        expected = [(ages[row] - ages.mean()) / ages.std(ddof=1), told == "past", told == "now"]
        np.testing.assert_allclose(found[1:], np.broadcast_to(np.array(expected, np.float32)[:, None, None], (3, 8, 8)), rtol=1e-5)


def test_hospitals_learn_what_neither_image_nor_columns_tell_alone() -> None:
    """Better than whoever knows of each image whether there is a spot, and than the best order by age."""
    sites = {f"site-{number}": table(number) for number in range(3)}
    columns = [made.columns for made in sites.values()]
    ill, age = (np.concatenate([part[name].values for part in columns]) for name in ("ill", "age"))
    spot = np.concatenate([part["xray"].values.max(axis=(1, 2, 3)) for part in columns]) == 230
    assert max(roc_auc_score(ill, spot), roc_auc_score(ill, age)) < 0.9
    done = simulate(study(), sites)
    assert next(figure.value or 0.0 for figure in done.figures if figure.name == "auc") > 0.95


def test_the_columns_are_standardised_by_all_sites_and_the_result_tells_how() -> None:
    sites = {f"site-{number}": table(number) for number in range(3)}
    asked = study(method={"rounds": 1})
    done = simulate(asked, sites)
    parts = [split(design(asked.cohort, made), asked.evaluation.held_out)[0].features for made in sites.values()]
    told = done.result["preprocessing"]
    assert told["inputs"] == ["age", "smoker = past", "smoker = now"]
    assert told["moments"]["mean"][0] == pytest.approx(np.concatenate(parts)[:, 0].mean())
    assert done.model["head.weight"].shape == (1, 8 + 3) and done.model["blocks.0.weight"].shape == (8, 1, 3, 3)


def test_the_convolutions_see_no_column_and_the_head_sees_all() -> None:
    learner = make_learner(study(), feature_shape=(4, 8, 8), files={})
    initialise(learner, study())
    weights = {name: np.array(leaf) for name, leaf in learner.parameters().items()}
    rows = np.random.default_rng(0).random((5, 4, 8, 8)).astype(np.float32)
    rows[:, 1:] = rows[:, 1:, :1, :1]
    moved = rows.copy()
    moved[:, 2] += 3.0
    weights["head.weight"][0, 8:] = [0.0, 0.5, 0.0]
    learner.load(weights)
    logit = [np.log(p / (1 - p)) for p in (learner.predict(Samples(part, np.zeros(5))) for part in (rows, moved))]
    np.testing.assert_allclose(logit[1] - logit[0], 1.5, rtol=1e-4)


def test_a_keras_site_computes_the_same_model(tensorflow: None) -> None:
    rows = Samples(np.random.default_rng(0).random((6, 4, 8, 8)).astype(np.float32), np.zeros(6, np.int64))
    rows.features[:, 1:] = rows.features[:, 1:, :1, :1]  # type: ignore[index]
    asked = study(model={"also": ["keras"]})
    torch = make_learner(asked, feature_shape=(4, 8, 8), files={})
    initialise(torch, asked)
    keras = make_learner(study(model={"framework": "keras"}), feature_shape=(4, 8, 8), files={})
    keras.load(torch.parameters())
    np.testing.assert_allclose(keras.predict(rows), torch.predict(rows), rtol=1e-5)


def test_what_cannot_be_is_a_fault_with_a_remedy(tmp_path: Path) -> None:
    def places(asked: Study) -> dict[str, str]:
        return {fault.place: fault.remedy for fault in check(asked, tmp_path, SystemClock())}

    assert places(study()) == {}
    assert "cnn" in places(study(model={"name": "mlp", "options": {}}))["cohort.features"]
    private = {"differential_privacy": {"noise_multiplier": 1.0, "delta": 1e-4, "clip_norm": 0.5, "sampling_rate": 0.5}}
    assert "range" in places(study(privacy=private))["cohort.standardise"]


def test_differential_privacy_takes_columns_in_a_stated_range(tmp_path: Path) -> None:
    """One step in which all are drawn: the gradients of the head for the columns are among those that are clipped, each at most clip_norm."""
    terms = {"noise_multiplier": 1e-9, "delta": 1e-4, "clip_norm": 0.5, "sampling_rate": 1.0}
    asked = study(
        cohort={"features": [{"name": "age", "minimum": -50, "maximum": 150}, COLUMNS[1]], "standardise": "range", "minimum_patients": 60},
        training={"learning_rate": 1.0, "optimiser": "sgd", "batch_size": None, "local_epochs": None, "local_steps": 1},
        evaluation={"held_out": 0},
        privacy={"differential_privacy": terms},
    )
    assert check(asked, tmp_path, SystemClock()) == []
    learner = make_learner(asked, feature_shape=(4, 8, 8), files={})
    initialise(learner, asked)
    task = Task(id="t", study="0" * 64, site="north", stage="train", round_number=1)
    received = {"model": learner.parameters()}
    moved = open_performer(asked, table(0, rows=60), site="north", files={}).perform(task, received, {}).sums["difference"]
    assert np.all(np.abs(np.asarray(moved["head.weight"])[0, 8:]) > 0)
    assert np.sqrt(sum(float((np.asarray(leaf) ** 2).sum()) for leaf in moved.values())) / 60 <= 0.5 + 1e-6


def test_the_contract_looks_at_images_and_at_columns() -> None:
    good = table(0)
    assert all(found.passed for found in checks(study(), good, MACHINE))
    ages = np.where(np.arange(120) < 30, np.nan, good.columns["age"].values)
    failed = {
        found.name for found in checks(study(), Table({**good.columns, "age": Column("number", ages)}, good.patient), MACHINE) if not found.passed
    }
    assert failed == {"missing"}
    without = Table({name: column for name, column in good.columns.items() if name != "smoker"}, good.patient)
    assert {found.name for found in checks(study(), without, MACHINE) if not found.passed} == {"columns"}


def test_a_row_with_a_missing_column_takes_its_image_along() -> None:
    good = table(0)
    ages = np.where(np.arange(120) < 30, np.nan, good.columns["age"].values)
    asked = study(cohort={"missing": "drop"})
    whole = design(asked.cohort, Table({**good.columns, "age": Column("number", ages)}, good.patient))
    rows = complete(whole, asked.cohort, own_moments(whole))
    np.testing.assert_allclose(np.asarray(rows.features)[:, 0] * 255, good.columns["xray"].values[30:, 0], atol=1e-4)


def test_a_hospital_reads_that_both_are_used_and_what_leaves() -> None:
    assert [str(line).split(" (")[0] for line in reads(study())][1:4] == ["age", "smoker", "xray"]
    assert any("of each column how many values" in str(line) for line in what_leaves(study()))
    assert not any("of each column" in str(line) for line in what_leaves(study(cohort={"features": None})))


def test_made_up_patients_and_a_hospital_left_out_go_through_it() -> None:
    asked = study(method={"rounds": 1}, cohort={"minimum_patients": 1})
    first = np.arange(60)
    few = {
        site: Table({name: column.taken(first) for name, column in made.columns.items()}, made.patient[first])
        for site, made in made_up_patients(asked).items()
    }
    left = leave_one_out(asked, few)
    assert [one.rows for one in left.sites] == [60, 60, 60]


def test_an_index_of_images_has_the_columns_too_and_new_patients_are_told_from_it(tmp_path: Path) -> None:
    made, asked = table(1, rows=20), study()
    for row, pixels in enumerate(made.columns["xray"].values):
        Picture.fromarray(pixels[0]).save(tmp_path / f"{row}.png")
    smoker = made.columns["smoker"]
    told = {"age": made.columns["age"].values, "smoker": np.array(smoker.categories)[smoker.values]}
    frame = pd.DataFrame({"xray": [f"{row}.png" for row in range(20)], **told})
    frame.assign(ill=made.columns["ill"].values).to_csv(tmp_path / "index.csv", index=False)
    frame.to_csv(tmp_path / "new.csv", index=False)
    read = Reading(asked, None, None).connector(tmp_path / "index.csv", "north").read()
    moments = own_moments(design(asked.cohort, made))
    rows = complete(design(asked.cohort, read), asked.cohort, moments)
    np.testing.assert_allclose(np.asarray(rows.features), np.asarray(complete(design(asked.cohort, made), asked.cohort, moments).features), rtol=1e-5)
    learner = make_learner(asked, feature_shape=(4, 8, 8), files={})
    initialise(learner, asked)
    category = ColumnMapping(kind="category", categories=("never", "past", "now"))
    mapping = DataMapping(columns={"xray": ColumnMapping(kind="image"), "age": ColumnMapping(), "smoker": category})
    found = predict(asked, learner.parameters(), moments, read_features(asked, tmp_path / "new.csv", mapping))
    np.testing.assert_allclose(found[:, 0], learner.predict(rows), rtol=1e-5)
