from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
import torch

from aimer2.core.errors import BadModel
from aimer2.models import catalogue

EVERY = [(framework, name) for framework in ("numpy", "torch", "keras", "sklearn") for name in catalogue.available(framework)]
CLASSES = {"regression": 1, "binary": 2, "multiclass": 4}


def test_the_names_a_study_can_use() -> None:
    assert set(catalogue.available("torch")) == {"linear", "logistic", "mlp", "cnn", "unet"}
    assert set(catalogue.available("keras")) == set(catalogue.available("torch")) - {"unet"}
    assert set(catalogue.available("numpy")) == {"linear", "logistic", "multinomial"}
    assert set(catalogue.available("sklearn")) == {"linear", "logistic", "svm", "perceptron"}


@pytest.mark.parametrize(("framework", "name"), EVERY)
def test_the_table_agrees_with_the_modules(framework: str, name: str, request: pytest.FixtureRequest) -> None:
    if framework == "keras":
        request.getfixturevalue("tensorflow")
        # it sets TensorFlow's threads, which hold from the first computation
        importlib.import_module("aimer2.learners.keras")
    entry = catalogue._MODELS[framework][name]
    builder = getattr(importlib.import_module(f"aimer2.models.{entry.module}"), entry.builder)
    assert list(inspect.signature(builder).parameters) == ["feature_shape", "outputs", "options", *(["columns"] if entry.joins else [])]
    assert inspect.get_annotations(builder, eval_str=True)["options"] is catalogue.options(framework, name)
    shape = (1, 16, 16) if name == "cnn" else (5,)
    for target, classes in CLASSES.items():
        if target not in entry.targets:
            assert catalogue.faults(framework, name, classes, {})
            continue
        model = catalogue.build(framework, name, shape, classes, {})
        if framework == "torch":
            with torch.inference_mode():
                assert model(torch.zeros(2, *shape)).shape == (2, classes if classes > 2 else 1)
        if framework == "keras":
            assert model.output_shape == (None, classes if classes > 2 else 1)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("mlp", {"depth": 3}, "valid are hidden, activation, dropout, batch_norm"),
        ("mlp", {"dropout": 1.0}, "model.options.dropout"),
        ("mlp", {"hidden": [0]}, r"model.options.hidden"),
        ("mlp", {"activation": "magic"}, "model.options.activation"),
        ("cnn", {"channels": []}, "model.options.channels"),
        ("logistic", {"hidden": [3]}, "valid are intercept"),
        ("forest", {}, "linear, logistic, mlp, cnn"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_valid(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadModel, match=said):
        catalogue.build("torch", name, (5,), 2, options)


def test_every_fault_is_found_at_once() -> None:
    places = [fault.place for fault in catalogue.faults("torch", "logistic", 1, {"depth": 1, "intercept": "perhaps"})]
    assert sorted(places) == ["model.name", "model.options.depth", "model.options.intercept"]


@pytest.mark.parametrize("shape", [(5,), (8, 8), (1, 4, 4)])
def test_a_cnn_needs_images_large_enough(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadModel):
        catalogue.build("torch", "cnn", shape, 2, {})


@pytest.mark.parametrize(("framework", "name"), [("torch", "mlp"), ("torch", "logistic")])
def test_tables_are_what_other_models_make_of_images(framework: str, name: str) -> None:
    model = catalogue.build(framework, name, (2, 3, 4), 2, {})
    assert model(torch.zeros(5, 2, 3, 4)).shape == (5, 1)


def test_an_mlp_without_hidden_layers_is_one_layer() -> None:
    assert [tuple(p.shape) for p in catalogue.build("torch", "mlp", (5,), 2, {"hidden": ()}).parameters()] == [(1, 5), (1,)]


def test_options_reach_the_modules() -> None:
    mlp = catalogue.build("torch", "mlp", (5,), 3, {"hidden": (7,), "activation": "tanh", "dropout": 0.25, "batch_norm": True})
    assert [type(layer).__name__ for layer in mlp] == ["Linear", "BatchNorm1d", "Tanh", "Dropout", "Linear"]
    cnn = catalogue.build("torch", "cnn", (3, 8, 8), 2, {"channels": (6, 12), "dropout": 0.5})
    assert [(n.num_groups, n.num_channels) for n in cnn.modules() if isinstance(n, torch.nn.GroupNorm)] == [(2, 6), (4, 12)]
    assert cnn.dropout.p == 0.5
    assert catalogue.build("torch", "logistic", (5,), 2, {"intercept": False}).bias is None


def test_convex_models_start_from_zeros_and_deep_ones_do_not() -> None:
    zero = catalogue.build("torch", "logistic", (5,), 2, {})
    assert all(not parameter.any() for parameter in zero.parameters())
    assert all(parameter.any() for parameter in catalogue.build("torch", "mlp", (5,), 2, {}).parameters())


def test_no_ready_made_model_normalises_by_the_batch_unless_asked() -> None:
    for name in ("mlp", "cnn"):
        assert not list(catalogue.build("torch", name, (1, 8, 8), 2, {}).buffers())


@pytest.mark.parametrize(
    ("kind", "classes", "name", "outputs"),
    [
        ("binary", 2, "mlp", 1),
        ("multilabel", 2, "mlp", 2),
        ("multilabel", 2, "logistic", 2),
        ("multilabel", 5, "logistic", 5),
        ("survival", 1, "linear", 1),
        ("survival", 2, "linear", 2),
        ("survival", 7, "mlp", 7),
    ],
)
def test_two_labels_or_intervals_are_two_outputs_and_two_classes_one(kind: str, classes: int, name: str, outputs: int) -> None:
    model = catalogue.build("torch", name, (5,), classes, {}, kind)
    with torch.inference_mode():
        assert model(torch.zeros(3, 5)).shape == (3, outputs)
