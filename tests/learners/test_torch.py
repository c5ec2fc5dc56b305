"""torch against numpy and against torch's own loop; what only torch has: optimisers, buffers, half precision, devices."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aimer2.core.dataset import Samples
from aimer2.core.errors import BadData, BadModel, NotAvailable
from aimer2.core.study import Target, Training
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.learners.torch import TorchLearner
from aimer2.models import single_layer
from aimer2.models.linear import Logistic, Multinomial
from aimer2.models.options import LinearOptions

TARGETS = {
    "binary": Target(name="y"),
    "multiclass": Target(name="y", kind="multiclass", categories=("a", "b", "c")),
    "regression": Target(name="y", kind="regression"),
}


def recipe(kind: str = "binary", features: int = 4, **training: Any) -> Recipe:
    return Recipe(Training(**training), TARGETS[kind], 10, (features,), ())


def learner(build: Callable[[], nn.Module], kind: str = "binary", features: int = 4, **training: Any) -> TorchLearner:
    return TorchLearner(build, recipe(kind, features, **training), "cpu")


def drawn(rows: int = 40, classes: int = 2) -> Samples:
    rng = np.random.default_rng(0)
    return Samples(rng.normal(size=(rows, 4)), rng.integers(0, classes, rows))


def fit(trained: Any, data: Samples, steps: int = 12, batch_size: int | None = 16) -> float:
    return float(trained.fit(data, steps=steps, batch_size=batch_size, round_number=1, rng=np.random.default_rng(7)))


def test_logistic_regression_in_batches_is_that_of_numpy() -> None:
    data, training = drawn(), {"learning_rate": 0.5, "momentum": 0.8, "weight_decay": 0.02}
    reference = NumpyLearner(lambda: Logistic(4), recipe(**training))
    mine = TorchLearner(lambda: single_layer.build((4,), 1, LinearOptions()), recipe(**training), "cpu")
    losses = [fit(each, data, steps=60) for each in (reference, mine)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    np.testing.assert_allclose(mine.parameters()["weight"][0], reference.parameters()["coefficients"], atol=1e-5)
    np.testing.assert_allclose(mine.parameters()["bias"], reference.parameters()["intercept"], atol=1e-5)
    np.testing.assert_allclose(mine.predict(data), reference.predict(data), atol=1e-5)


def test_multinomial_regression_is_that_of_numpy() -> None:
    data = drawn(classes=3)
    reference = NumpyLearner(lambda: Multinomial(4, 3), recipe("multiclass", learning_rate=0.5))
    mine = TorchLearner(lambda: single_layer.build((4,), 3, LinearOptions()), recipe("multiclass", learning_rate=0.5), "cpu")
    for each in (reference, mine):
        fit(each, data, steps=60, batch_size=None)
    np.testing.assert_allclose(mine.parameters()["weight"].T, reference.parameters()["coefficients"], atol=1e-5)
    np.testing.assert_allclose(mine.evaluate(data)["loss"], reference.evaluate(data)["loss"], rtol=1e-5)


OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_optimiser_takes_the_steps_of_a_bare_torch_loop(name: str) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    data = drawn()
    mine = learner(build, optimiser=name, learning_rate=0.05, weight_decay=0.1)
    bare = build()
    bare.load_state_dict({key: torch.tensor(leaf) for key, leaf in mine.parameters().items()})
    optimiser = OPTIMISERS[name](bare.parameters())
    features, targets = torch.tensor(data.features, dtype=torch.float32), torch.tensor(data.targets, dtype=torch.float32)
    for _ in range(9):
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(bare(features).squeeze(1), targets).backward()
        optimiser.step()
    fit(mine, data, steps=9, batch_size=None)
    for key, parameter in bare.named_parameters():
        np.testing.assert_array_equal(mine.parameters()[key], parameter.detach().numpy())


def test_the_optimiser_keeps_nothing_between_rounds() -> None:
    data = drawn()
    mine = learner(lambda: nn.Linear(4, 1), optimiser="adam")
    start = mine.parameters()
    fit(mine, data)
    first = mine.parameters()
    mine.load(start)
    fit(mine, data)
    assert all(np.array_equal(first[name], leaf) for name, leaf in mine.parameters().items())


def test_integer_buffers_stay_and_start_anew_with_each_load() -> None:
    mine = learner(lambda: nn.Sequential(nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 1)))  # type: ignore[arg-type]
    assert "0.num_batches_tracked" not in mine.parameters()
    start, data = mine.parameters(), drawn()
    fit(mine, data)
    once = mine.parameters()
    mine.load(start)
    fit(mine, data)
    # momentum=None averages over all batches counted so far: a count that went on would weigh the new ones less
    assert np.array_equal(mine.parameters()["0.running_mean"], once["0.running_mean"])


def test_constants_that_the_module_does_not_save_do_not_travel() -> None:
    class Positioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("constant", torch.ones(4), persistent=False)
            self.head = nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.head(x + self.constant)
            return scores

    assert learner(Positioned).parameters().keys() == {"head.weight", "head.bias"}


def test_tied_weights_travel_once_and_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.head(self.two(self.one(x)))
            return scores

    mine = learner(Tied)
    assert mine.parameters().keys() == {"one.weight", "one.bias", "two.bias", "head.weight", "head.bias"}
    mine.load({name: leaf + 1 for name, leaf in mine.parameters().items()})
    fit(mine, drawn())
    module: Any = mine._module
    assert module.one.weight is module.two.weight


def test_frozen_layers_keep_their_weights_and_have_no_gradients() -> None:
    def build() -> nn.Module:
        module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
        module[0].requires_grad_(False)
        return module

    mine, seen = learner(build), set()
    before = mine.parameters()

    def look(parameters: Any, gradients: Any) -> Any:
        seen.update(parameters.keys() | gradients.keys())
        return gradients

    mine.fit(drawn(), steps=2, batch_size=None, round_number=1, rng=np.random.default_rng(0), correction=look)
    after = mine.parameters()
    assert seen == {"1.weight", "1.bias"}
    assert np.array_equal(before["0.weight"], after["0.weight"])
    assert not np.array_equal(before["1.weight"], after["1.weight"])


def test_a_weight_that_a_batch_does_not_use_is_still_corrected() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 1), nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.used(x)
            return scores

    mine = learner(Idle, learning_rate=0.5)
    before = mine.parameters()
    mine.fit(
        drawn(),
        steps=1,
        batch_size=None,
        round_number=1,
        rng=np.random.default_rng(0),
        correction=lambda parameters, gradients: {name: gradient + 1 for name, gradient in gradients.items()},
    )
    np.testing.assert_allclose(mine.parameters()["idle.weight"], before["idle.weight"] - 0.5, rtol=1e-6)


def test_dropout_repeats_whatever_torch_drew_before() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 1))

    results = []
    for drawn_before in (0, 13):
        mine = learner(build)
        torch.rand(drawn_before)
        fit(mine, drawn())
        results.append(mine.parameters())
    assert all(np.array_equal(results[0][name], leaf) for name, leaf in results[1].items())
    assert np.array_equal(mine.predict(drawn()), mine.predict(drawn()))


def test_mixed_precision_trains_close_to_full_and_predicts_in_full() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    full, mixed = learner(build), learner(build, mixed_precision=True)
    mixed.load(full.parameters())
    assert np.array_equal(full.predict(drawn()), mixed.predict(drawn()))
    losses = [fit(each, drawn(), steps=30) for each in (full, mixed)]
    assert losses[0] != losses[1], "nothing was computed in half precision"
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert all(leaf.dtype == np.float32 for leaf in mixed.parameters().values())


def test_a_float64_module_trains_in_float64() -> None:
    data = Samples(drawn().features + 1e-12, drawn().targets)
    mine = learner(lambda: nn.Linear(4, 1).double())
    reference = NumpyLearner(lambda: Logistic(4), recipe())
    start = mine.parameters()
    reference.load({"coefficients": start["weight"][0], "intercept": start["bias"]})
    for each in (mine, reference):
        fit(each, data, steps=20, batch_size=None)
    np.testing.assert_allclose(mine.parameters()["weight"][0], reference.parameters()["coefficients"], rtol=1e-12)


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (lambda: nn.Linear(4, 2), "binary"),
        (lambda: nn.Linear(4, 2), "multiclass"),
        (lambda: nn.Linear(4, 3), "regression"),
        (lambda: nn.LSTM(4, 1), "binary"),
        (lambda: nn.Linear(4, 1).half(), "binary"),
        (lambda: "a model", "binary"),
    ],
    ids=["two-logits", "too-few-classes", "too-many", "tuple", "half", "no-module"],
)
def test_modules_of_a_wrong_form_are_refused_before_any_data(build: Any, kind: str) -> None:
    with pytest.raises(BadModel):
        learner(build, kind)


def test_batch_normalisation_of_single_rows_is_refused() -> None:
    mine = learner(lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)))
    with pytest.raises(BadData, match="at least 2"):
        fit(mine, drawn(), batch_size=1)


def test_a_chunk_more_or_less_changes_no_score() -> None:
    wide = 1 << 18  # four rows a chunk
    mine = TorchLearner(lambda: nn.Linear(wide, 1), Recipe(Training(), TARGETS["binary"], 1, (wide,), ("auc",)), "cpu")
    rng = np.random.default_rng(0)
    data = Samples(rng.normal(size=(9, wide)).astype(np.float32), rng.integers(0, 2, 9))
    with torch.inference_mode():
        expected = torch.sigmoid(mine._module(torch.from_numpy(data.features)).squeeze(1).double()).numpy()
    np.testing.assert_allclose(mine.predict(data), expected, atol=1e-5)
    assert mine.evaluate(data)["count"] == [9]


def test_training_data_are_converted_once_and_let_go() -> None:
    mine, data = learner(lambda: nn.Linear(4, 1)), drawn()
    fit(mine, data)
    first: Any = mine._fed
    fit(mine, data)
    assert mine._fed is first
    fit(mine, drawn(8))
    features = weakref.ref(data.features)
    del data, first
    assert features() is None


def test_a_device_that_is_not_there_is_not_available() -> None:
    with pytest.raises(NotAvailable, match="no device"):
        TorchLearner(lambda: nn.Linear(4, 1), recipe(), "quantum")
    if not torch.cuda.is_available():
        with pytest.raises(NotAvailable, match="GPU"):
            TorchLearner(lambda: nn.Linear(4, 1), recipe(), "cuda")


@pytest.mark.gpu
def test_a_gpu_trains_what_the_cpu_trains_and_the_same_bits_twice() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    data, trained = drawn(), []
    for device in ("cpu", "cuda", "cuda"):
        mine = TorchLearner(build, recipe(), device)
        mine.initialise(np.random.default_rng(1))
        fit(mine, data)
        trained.append(mine.parameters())
    for name in trained[0]:
        np.testing.assert_allclose(trained[0][name], trained[1][name], atol=1e-4)
        np.testing.assert_array_equal(trained[1][name], trained[2][name])


def test_a_study_in_another_process_starts_from_the_same_weights() -> None:
    program = (
        "import numpy as np, torch; from torch import nn; from aimer2.core.study import *; from aimer2.learners.recipe import Recipe;"
        "from aimer2.learners.torch import TorchLearner; torch.rand(5);"
        "l = TorchLearner(lambda: nn.Linear(4, 1), Recipe(Training(), Target(name='y'), 1, (4,)), 'cpu'); l.initialise(np.random.default_rng(3));"
        "print(l.parameters()['weight'].tobytes().hex())"
    )
    mine = learner(lambda: nn.Linear(4, 1))
    mine.initialise(np.random.default_rng(3))
    other = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    assert other == mine.parameters()["weight"].tobytes().hex()
