"""DP-SGD by its definition: what one patient can change, where it equals plain training, how large its noise is, who is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aimer2.core.dataset import Samples, Shielded
from aimer2.core.errors import BadData, BadInput, BadModel
from aimer2.core.random import SecureBytes
from aimer2.core.study import Target, Training
from aimer2.learners.recipe import Recipe
from aimer2.learners.records import Records
from aimer2.learners.torch import TorchLearner
from aimer2.learners.torch_private import PrivateTorchLearner
from aimer2.models import cnn, mlp, single_layer
from aimer2.models.options import CnnOptions, LinearOptions, MlpOptions
from aimer2.privacy.terms import Terms

KINDS = {
    "binary": Target(name="y"),
    "multiclass": Target(name="y", kind="multiclass", categories=("a", "b", "c")),
    "regression": Target(name="y", kind="regression"),
}
IMAGE = (1, 8, 8)


def terms(**changes: Any) -> Terms:
    usual = {"sampling_rate": 1.0, "noise_multiplier": 0.0, "clip_norm": math.inf, "delta": 1e-5, "local_steps": 1, "rounds": 5}
    return Terms(**(usual | {"evaluation_noise": 5.0, "patients": 20} | changes))


def recipe(kind: str = "binary", shape: tuple[int, ...] = (4,), **training: Any) -> Recipe:
    return Recipe(Training(**training), KINDS[kind], 5, shape, ("accuracy", "auc") if kind == "binary" else ())


def outputs(kind: str) -> int:
    return 3 if kind == "multiclass" else 1


BUILDS: dict[str, tuple[Callable[[str], nn.Module], tuple[int, ...]]] = {
    "single layer": (lambda kind: single_layer.build((4,), outputs(kind), LinearOptions()), (4,)),
    "mlp": (lambda kind: mlp.build((4,), outputs(kind), MlpOptions(hidden=(8,), activation="tanh")), (4,)),
    "cnn": (lambda kind: cnn.build(IMAGE, outputs(kind), CnnOptions(channels=(8, 8))), IMAGE),
}


def drawn(shape: tuple[int, ...] = (4,), kind: str = "binary", rows: int = 20, patients: list[int] | None = None, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=rows) if kind == "regression" else rng.integers(0, 3 if kind == "multiclass" else 2, rows)
    return Samples(rng.normal(size=(rows, *shape)) * 3, targets, None if patients is None else np.array(patients, np.uint64))


def private(model: str = "mlp", kind: str = "binary", asked: Terms | None = None, **training: Any) -> PrivateTorchLearner:
    build, shape = BUILDS[model]
    return PrivateTorchLearner(lambda: build(kind), recipe(kind, shape, **training), "cpu", asked or terms(), SecureBytes(bytes(32)))


def plain(model: str = "mlp", kind: str = "binary", **training: Any) -> TorchLearner:
    build, shape = BUILDS[model]
    return TorchLearner(lambda: build(kind), recipe(kind, shape, **training), "cpu")


def fit(learner: TorchLearner, data: Any, steps: int = 1, correction: Any = None) -> dict[str, np.ndarray]:
    learner.initialise(np.random.default_rng(3))
    learner.fit(data, steps=steps, batch_size=None, round_number=1, rng=np.random.default_rng(7), correction=correction)
    return dict(learner.parameters())


def summed(model: str, data: Samples, clip_norm: float, kind: str = "binary") -> np.ndarray:
    """The sum of clipped gradients, by way of one step of gradient descent at rate 1 of a site of size 1."""
    learner = private(model, kind, terms(clip_norm=clip_norm, patients=1), learning_rate=1.0)
    learner.initialise(np.random.default_rng(3))
    before = learner.parameters()
    learner.fit(data, steps=1, batch_size=None, round_number=1, rng=np.random.default_rng(7))
    after = learner.parameters()
    return np.concatenate([(before[name].astype(np.float64) - after[name]).ravel() for name in before])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", BUILDS)
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_with_everybody_drawn_no_noise_and_no_clipping_it_is_plain_training(model: str, kind: str, optimiser: str) -> None:
    data, training = drawn(BUILDS[model][1], kind), {"optimiser": optimiser, "learning_rate": 0.05, "weight_decay": 0.01}
    reference = fit(plain(model, kind, **training), data, 3)
    mine = fit(private(model, kind, terms(local_steps=3), **training), data, 3)
    for name, leaf in reference.items():
        np.testing.assert_allclose(mine[name], leaf, atol=2e-5, err_msg=name)


def test_a_correction_comes_after_the_noise_as_in_plain_training() -> None:
    def pull(parameters: Any, gradients: Any) -> Any:
        return {name: gradient + 0.5 * parameters[name] for name, gradient in gradients.items()}

    reference = fit(plain(), drawn(), 2, pull)
    mine = fit(private(asked=terms(local_steps=2)), drawn(), 2, pull)
    for name, leaf in reference.items():
        np.testing.assert_allclose(mine[name], leaf, atol=1e-5)


@pytest.mark.parametrize("model", BUILDS)
@pytest.mark.parametrize(("patients", "spared"), [(None, 1 << 14), (None, 1), ([0] * 5 + list(range(1, 16)), 1)])
def test_clipped_gradients_are_those_of_each_patient_alone(
    model: str, patients: list[int] | None, spared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle: a plain gradient per patient, of the mean over the patient's rows, shortened by hand. ``spared`` 1: ghost clipping of every
    linear layer."""
    monkeypatch.setattr("aimer2.learners.torch_private.SPARED", spared)
    data, clip_norm = drawn(BUILDS[model][1], patients=patients), 0.3
    whose = np.arange(20) if patients is None else np.array(patients)
    expected = np.zeros(1)
    for patient in np.unique(whose):
        alone = Samples(*data.batch(np.flatnonzero(whose == patient)))
        learner = plain(model, learning_rate=1.0)
        learner.initialise(np.random.default_rng(3))
        before = learner.parameters()
        learner.fit(alone, steps=1, batch_size=None, round_number=1, rng=np.random.default_rng(7))
        after = learner.parameters()
        gradient = np.concatenate([(before[name].astype(np.float64) - after[name]).ravel() for name in before])
        expected = expected + gradient * min(1.0, clip_norm / np.linalg.norm(gradient))
    np.testing.assert_allclose(summed(model, data, clip_norm), expected, atol=2e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 6), clip_norm=st.sampled_from([1e-3, 0.1, 1.0, 10.0]), size=st.sampled_from([1.0, 1e3, 1e6]))
