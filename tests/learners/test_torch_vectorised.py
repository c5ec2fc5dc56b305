"""Sites trained in one computation against the same sites one by one: in float64 nothing but rounding may differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aimer2.algorithms import catalogue
from aimer2.algorithms.fednova import FedNova
from aimer2.algorithms.parts import whole_model
from aimer2.algorithms.scaffold import Scaffold
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadData, BadModel, BadUpdate, NotAvailable
from aimer2.core.protocols import Learner, Local
from aimer2.core.random import stream
from aimer2.core.study import Target, Training
from aimer2.core.tree import Tree
from aimer2.learners.recipe import Recipe
from aimer2.learners.torch import TorchLearner
from aimer2.learners.torch_vectorised import VectorisedTorchLearner

ROWS = {"a": 3, "b": 29, "c": 20, "d": 18, "e": 16}
FEATURES = 4
METHODS = (
    *("ditto", "feddyn", "fednova", "fedper", "fedprox", "fedrep", "fedsgd", "frozen_backbone", "local_fine_tuning", "qfedavg", "scaffold"),
    "worst_group",
)
"""Those whose site halves differ: in what they correct, in which leaves they train, how often they fit, what they remember."""


def layers(outputs: int = 1) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, outputs)).double()


def recipe(target: Target | None = None, shape: tuple[int, ...] = (FEATURES,), **training: Any) -> Recipe:
    given = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.01, "schedule": "cosine"} | training
    return Recipe(Training(**given), target or Target(name="y"), 5, shape)


def rows(site: str, scale: float = 1.0) -> Samples:
    rng = stream(1, site)
    x = rng.normal(size=(ROWS[site], FEATURES)) * scale
    return Samples(x, (x[:, 0] + rng.normal(size=len(x)) > 0).astype(np.int64), groups=np.eye(2)[np.arange(len(x)) % 2])


def one_by_one(learner: TorchLearner, half: Callable[[Learner, str], Any]) -> dict[str, Any]:
    return {site: half(learner, site) for site in ROWS}


def at_once(learner: VectorisedTorchLearner, half: Callable[[Learner, str], Any]) -> dict[str, Any]:
    return dict(zip(ROWS, learner.abreast([partial(half, learner.learner(), site) for site in ROWS]), strict=True))


def both(build: Callable[[], nn.Module], how: Recipe, half: Callable[[Learner, str], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return one_by_one(TorchLearner(build, how, "cpu"), half), at_once(VectorisedTorchLearner(build, how, "cpu"), half)


def assert_alike(alone: Mapping[str, Any], together: Mapping[str, Any]) -> None:
    assert alone.keys() == together.keys()
    for name, expected in alone.items():
        if isinstance(expected, Mapping):
            assert_alike(expected, together[name])
        else:
            np.testing.assert_allclose(together[name], expected, rtol=1e-8, atol=1e-10)


def fitting(data: Mapping[str, Samples], *, epochs: int = 2, batch_size: int | None = 8, **more: Any) -> Callable[[Learner, str], Any]:
    """Two fits of so many passes each, the second from where the first has ended."""

    def half(learner: Learner, site: str) -> dict[str, Any]:
        rng, size = stream(2, site), len(data[site])
        steps = epochs * (1 if batch_size is None else -(-size // batch_size))
        learner.load(start)
        losses = [learner.fit(data[site], steps=steps, batch_size=batch_size, round_number=2, rng=rng, **more) for _ in range(2)]
        return {"weights": learner.parameters(), "losses": np.array(losses), "drawn": rng.random()}

    start = TorchLearner(layers, recipe(), "cpu").parameters()
    return half


@pytest.mark.parametrize("name", METHODS)
def test_every_method_sends_the_same(name: str) -> None:
    """Three rounds with what each site remembers; each half as the catalogue has it, with two passes over unequal rows in batches of 8."""
    chosen = {"fednova": FedNova(rounds=3, momentum=0.5, mu=0.1), "scaffold": Scaffold(rounds=3, option=1)}
    method: Any = chosen.get(name, catalogue.example(name))
    how = recipe(weight_decay=0.0 if name == "fedsgd" else 0.01)
    model = TorchLearner(layers, how, "cpu").parameters()
    remembered: dict[int, dict[str, dict[str, Tree]]] = {}

    def half(learner: Learner, site: str) -> dict[str, Any]:
        memory = remembered.setdefault(id(learner) if isinstance(learner, TorchLearner) else 0, {}).setdefault(site, {})
        sent = {}
        for number in (1, 2):
            received = method.broadcast(method.init({key: leaf * number for key, leaf in model.items()}))
            rng = stream(3, site, number)
            local = Local(rows(site), learner, memory, rng, number, 1 if name == "fedsgd" else 2 * -(-ROWS[site] // 8), 8)
            if name == "fedsgd":
                local = Local(rows(site), learner, memory, rng, number, 1, None)
            sent[str(number)] = {key: dict(leaves) for key, leaves in method.local(received, local).sums.items()}
            learner.load(whole_model(method, received))
            sent[str(number)]["evaluated"] = dict(learner.evaluate(rows(site)))
        return sent

    alone, together = both(layers, how, half)
    assert_alike(alone, together)
    assert any(np.abs(leaf).max() > 1e-3 for leaf in next(iter(together["b"]["2"].values())).values()), "something was trained"


@pytest.mark.parametrize(("optimiser", "batch_size"), [("sgd", 8), ("sgd", None), ("adam", 8), ("rmsprop", 8)])
def test_every_optimiser_takes_the_same_steps(optimiser: str, batch_size: int | None) -> None:
    momentum = 0.9 if optimiser in ("sgd", "rmsprop") else 0.0
    how = recipe(optimiser=optimiser, momentum=momentum, weight_decay=0.1, class_weights=(1.0, 3.0))
    assert_alike(*both(layers, how, fitting({site: rows(site) for site in ROWS}, batch_size=batch_size)))


def test_what_is_not_to_change_keeps_every_bit_and_the_sites_that_stop_early_stay() -> None:
    head = {"3.weight", "3.bias"}
    alone, together = both(layers, recipe(momentum=0.9), fitting({site: rows(site) for site in ROWS}, trainable=head))
    assert_alike(alone, together)
    start = TorchLearner(layers, recipe(), "cpu").parameters()
    for site in ROWS:
        for name, leaf in together[site]["weights"].items():
            assert np.array_equal(leaf, start[name]) == (name not in head)


TARGETS = {
    "multiclass": (Target(name="y", kind="multiclass", categories=("p", "q", "r")), lambda rng, n: rng.integers(0, 3, n)),
    "regression": (Target(name="y", kind="regression"), lambda rng, n: rng.normal(size=n)),
    "multilabel": (Target(name="y", kind="multilabel", labels=("p", "q")), lambda rng, n: rng.integers(0, 2, (n, 2))),
    "survival": (
        Target(name="t", kind="survival", event="e", intervals=(0.5, 1.0, 2.0)),
        lambda rng, n: np.stack((rng.exponential(size=n), rng.integers(0, 2, n)), axis=1),
    ),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_every_target_whose_rows_count_by_themselves(kind: str) -> None:
    target, targets = TARGETS[kind]
    data = {site: Samples(rows(site).features, targets(stream(4, site), ROWS[site])) for site in ROWS}
    start = TorchLearner(lambda: layers(target.outputs), recipe(target), "cpu").parameters()

    def half(learner: Learner, site: str) -> Any:
        learner.load(start)
        loss = learner.fit(data[site], steps=5, batch_size=8, round_number=1, rng=stream(5, site))
        return {"weights": learner.parameters(), "loss": np.array(loss), "scores": learner.predict(data[site])}

    assert_alike(*both(lambda: layers(target.outputs), recipe(target), half))


def test_images_pixel_by_pixel() -> None:
    target = Target(name="mask", kind="segmentation", categories=("background", "tumour"))
    data = {site: Samples(stream(6, site).normal(size=(5, 1, 6, 6)), stream(7, site).integers(0, 2, (5, 6, 6))) for site in ROWS}
    how = recipe(target, (1, 6, 6))

    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1)).double()

    def half(learner: Learner, site: str) -> Any:
        loss = learner.fit(data[site], steps=4, batch_size=3, round_number=1, rng=stream(8, site))
        return {"weights": learner.parameters(), "loss": np.array(loss)}

    alone = {site: half(TorchLearner(build, how, "cpu"), site) for site in ROWS}
    assert_alike(alone, at_once(VectorisedTorchLearner(build, how, "cpu"), half))


def test_a_site_whose_numbers_run_away_fails_alone() -> None:
    data = {site: rows(site, 1e300 if site == "c" else 1.0) for site in ROWS}

    def build() -> nn.Module:
        return nn.Linear(FEATURES, 1).double()

    def half(learner: Learner, site: str) -> Any:
        if site == "d":
            data_of = Samples(rows("d").features[:, :2], rows("d").targets)
            with pytest.raises(BadData, match="The features have shape"):
                learner.fit(data_of, steps=1, batch_size=8, round_number=1, rng=stream(9, site))
            return {}
        try:
            learner.fit(data[site], steps=4, batch_size=8, round_number=1, rng=stream(9, site))
        except BadUpdate as error:
            return {"error": np.array([error.sentence == "The training loss is not finite."])}
        return dict(learner.parameters())

    how = recipe(learning_rate=1.0)
    alone = {site: half(TorchLearner(build, how, "cpu"), site) for site in ROWS}
    together = at_once(VectorisedTorchLearner(build, how, "cpu"), half)
    assert together["c"].keys() == {"error"} and "error" not in together["a"]
    assert_alike(alone, together)


class Unreadable:
    """Features in a file of which one row cannot be read."""

    def __init__(self, rows: Any, broken: int | None) -> None:
        self.rows, self.broken = rows, broken

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.rows.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> Any:
        if self.broken in rows:
            raise BadData("Image 7 cannot be read.")
        return self.rows[rows]


@pytest.mark.parametrize("broken", [("c",), tuple(ROWS)])
def test_a_site_whose_rows_cannot_be_read_fails_alone(broken: tuple[str, ...]) -> None:
    """The others go on, each with its own velocity, which beginning once more would count twice."""
    method = FedNova(rounds=3, momentum=0.5, mu=0.1)
    model = TorchLearner(layers, recipe(), "cpu").parameters()
    received = method.broadcast(method.init(model))
    data = {site: Samples(Unreadable(rows(site).features, 1 if site in broken else None), rows(site).targets) for site in ROWS}

    def half(learner: Learner, site: str) -> Any:
        try:
            sums = method.local(received, Local(data[site], learner, {}, stream(2, site), 1, 2 * -(-ROWS[site] // 8), 8)).sums
        except BadData as error:
            return {"error": np.array([error.sentence == "Image 7 cannot be read."])}
        return {key: dict(leaves) for key, leaves in sums.items()}

    alone, together = both(layers, recipe(weight_decay=0.0), half)
    assert {site for site, told in together.items() if "error" in told} == set(broken)
    assert_alike(alone, together)


def frozen() -> nn.Module:
    module = layers()
    module.get_submodule("0").requires_grad_(False)
    return module


@pytest.mark.parametrize(("build", "trainable"), [(frozen, {"0.weight", "0.bias"}), (lambda: layers().requires_grad_(False), None)])
def test_where_nothing_learns_each_site_says_so(build: Callable[[], nn.Module], trainable: Any) -> None:
    def half(learner: Learner, site: str) -> Any:
        with pytest.raises(BadModel, match="learns"):
            learner.fit(rows(site), steps=2, batch_size=8, round_number=1, rng=stream(2, site), trainable=trainable)
        return {}

    both(build, recipe(), half)


class Codes(nn.Module):
    """Takes its features for codes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(2, 3), nn.Linear(3 * FEATURES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.table(x.long()).flatten(1))
        return scores


