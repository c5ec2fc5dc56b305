"""Records rebuilt from updates of a real cohort: the attacks work where an update lies open, and fail on what a protected study shows.

Both halves are needed: an attack that never works would pass every test of protection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from aimer2.algorithms.fedavg import train
from aimer2.attacks.inversion import first_layer, judge, ratios, span
from aimer2.attacks.sums import rest
from aimer2.attacks.torch_matching import Training, match
from aimer2.core import tree
from aimer2.core.dataset import Samples
from aimer2.core.protocols import Local
from aimer2.core.random import SecureBytes
from aimer2.core.study import Study
from aimer2.core.update import Update, total
from aimer2.learners.batches import batches
from aimer2.learners.catalogue import make_learner
from aimer2.models.catalogue import build
from aimer2.privacy.clipping import clip
from aimer2.privacy.gaussian import noisy
from aimer2.secure_aggregation.layout import Layout
from aimer2.secure_aggregation.masking import mask, unmask
from aimer2.secure_aggregation.quantisation import decode

RAW, OUTCOMES = load_breast_cancer(return_X_y=True)
ROWS = (RAW - RAW.mean(axis=0)) / RAW.std(axis=0)
WIDE_GELU = {"framework": "torch", "name": "mlp", "options": {"hidden": [64], "activation": "gelu"}}
MLP = {"framework": "torch", "name": "mlp", "options": {"hidden": [16]}}
LOGISTIC = {"framework": "numpy", "name": "logistic"}
CONTEXT = bytes(32)


@dataclass
class World:
    """A study's model in its untrained state, and hospitals that train it."""

    study: Study
    learner: Any
    initial: dict[str, Any]

    @classmethod
    def of(cls, model: dict[str, Any], **training: Any) -> World:
        study = Study(
            name="attacked",
            question="Is this mass malignant or is it benign?",
            purpose="test of the attacks",
            ethics="none needed, public",
            principal_investigator="Dr Ada Test",
            expires="2099-01-01",
            cohort={"dataset": "breast", "features": [{"name": f"f{place}"} for place in range(30)], "target": {"name": "malignant"}},
            model=model,
            training={"learning_rate": 0.05, "momentum": 0.9, "batch_size": 16, "local_epochs": 1} | training,
        )
        learner = make_learner(study, feature_shape=(30,), files={}, device="cpu")
        learner.initialise(np.random.default_rng(1))
        return cls(study, learner, {name: np.array(tree.load(leaf)) for name, leaf in learner.parameters().items()})

    def update(self, rows: Any, hospital: int = 0) -> Update:
        steps = self.study.training.steps(len(rows))
        samples = Samples(ROWS[rows], OUTCOMES[rows])
        return train(self.initial, Local(samples, self.learner, {}, np.random.default_rng(hospital), 1, steps, self.study.training.batch_size))

    def read_off(self, difference: Any, rows: Any) -> Any:
        layer = first_layer(difference, (30,))
        assert layer is not None
        return judge(ratios(layer), ROWS[rows], ROWS, np.random.default_rng(3))

    def searched(self, difference: Any, parts: list[Any], steps: int = 150) -> Any:
        """Of the first hospital's rows."""
        size, training = len(parts[0]), self.study.training
        order = [
            [batch + size * h for batch in batches(size, batch_size=16, steps=training.steps(size), rng=np.random.default_rng(h))]
            for h in range(len(parts))
        ]
        known = Training(
            kind="binary",
            hospitals=order,
            targets=OUTCOMES[np.concatenate(parts)],
            feature_shape=(30,),
            centre=np.zeros(30),
            spread=np.ones(30),
            learning_rate=training.learning_rate,
            momentum=training.momentum,
        )
        module = build("torch", "mlp", (30,), 2, self.study.model.options)
        found = match(module, self.initial, difference, known, first_layer(difference, (30,)), np.random.default_rng(5), steps=steps)
        return judge(found, ROWS[parts[0]], ROWS, np.random.default_rng(3))