def test_a_patient_with_any_number_of_rows_moves_the_sum_by_at_most_the_clip_norm(seed: int, rows: int, clip_norm: float, size: float) -> None:
    others, own = drawn(rows=8, patients=list(range(8)), seed=seed), drawn(rows=rows, seed=seed + 1)
    features = np.concatenate([others.features, own.features * size])
    assert others.patients is not None
    whole = Samples(features, np.concatenate([others.targets, own.targets]), np.concatenate([others.patients, np.full(rows, 99, np.uint64)]))
    moved = summed("mlp", whole, clip_norm) - summed("mlp", others, clip_norm)
    assert np.linalg.norm(moved) <= clip_norm * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("spared", [1, 1 << 14])
def test_a_patient_whose_gradient_is_not_finite_changes_nothing_and_stops_nobody(spared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimer2.learners.torch_private.SPARED", spared)
    for model, value in (("single layer", np.finfo(np.float32).max), ("single layer", np.nan), ("mlp", np.nan)):
        clear, broken = drawn(), drawn()
        broken.features[4] = value
        without = Samples(np.delete(clear.features, 4, axis=0), np.delete(clear.targets, 4))
        np.testing.assert_allclose(summed(model, broken, 1.0), summed(model, without, 1.0), atol=1e-5)
        alone = Samples(broken.features[4:5], broken.targets[4:5])
        assert not summed(model, alone, 1.0).any()


def test_parts_of_a_large_draw_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for patients in (None, [0] * 7 + [1] * 3 + list(range(2, 12))):
        data = drawn(patients=patients)
        whole = summed("mlp", data, 0.5)
        with monkeypatch.context() as small:
            small.setattr("aimer2.learners.torch_private.ROW_VALUES", 12)
            np.testing.assert_allclose(summed("mlp", data, 0.5), whole, atol=1e-5)


def test_the_noise_has_the_stated_deviation_over_the_public_size() -> None:
    data = Samples(np.zeros((1, 4)), np.zeros(1))
    learner = private("mlp", asked=terms(noise_multiplier=2.0, clip_norm=0.5, sampling_rate=1e-9, patients=4 * 10**9), learning_rate=1.0)
    learner.initialise(np.random.default_rng(3))
    moves = []
    for _ in range(60):
        before = learner.parameters()
        learner.fit(data, steps=1, batch_size=None, round_number=1, rng=np.random.default_rng(7))
        moves.append(np.concatenate([(learner.parameters()[name] - leaf).ravel() for name, leaf in before.items()]))
    measured = np.concatenate(moves)
    # σ·C/(q·N) = 2 · 0.5 / 4, of an empty draw too; the deviation of so many is known to 2 %.
    assert measured.std() == pytest.approx(0.25, rel=0.05)
    assert abs(measured.mean()) < 4 * 0.25 / math.sqrt(len(measured))
    assert len(np.unique(measured)) > 0.9 * len(measured)


def test_noise_and_draw_do_not_come_from_the_seed() -> None:
    build, shape = BUILDS["mlp"]
    once, twice = (
        fit(PrivateTorchLearner(lambda: build("binary"), recipe("binary", shape), "cpu", terms(noise_multiplier=1.0, clip_norm=1.0)), drawn())
        for _ in range(2)
    )
    assert all(not np.array_equal(once[name], leaf) for name, leaf in twice.items())


def test_each_patient_is_drawn_with_the_stated_chance_and_whole() -> None:
    records = Records.of(drawn(rows=30, patients=[number // 3 for number in range(30)]))
    source = SecureBytes()
    draws = np.array([records.draw(0.3, source) for _ in range(4000)])
    assert draws.shape == (4000, 10)
    assert draws.mean(axis=0) == pytest.approx(0.3, abs=0.04)
    correlations = np.corrcoef(draws.T) - np.eye(10)
    assert np.abs(correlations).max() < 0.08
    ((rows, owner),) = records.parts(np.arange(10) % 2 == 0, 1000)
    assert list(rows // 3) == [0, 0, 0, 2, 2, 2, 4, 4, 4, 6, 6, 6, 8, 8, 8]
    assert list(owner) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_a_method_sees_the_public_size_and_no_row() -> None:
    shielded = Shielded(drawn(), 100)
    assert len(shielded) == 100
    assert shielded.feature_shape == (4,)
    for look in (lambda: shielded.targets, lambda: shielded.batch(np.arange(2))):
        with pytest.raises(BadData):
            look()
    inside = fit(private(), drawn())
    assert all(np.array_equal(inside[name], leaf) for name, leaf in fit(private(), shielded).items())


def test_more_steps_than_are_accounted_for_are_refused() -> None:
    for steps in (1, 3):
        with pytest.raises(BadInput):
            fit(private(asked=terms(local_steps=2)), drawn(), steps)


def test_a_model_that_normalises_by_the_batch_is_refused_with_a_remedy() -> None:
    with pytest.raises(BadModel) as refused:
        PrivateTorchLearner(lambda: mlp.build((4,), 1, MlpOptions(batch_norm=True)), recipe(), "cpu", terms())
    assert "group" in refused.value.advice


def test_the_evaluation_is_of_noisy_counts_one_row_per_patient() -> None:
    learner = private(asked=terms(evaluation_noise=1e-9))
    data = drawn(rows=20, patients=[0] * 11 + list(range(1, 10)))
    told = learner.evaluate(data)
    assert told.keys() == {"confusion", "binned_scores", "count"}
    assert told["count"][0] == told["confusion"].sum() == 10
    assert "loss" not in told
    noisy = private(asked=terms(evaluation_noise=30.0)).evaluate(data)
    assert noisy["confusion"].tolist() != told["confusion"].tolist()
    with pytest.raises(BadInput):
        private(asked=terms(evaluation_noise=None)).evaluate(data)


def test_dropout_and_frozen_leaves_work_as_in_plain_training() -> None:
    learner = private("mlp", learning_rate=0.5)
    learner.initialise(np.random.default_rng(3))
    before = learner.parameters()
    first = min(before)
    learner.fit(drawn(), steps=1, batch_size=None, round_number=1, rng=np.random.default_rng(7), trainable=[first])
    after = learner.parameters()
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {first}
    build = lambda: mlp.build((4,), 1, MlpOptions(dropout=0.5))  # noqa: E731
    assert fit(PrivateTorchLearner(build, recipe(), "cpu", terms(clip_norm=1.0, noise_multiplier=1.0)), drawn())


def test_torch_keeps_no_gradient_of_a_single_patient_after_a_round() -> None:
    for patients in (None, [0] * 5 + list(range(1, 16))):
        learner = private("cnn")
        fit(learner, drawn(IMAGE, patients=patients))
        held = [value for p in learner._module.parameters() for value in (getattr(p, "grad_sample", None), getattr(p, "_norm_sample", None))]
        assert not any(isinstance(value, torch.Tensor) for value in held)