def test_a_model_may_take_codes() -> None:
    data = {site: Samples((rows(site).features > 0).astype(float), rows(site).targets) for site in ROWS}
    start = TorchLearner(lambda: Codes().double(), recipe(), "cpu").parameters()

    def half(learner: Learner, site: str) -> Any:
        learner.load(start)
        learner.fit(data[site], steps=5, batch_size=8, round_number=1, rng=stream(2, site))
        return learner.parameters()

    assert_alike(*both(lambda: Codes().double(), recipe(), half))


def test_rows_are_kept_once_whoever_is_drawn() -> None:
    shared, data = VectorisedTorchLearner(layers, recipe(), "cpu"), {site: rows(site) for site in ROWS}
    learners = {site: shared.learner() for site in ROWS}

    def half(site: str) -> None:
        learners[site].fit(data[site], steps=1, batch_size=8, round_number=1, rng=stream(2, site))

    for drawn in ("abc", "ade", "bd", "ce", "abcde", "a"):
        list(shared.abreast([partial(half, site) for site in drawn]))
        assert sum(kept.bytes for kept in shared._rows.values()) <= 8 * (FEATURES + 1) * sum(ROWS.values())


class Centred(nn.Module):
    """Sees other rows of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(x - x.mean(dim=0))
        return scores


class Branching(Centred):
    """Decides by a value, which differs from site to site."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(x)
        return scores if float(scores.detach().sum()) > 0 else 2 * scores