def patients(count: int, hospital: int = 0) -> Any:
    return np.random.default_rng(17).permutation(len(ROWS))[hospital * count : (hospital + 1) * count]


@pytest.mark.parametrize("model", [LOGISTIC, MLP, WIDE_GELU], ids=["logistic", "relu", "gelu"])
@pytest.mark.parametrize("steps", [1, 5])
def test_one_record_is_read_off_its_update_exactly(model: dict[str, Any], steps: int) -> None:
    world = World.of(model, local_epochs=None, local_steps=steps)
    errors = [world.read_off(world.update(patients(1, h)).sums["difference"], patients(1, h)).errors[0] for h in range(10)]
    # in single precision; of a logistic regression in double
    assert max(errors) < 1e-3


def test_one_record_of_a_model_of_three_classes() -> None:
    study = World.of(LOGISTIC).study
    target = {"name": "stage", "kind": "multiclass", "categories": ("I", "II", "III")}
    cohort = study.cohort.model_dump() | {"target": target}
    study = Study(**(study.model_dump() | {"model": {"framework": "numpy", "name": "multinomial"}, "cohort": cohort}))
    learner = make_learner(study, feature_shape=(30,), files={}, device="cpu")
    initial = dict(learner.parameters())
    record = Samples(ROWS[7:8], np.array([2]))
    update = train(initial, Local(record, learner, {}, np.random.default_rng(0), 1, 1, None))
    layer = first_layer(update.sums["difference"], (30,))
    assert layer is not None and layer.weight.shape == (3, 30)
    assert judge(ratios(layer), ROWS[7:8], ROWS, np.random.default_rng(0)).errors[0] < 1e-9


def test_units_that_one_record_alone_has_moved_give_it_away() -> None:
    world = World.of(MLP)
    found = [world.read_off(world.update(patients(4, h)).sums["difference"], patients(4, h)) for h in range(8)]
    assert sum(one.rebuilt for one in found) >= 8
    assert sum(one.chance for one in found) == 0


def test_a_search_rebuilds_every_record_of_a_small_update() -> None:
    world = World.of(WIDE_GELU)
    rows = patients(4)
    update = world.update(rows).sums["difference"]
    layer = first_layer(update, (30,))
    assert layer is not None and (basis := span(layer)) is not None and len(basis) == 4
    found = world.searched(update, [rows])
    assert found.rebuilt == 4 and found.chance == 0
    correlations = [np.corrcoef(found.candidates[place], ROWS[row])[0, 1] for row, place in zip(rows, found.nearest, strict=True)]
    assert min(correlations) > 0.99


def test_a_search_replays_several_steps_on_small_batches() -> None:
    world = World.of(WIDE_GELU, local_epochs=None, local_steps=3)
    rows = patients(3, 2)
    assert world.searched(world.update(rows).sums["difference"], [rows]).rebuilt == 3


def test_the_search_finds_nothing_under_masks_in_the_sum_and_in_noise() -> None:
    """The very search that rebuilds all four records of the open update."""
    world = World.of(WIDE_GELU)
    parts = [patients(4, hospital) for hospital in range(8)]
    updates = [world.update(rows, hospital) for hospital, rows in enumerate(parts)]
    added = total(updates).sums["difference"]
    for difference, known in ((read_as_plain(updates[0].sums), parts[:1]), (added, parts), (with_noise(updates[0], 4), parts[:1])):
        read = world.read_off(difference, parts[0])
        found = world.searched(difference, known, steps=60)
        assert read.rebuilt == 0 and found.rebuilt == 0
        assert np.median(found.errors) > 0.3


