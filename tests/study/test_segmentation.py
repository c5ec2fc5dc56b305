"""A class for each pixel: masks in the snapshot, the loss, a U-Net that hospitals train together, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aimer2.algorithms.fedbn import FedBN
from aimer2.cli.made_up_patients import made_up_patients
from aimer2.client.leave_one_out import leave_one_out
from aimer2.client.simulate import simulate
from aimer2.connectors.mapping import DataMapping, apply
from aimer2.connectors.table import Column, Table, pseudonyms
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadData, BadModel, BadStudy
from aimer2.core.study import Image, Study
from aimer2.core.task import Task
from aimer2.learners.catalogue import make_learner
from aimer2.learners.torch import CHUNK
from aimer2.learners.torch_losses import overlap
from aimer2.metrics.figures import measure
from aimer2.models import catalogue
from aimer2.study.check import check
from aimer2.study.cohort import Moments, complete, design
from aimer2.study.images import Masks
from aimer2.study.pack import initialise
from aimer2.study.perform import open_performer
from aimer2.study.preflight import Environment, checks

KEY = bytes(range(32))
MACHINE = Environment({"torch": "2.13.0", "python": "3.11.9"}, disk_free=10 << 30, memory_available=8 << 30)


def study(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "cells",
        "question": "Which pixels belong to a bright cell?",
        "purpose": "testing",
        "ethics": "none needed: drawn images",
        "principal_investigator": "Test",
        "expires": "2090-01-01",
        "cohort": {
            "dataset": "smears",
            "image": {"name": "smear", "height": 12, "width": 12},
            "target": {"name": "cells", "kind": "segmentation", "categories": ["tissue", "cell"]},
        },
        "model": {"name": "unet", "options": {"channels": [8, 16]}},
        "training": {"optimiser": "adam", "learning_rate": 0.02, "batch_size": 8, "local_epochs": 2},
        "method": {"rounds": 4},
        "sites": {"minimum": 1},
    }
    for place, change in changes.items():
        fields[place] = {**fields.get(place, {}), **change}
    return Study(**fields)


def table(seed: int = 0, rows: int = 50, size: int = 12, categories: tuple[str, ...] = ("tissue", "cell")) -> Table:
    """Noise with a bright disc, which the mask shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    centres, radii = rng.uniform(3, size - 3, (rows, 2, 1, 1)), rng.uniform(2, 4, (rows, 1, 1))
    inside = ((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2 < radii**2).astype(np.uint8)
    pixels = (rng.integers(0, 100, inside.shape) + 100 * inside).astype(np.uint8)
    codes = np.array([categories.index("tissue"), categories.index("cell")], np.uint8)[inside]
    columns = {"smear": Column("image", pixels[:, None]), "cells": Column("mask", codes, categories)}
    return Table(columns, pseudonyms([f"{seed}-{row}" for row in range(rows)], KEY))


def test_hospitals_learn_a_unet_together() -> None:
    done = simulate(study(method={"rounds": 3}), {f"site-{n}": table(n) for n in range(3)})
    value = {figure.name: figure.value for figure in done.figures}
    assert {"dice", "iou", "dice_by_class tissue", "dice_by_class cell", "image_dice"} <= value.keys()
    assert (value["dice"] or 0) > 0.8
    assert value["dice"] == pytest.approx(value["dice_by_class cell"])


SEGMENTING = {"method": {"name": "fedbn", "rounds": 2}, "model": {"options": {"channels": [4, 8], "batch_norm": True}}}


def test_fedbn_leaves_the_normalisation_of_a_unet_at_each_hospital() -> None:
    """Of one task: what is sent has no leaf of a normalisation layer, and what the hospital keeps has all of them, moved."""
    asked = study(**SEGMENTING)
    learner = make_learner(asked, feature_shape=(1, 12, 12), files={})
    initialise(learner, asked)
    method = FedBN(rounds=2)
    received = method.broadcast(method.init(learner.parameters()))
    home = method.local_leaves(learner.parameters())
    # two convolutions at each of two levels on the way down, two on the way up, each with a normalisation of four leaves
    assert len(home) == 6 * 4 and {name.rsplit(".", 1)[1] for name in home} == {"weight", "bias", "running_mean", "running_var"}
    kept = []
    for number in range(2):
        memory: dict[str, Any] = {}
        task = Task(id="t", study="0" * 64, site=f"site-{number}", stage="train", round_number=1)
        performed = open_performer(asked, table(number), site=f"site-{number}", files={}).perform(task, received, memory)
        assert performed.sums["difference"].keys() == learner.parameters().keys() - home
        kept.append(memory["after"])
        assert kept[-1].keys() == home
        assert all(np.abs(np.asarray(kept[-1][name]) - learner.parameters()[name]).max() > 0 for name in home)
    assert all(not np.array_equal(kept[0][name], kept[1][name]) for name in home)


@pytest.mark.parametrize("method", ["fedbn", "fedper", "fedrep", "ditto", "local_fine_tuning"])
def test_hospitals_with_models_of_their_own_learn_a_unet(method: str) -> None:
    """The kept model finds the cells; layers that stay at home are in the common model as they were at the start."""
    parameters = {"fedrep": {"head_steps": 4}, "local_fine_tuning": {"fine_tuning_steps": 4}}.get(method, {})
    open_sums = {"secure_aggregation": False, "why_not_secure": "a test"}
    model = {"options": {"channels": [4, 8], "batch_norm": True}}
    asked = study(model=model, method={"name": method, "rounds": 2, "parameters": parameters}, privacy=open_sums)
    done = simulate(asked, {f"site-{n}": table(n) for n in range(2)})
    value = {figure.name: figure.value or 0.0 for figure in done.figures}
    assert value["kept dice"] > 0.7
    learner = make_learner(asked, feature_shape=(1, 12, 12), files={})
    initialise(learner, asked)
    home = {
        "fedbn": FedBN().local_leaves(learner.parameters()),
        "fedper": {"head.weight", "head.bias"},
        "fedrep": {"head.weight", "head.bias"},
    }.get(method, set())
    assert {name for name, leaf in learner.parameters().items() if np.array_equal(leaf, done.model[name])} == home


def test_sites_may_code_the_classes_differently_and_in_another_size() -> None:
    turned = table(categories=("cell", "tissue"))
    plain = np.asarray(design(study().cohort, table()).targets)
    np.testing.assert_array_equal(np.asarray(design(study().cohort, turned).targets), plain)
    coarse = design(study(cohort={"image": {"name": "smear", "height": 6, "width": 6, "resize": "stretch"}}).cohort, turned)
    assert coarse.targets.shape == (50, 6, 6) and coarse.images is not None and coarse.images.shape == (50, 1, 6, 6)
    np.testing.assert_array_equal(np.asarray(coarse.targets), plain[:, 1::2, 1::2])
    assert isinstance(coarse.targets, Masks) and coarse.targets.classes() == {0, 1}


def test_the_contract_looks_at_the_masks() -> None:
    def failed(rows: Table) -> Mapping[str, str]:
        return {found.name: found.finding for found in checks(study(), rows, MACHINE) if not found.passed}

    good = table()
    assert failed(good) == {}
    strange = Table({**good.columns, "cells": Column("mask", good.columns["cells"].values, ("tissue", "debris"))}, good.patient)
    assert "a category that the study does not list" in failed(strange)["categories"]
    small = Table({**good.columns, "cells": Column("mask", good.columns["cells"].values[:, :6, :6].copy(), ("tissue", "cell"))}, good.patient)
    assert "masks of 6×6, 'smear' images of 12×12" in failed(small)["images"]
    empty = Table({**good.columns, "cells": Column("mask", np.zeros((50, 12, 12), np.uint8), ("tissue", "cell"))}, good.patient)
    assert set(failed(empty)) == {"classes"}
    labels = Table({**good.columns, "cells": Column("category", np.zeros(50, np.int32), ("tissue", "cell"))}, good.patient)
    assert "is a category, the study asks for a mask" in failed(labels)["kinds"]


def test_the_loss_is_cross_entropy_and_dice_of_each_image() -> None:
    rng = np.random.default_rng(0)
    outputs, targets = torch.tensor(rng.normal(size=(3, 3, 4, 5))), torch.tensor(rng.integers(0, 3, (3, 4, 5)))
    likely = np.exp(outputs.numpy()) / np.exp(outputs.numpy()).sum(axis=1, keepdims=True)
    expected = []
    for p, t in zip(likely, targets.numpy(), strict=True):
        entropy = -np.mean([np.log(p[t[i, j], i, j]) * (1, 2, 3)[t[i, j]] for i in range(4) for j in range(5)])
        dice = [(2 * p[k][t == k].sum() + 1) / (p[k].sum() + (t == k).sum() + 1) for k in (1, 2)]
        expected.append(entropy + 1 - np.mean(dice))
    assert overlap(outputs, targets, "none", weights=(1.0, 2.0, 3.0)).numpy() == pytest.approx(np.array(expected))
    nothing = torch.zeros((1, 4, 4), dtype=torch.int64)
    sure = torch.stack([torch.full((1, 4, 4), 50.0), torch.full((1, 4, 4), -50.0)], dim=1)
    assert float(overlap(sure, nothing, "sum", weights=())) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (13, 10)])
