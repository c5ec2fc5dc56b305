"""Early stopping, gradients in parts, several labels and times to an event through the learner."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aimer2.core.dataset import Samples
from aimer2.core.errors import BadData, BadModel
from aimer2.core.study import Target, Training
from aimer2.learners.batches import set_aside, validation
from aimer2.learners.recipe import Recipe
from aimer2.learners.torch import TorchLearner
from aimer2.metrics.figures import figures

TARGETS = {
    "binary": Target(name="y"),
    "multilabel": Target(name="y", kind="multilabel", labels=("a", "b")),
    "cox": Target(name="t", kind="survival", event="e"),
    "discrete": Target(name="t", kind="survival", event="e", intervals=(0.5, 1.0, 2.0)),
}


def recipe(kind: str = "binary", horizons: tuple[float, ...] = (), metrics: tuple[str, ...] = (), **training: Any) -> Recipe:
    return Recipe(Training(**training), TARGETS[kind], 10, (3,), metrics, horizons)


def drawn(kind: str = "binary", rows: int = 120, patients: int | None = None) -> Samples:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 3))
    whose = None if patients is None else rng.integers(0, patients, rows).astype(np.uint64)
    if kind == "binary":
        return Samples(x, (x[:, 0] + rng.normal(size=rows) > 0).astype(np.int64), whose)
    if kind == "multilabel":
        return Samples(x, (x[:, :2] + rng.normal(size=(rows, 2)) > 0).astype(np.int64), whose)
    time, censored = rng.exponential(np.exp(-x[:, 0])), rng.exponential(2, rows)
    return Samples(x, np.stack((np.minimum(time, censored), time <= censored), axis=1), whose)


def zeros(outputs: int = 1) -> nn.Module:
    module = nn.Linear(3, outputs)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def fit(mine: TorchLearner, data: Samples, steps: int = 20, batch_size: int | None = 16, **more: Any) -> float:
    return mine.fit(data, steps=steps, batch_size=batch_size, round_number=1, rng=np.random.default_rng(7), **more)


@pytest.mark.parametrize("kind", ["binary", "multilabel", "discrete"])
@pytest.mark.parametrize("parts", [2, 3, 40])
def test_gradients_in_parts_are_those_of_the_whole_batch(kind: str, parts: int) -> None:
    outputs, data = TARGETS[kind].outputs, drawn(kind)
    whole, divided = (TorchLearner(lambda: zeros(outputs), recipe(kind, **more), "cpu") for more in ({}, {"accumulation": parts}))
    losses = [fit(each, data) for each in (whole, divided)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, leaf in whole.parameters().items():
        np.testing.assert_allclose(divided.parameters()[name], leaf, atol=2e-6)


def test_parts_reach_the_model_one_at_a_time_and_none_has_a_single_row_under_batch_normalisation() -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x) if self.training else 0)
            scores: torch.Tensor = self.head(self.norm(x))
            return scores

    mine = TorchLearner(Counting, recipe(accumulation=4), "cpu")
    fit(mine, drawn(rows=18), steps=2, batch_size=9)
    assert [count for count in seen if count] == [3, 2, 2, 2, 3, 2, 2, 2]


def judged(mine: TorchLearner, data: Samples) -> float:
    """Loss on the validation part."""
    return mine._measured(set_aside(data, 0.25)[1], with_loss=True)[1]


def test_early_stopping_leaves_the_weights_that_did_best_on_rows_that_were_not_trained_on() -> None:
    data = drawn(patients=40)
    settings: dict[str, Any] = {"learning_rate": 3.0, "momentum": 0.8, "local_epochs": 30, "validation": 0.25}
    kept, _ = set_aside(data, 0.25)
    per_pass = -(-len(kept) // 16)
    plain, after = TorchLearner(zeros, recipe(**(settings | {"validation": None})), "cpu"), []
    for passes in range(1, 31):
        plain.load({name: np.zeros_like(leaf) for name, leaf in plain.parameters().items()})
        fit(plain, kept, steps=passes * per_pass)
        after.append((judged(plain, data), plain.parameters()))
    losses = [loss for loss, _ in after]
    best = next(
        number for number in range(30) if number + 3 >= 30 or min(losses[number + 1 : number + 4]) >= losses[number] == min(losses[: number + 1])
    )
    stopped = TorchLearner(zeros, recipe(**settings, patience=3), "cpu")
    fit(stopped, data, steps=30 * per_pass)
    assert best < 26
    for name, leaf in stopped.parameters().items():
        np.testing.assert_array_equal(leaf, after[best][1][name])


def test_at_least_one_pass_counts_however_bad() -> None:
    mine = TorchLearner(zeros, recipe(learning_rate=100.0, patience=1, local_epochs=5), "cpu")
    fit(mine, drawn())
    assert mine.parameters()["weight"].any()


def test_the_validation_part_holds_whole_patients_and_has_its_share() -> None:
    data = drawn(rows=2000, patients=500)
    kept, aside = set_aside(data, 0.2)
    assert kept.patients is not None and aside.patients is not None
    assert not set(kept.patients) & set(aside.patients)
    assert len(kept) + len(aside) == 2000
    assert len(aside) == pytest.approx(400, abs=80)
    # a patient's side does not hang on the others
    assert (validation(data.patients[::-1], 0.2)[::-1] == validation(data.patients, 0.2)).all()  # type: ignore[index, arg-type]


def test_too_few_patients_for_a_validation_part_are_refused() -> None:
    mine = TorchLearner(zeros, recipe(patience=2, local_epochs=5), "cpu")
    with pytest.raises(BadData, match="validation"):
        fit(mine, drawn(rows=30, patients=1))


def test_labels_are_learned_and_measured_each() -> None:
    data = drawn("multilabel", 400)
    mine = TorchLearner(lambda: zeros(2), recipe("multilabel", metrics=("auc_by_label",), learning_rate=1.0), "cpu")
    fit(mine, data, steps=100)
    assert mine.predict(data).shape == (400, 2)
    assert all((figure.value or 0) > 0.75 for figure in figures("multilabel", mine.evaluate(data), ["auc_by_label"]))
    p = mine.predict(data)
    entropy = -np.log(np.where(data.targets == 1, p, 1 - p)).mean()
    np.testing.assert_allclose(mine.evaluate(data)["loss"] / 400, entropy, rtol=1e-6)


def test_cox_regression_learns_the_risk_and_its_loss_is_of_all_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = drawn("cox", 400)
    mine = TorchLearner(zeros, recipe("cox", metrics=("concordance",), learning_rate=1.0), "cpu")
    fit(mine, data, steps=150, batch_size=None)
    weight = mine.parameters()["weight"][0]
    np.testing.assert_allclose(weight, [1, 0, 0], atol=0.25)
    (figure,) = figures("survival", mine.evaluate(data), ["concordance"])
    assert (figure.value or 0) > 0.7
    whole = mine.evaluate(data)["loss"]
    monkeypatch.setattr("aimer2.learners.torch.CHUNK", 30)
    np.testing.assert_allclose(mine.evaluate(data)["loss"], whole, rtol=1e-6)


def test_discrete_time_tells_survival_probabilities() -> None:
    data = drawn("discrete", 1500)
    names = ("concordance", "brier", "calibration_in_the_large")
    mine = TorchLearner(lambda: zeros(3), recipe("discrete", (1.0, 2.0), names, learning_rate=0.5), "cpu")
    fit(mine, data, steps=400, batch_size=None)
    alive = mine.predict(data)
    assert (np.diff(alive, axis=1) <= 0).all()
    assert ((alive > 0) & (alive < 1)).all()
    found = figures("survival", mine.evaluate(data), list(names), ("1", "2"))
    read = {figure.name: figure.value or 0.0 for figure in found}
    assert read["concordance"] > 0.7
    assert abs(read["calibration_in_the_large 1"]) < 0.03 and abs(read["calibration_in_the_large 2"]) < 0.03
    assert read["brier 1"] < 0.2


@pytest.mark.parametrize(("kind", "outputs"), [("multilabel", 1), ("multilabel", 3), ("cox", 2), ("discrete", 1)])
def test_a_model_of_the_wrong_width_is_refused_before_any_row_is_read(kind: str, outputs: int) -> None:
    with pytest.raises(BadModel, match=r"label|row|interval"):
        TorchLearner(lambda: zeros(outputs), recipe(kind), "cpu")


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("multilabel", np.zeros(4, int)),
        ("multilabel", np.full((4, 2), 2)),
        ("cox", np.zeros(4)),
        ("cox", np.array([[-1.0, 0]] * 4)),
        ("cox", np.array([[1.0, 0.5]] * 4)),
        ("cox", np.array([[np.nan, 0]] * 4)),
    ],
)
def test_targets_of_a_wrong_form_are_refused(kind: str, targets: Any) -> None:
    mine = TorchLearner(lambda: zeros(TARGETS[kind].outputs), recipe(kind), "cpu")
    with pytest.raises(BadData):
        fit(mine, Samples(np.zeros((4, 3)), targets))


@pytest.mark.parametrize("module", [lambda: zeros().requires_grad_(False), lambda: nn.Sequential(zeros(), nn.BatchNorm1d(1, affine=False))])
def test_where_nothing_learns_it_is_said(module: Any) -> None:
    """A model that is frozen whole, or of which a method trains a layer that has running means alone."""
    learner = TorchLearner(module, recipe(), "cpu")
    with pytest.raises(BadModel, match="learns"):
        fit(learner, drawn(), trainable={"1.running_mean", "1.running_var"})