def test_the_sum_is_the_sum_and_whoever_knows_the_others_has_the_last_one() -> None:
    """Secure aggregation does not protect from n − 1 hospitals together: what they subtract leaves the update, and the records."""
    world = World.of(LOGISTIC)
    parts = [patients(1, hospital) for hospital in range(4)]
    updates = [world.update(rows, hospital) for hospital, rows in enumerate(parts)]
    sums = {f"site-{number}": {"difference": update.sums["difference"]} for number, update in enumerate(updates)}
    layout = Layout.of(sums["site-0"], {}, 4)
    seeds = [bytes([number]) * 32 for number in range(1, 5)]
    uploads = [masked(sums[f"site-{number}"], layout, seed) for number, seed in enumerate(seeds)]
    opened = unmask(uploads, layout, CONTEXT, seeds, [], []).sums["difference"]
    left = rest(opened, [update.sums["difference"] for update in updates[1:]])
    assert world.read_off(left, parts[0]).errors[0] < 0.01
    assert world.read_off(opened, parts[0]).rebuilt == 0


def test_a_sum_over_hospitals_of_one_record_each_still_gives_records_away() -> None:
    """A limit of secure aggregation that is told, not hidden: the sum itself is no noise."""
    world = World.of(MLP)
    parts = [patients(1, hospital) for hospital in range(4)]
    added = total([world.update(rows, hospital) for hospital, rows in enumerate(parts)]).sums["difference"]
    assert sum(world.read_off(added, rows).rebuilt for rows in parts) >= 1


def test_one_feature_is_hit_by_chance_and_that_is_told() -> None:
    rng = np.random.default_rng(2)
    column = rng.normal(size=(500, 1))
    guessed = judge(rng.normal(size=(50, 1)), column[:20], column, rng)
    assert guessed.rebuilt > 5 and guessed.chance > 5


def test_the_measure_is_of_each_feature_in_its_own_deviations() -> None:
    rng = np.random.default_rng(2)
    population = rng.normal(size=(200, 2)) * [1.0, 1000.0]
    near = judge(population[:1] + np.array([0.01, 10.0]), population[:1], population, rng)
    far = judge(population[:1] + np.array([0.5, 0.0]), population[:1], population, rng)
    assert (near.rebuilt, far.rebuilt) == (1, 0)
    assert judge(np.full((1, 2), 1e9), population[:1], population, rng).errors[0] == np.inf


@pytest.mark.parametrize(
    ("weight", "bias", "transposed"),
    [("0.weight", "0.bias", False), ("coef_", "intercept_", False), ("coefs_.0", "intercepts_.0", True), ("coefficients", "intercept", True)],
)
def test_a_first_layer_is_known_by_any_frameworks_names(weight: str, bias: str, transposed: bool) -> None:
    moved, record = np.array([0.5, -2.0]), np.array([1.0, 2.0, 3.0])
    layer = np.outer(moved, record)
    found = first_layer({weight: layer.T if transposed else layer, bias: moved}, (3,))
    assert found is not None and np.allclose(ratios(found), [record, record])


def test_a_model_without_a_dense_first_layer_has_none() -> None:
    assert first_layer({"0.weight": np.zeros((4, 1, 3, 3)), "0.bias": np.zeros(4)}, (1, 8, 8)) is None
    assert first_layer({"0.weight": np.zeros((4, 30))}, (30,)) is None


def masked(sums: Any, layout: Layout, own: bytes) -> dict[str, dict[str, np.ndarray]]:
    return {name: {leaf: tree.load(words) for leaf, words in named.items()} for name, named in mask(sums, layout, CONTEXT, own, [], []).items()}


def read_as_plain(sums: Any) -> dict[str, np.ndarray]:
    layout = Layout.of({"difference": sums["difference"]}, {}, 8)
    words = masked({"difference": sums["difference"]}, layout, bytes(range(32)))["difference"]
    return {leaf.name: decode(words[leaf.name].reshape(-1), leaf, 8).reshape(leaf.shape) for leaf in layout.leaves}


def with_noise(update: Update, rows: int) -> dict[str, Any]:
    """One patient's part in a step's gradient no longer than 1, and noise of deviation 1 on their sum: put on the update of one step."""
    rate = 0.05
    short = clip(Update({"difference": update.sums["difference"]}), rate * rows)
    return {name: tree.load(leaf) for name, leaf in noisy(short.sums["difference"], rate, SecureBytes(bytes(32))).items()}