class Noisy(Centred):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(x + torch.randn_like(x))
        return scores


class Lacking(Centred):
    """Its own code fails of a value that the first probe, of zeros, does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return torch.zeros(len(x), 1)
        raise ValueError("a table")


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: nn.Sequential(nn.Linear(FEATURES, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)), "running means or counts"),
        (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(FEATURES, 1)), "dropout"),
        (Centred, "rows of a batch see each other"),
        (Branching, "on drawn rows the model fails"),
        (Noisy, "on drawn rows the model fails"),
        (Lacking, "on drawn rows the model fails: a table"),
    ],
)
def test_a_model_that_would_give_something_else_is_refused(build: Callable[[], nn.Module], why: str) -> None:
    with pytest.raises(NotAvailable, match=why):
        VectorisedTorchLearner(build, recipe(), "cpu")


def test_a_learner_holds_its_own_weights_and_refuses_others() -> None:
    shared = VectorisedTorchLearner(layers, recipe(), "cpu")
    first, second = shared.learner(), shared.learner()
    before = first.parameters()
    first.load({name: leaf + 1 for name, leaf in before.items()})
    np.testing.assert_array_equal(second.parameters()["0.weight"], before["0.weight"])
    np.testing.assert_array_equal(first.parameters()["0.weight"], before["0.weight"] + 1)
    with pytest.raises(BadModel, match="Names differ"):
        first.load({"w": np.zeros(1)})
    second.fit(rows("a"), steps=1, batch_size=2, round_number=1, rng=stream(1, "x"))
    assert not np.array_equal(second.parameters()["0.weight"], before["0.weight"]), "it also trains alone"