def test_a_unet_gives_the_images_size_and_sees_beyond_a_pixel(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    unet = catalogue.build("torch", "unet", (1, *size), 3, {"channels": (4, 8, 8)}, "segmentation").eval()
    image = torch.randn((1, 1, *size), requires_grad=True)
    made = unet(image)
    assert made.shape == (1, 3, *size)
    made[0, 0, 4, 4].backward()
    assert image.grad is not None and float(image.grad[0, 0, 0, 0].abs()) > 0
    with pytest.raises(BadModel, match="at least 4×4 pixels"):
        catalogue.build("torch", "unet", (1, 3, 3), 3, {"channels": (4, 8, 8)}, "segmentation")


def test_measured_in_parts_it_is_measured_whole() -> None:
    """More images than are looked at together: 4,000 of 144 pixels and two classes are over a million numbers."""
    asked = study()
    learner = make_learner(asked, feature_shape=(1, 12, 12), files={})
    rows = complete(design(asked.cohort, table(rows=4_000)), asked.cohort, Moments(*np.empty((3, 0))))
    assert len(rows) * 2 * 12 * 12 > CHUNK
    scores, targets = learner.predict(rows), np.asarray(rows.targets)
    found = learner.evaluate(rows)
    expected = measure("segmentation", scores, targets, 0.0, asked.metrics)
    assert found["overlap"] == pytest.approx(expected["overlap"]) and found["count"] == expected["count"]


def test_early_stopping_and_leaving_a_hospital_out() -> None:
    stopped = study(training={"patience": 1, "local_epochs": 3}, method={"rounds": 1})
    tables = {f"site-{n}": table(n, rows=40) for n in range(3)}
    found = leave_one_out(stopped, tables)
    assert [one.rows for one in found.sites] == [40, 40, 40]
    made_up = made_up_patients(stopped)
    assert all(checks(stopped, rows, MACHINE)[0].passed for rows in made_up.values())


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"model": {"name": "cnn", "options": {}}}, "model.name"),
        ({"model": {"framework": "keras", "name": "cnn", "options": {}}}, "cohort.target.kind"),
        ({"model": {"framework": "numpy", "name": "logistic", "options": {}}}, "cohort.target.kind"),
        ({"cohort": {"image": None, "features": [{"name": "age"}]}}, "cohort.image"),
        ({"training": {"class_weights": [1.0, 2.0, 3.0]}}, "training.class_weights"),
        ({"model": {"options": {"channels": [4, 4, 4, 4, 4]}}}, "cohort.image"),
        ({"evaluation": {"metrics": ["auc"]}}, "evaluation.metrics"),
        (
            {"privacy": {"differential_privacy": {"noise_multiplier": 1.0, "delta": 1e-4, "clip_norm": 1.0, "sampling_rate": 0.5}}},
            "cohort.target.kind",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_site_is_asked(changes: dict[str, Any], place: str, tmp_path: Path) -> None:
    assert check(study(sites={"minimum": 3}), tmp_path, SystemClock()) == []
    assert place in {fault.place for fault in check(study(**changes), tmp_path, SystemClock())}


def test_pixels_have_two_classes_or_more() -> None:
    with pytest.raises(BadStudy, match="at least two categories"):
        study(cohort={"target": {"name": "cells", "kind": "segmentation"}})


def test_a_table_has_no_masks() -> None:
    mapping = DataMapping.model_validate({"columns": {"cells": {"kind": "mask", "categories": ["a", "b"]}}})
    with pytest.raises(BadData, match="no images"):
        apply(mapping, {"cells": np.array(["x.png"], object)}, split_key=KEY)
    with pytest.raises(BadData, match="infinite or of no category"):
        Table({"cells": Column("mask", np.full((1, 2, 2), 5, np.uint8), ("a", "b"))}, np.zeros(1, np.uint64))
    assert Image(name="x", height=3, width=4).size == "grey, 3×4"
