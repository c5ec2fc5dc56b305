"""One patient moves the sums of a tree's leaves by the clip norm at most, and the noise is the stated one: what ε rests on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aimer2.algorithms.random_trees import RandomTrees
from aimer2.core.dataset import Samples, Shielded
from aimer2.core.errors import BadData, BadInput
from aimer2.core.random import SecureBytes
from aimer2.core.study import Target, Training
from aimer2.learners.recipe import Recipe
from aimer2.learners.records import Records
from aimer2.learners.trees import TreesLearner
from aimer2.learners.trees_private import PrivateTreesLearner
from aimer2.models.trees import BoostedTrees as Form
from aimer2.privacy.terms import Terms

CLASSES = ("none", "mild", "severe")


def terms(**changes: Any) -> Terms:
    given = {"sampling_rate": 1.0, "noise_multiplier": 1e-12, "clip_norm": 10.0, "delta": 1e-5, "local_steps": 1, "rounds": 2}
    return Terms(**{**given, "evaluation_noise": 1e-9, "patients": 50, **changes})


def learner(asked: Terms | None, outputs: int = 1) -> Any:
    form = Form(2, outputs, trees=2, max_depth=2, bins=8)
    target = Target(name="y") if outputs == 1 else Target(name="y", kind="multiclass", categories=CLASSES)
    recipe = Recipe(Training(), target, 10, (2,), ("auc",) if outputs == 1 else ("accuracy",))
    made = TreesLearner(lambda: form, recipe) if asked is None else PrivateTreesLearner(lambda: form, recipe, None, asked)
    method = RandomTrees()
    state = method.init(form.initial())
    first = {**state.model, "value": state.model["value"].copy()}
    first["value"][0, :, 3:] = np.linspace(-2, 2, 4)
    made.load(first)
    return made


def drawn(patients: list[int] | None = None, rows: int = 24, classes: int = 2) -> Samples:
    rng = np.random.default_rng(1)
    known = None if patients is None else np.array(patients, np.uint64)
    return Samples(rng.uniform(-1, 1, (rows, 2)), rng.integers(classes, size=rows), known)


def summed(data: Any, number: int = 1, outputs: int = 1, **changes: Any) -> npt.NDArray[np.float64]:
    return np.concatenate([one.ravel() for one in learner(terms(**changes), outputs).leaves(data, number)])


def test_without_clipping_noise_and_doubles_it_is_the_plain_sum() -> None:
    for outputs in (1, 3):
        plain = np.concatenate([one.ravel() for one in learner(None, outputs).leaves(drawn(classes=max(2, outputs)), 1)])
        np.testing.assert_allclose(summed(drawn(classes=max(2, outputs)), outputs=outputs), plain, atol=1e-9)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("clip_norm", [0.2, 0.6, 10.0])
def test_one_patient_moves_all_sums_of_a_tree_by_the_clip_norm_at_most(outputs: int, clip_norm: float) -> None:
    patients = [0] * 6 + [1] * 3 + list(range(2, 17))
    data = drawn(patients, classes=max(2, outputs))
    whole, moves = summed(data, outputs=outputs, clip_norm=clip_norm), []
    for patient in range(17):
        left = data.at(np.flatnonzero(np.array(patients) != patient))
        moves.append(np.linalg.norm(whole - summed(left, outputs=outputs, clip_norm=clip_norm)))
    assert max(moves) <= clip_norm + 1e-9
    if clip_norm == 0.2:
        # a patient of one row is shortened to just that length
        assert max(moves) == pytest.approx(0.2, abs=1e-9)


@pytest.mark.parametrize(("outputs", "longest"), [(1, 1.0), (3, math.sqrt(2.0))])
def test_no_patient_of_one_row_has_a_longer_part_than_the_page_says(outputs: int, longest: float) -> None:
    """(g, h) of p from 0 to 1: so a clip norm of this length shortens nothing, and a smaller one does."""
    data = drawn(classes=max(2, outputs), rows=200)
    for scale in (0.1, 1.0, 30.0):
        made = learner(terms(), outputs)
        made.load({**made.parameters(), "value": made.parameters()["value"] * scale})
        lengths = np.linalg.norm(np.concatenate(made.derivatives(data, 1), axis=1), axis=1)
        assert lengths.max() <= longest + 1e-12
    assert lengths.max() > 0.99 * longest


def test_the_noise_has_the_stated_deviation_and_is_never_the_same() -> None:
    nobody = drawn()
    told = np.concatenate([summed(nobody, noise_multiplier=3.0, clip_norm=0.5, sampling_rate=1e-12) for _ in range(300)])
    assert told.std() == pytest.approx(1.5, rel=0.06)
    assert abs(told.mean()) < 4 * 1.5 / math.sqrt(len(told))
    assert len(np.unique(told)) == len(told)


def test_a_patient_is_drawn_whole_with_the_stated_chance_and_by_itself() -> None:
    """100,000 patients: the chance is met within six standard errors, for a patient and for one and its neighbour together."""
    patients = np.repeat(np.arange(100_000), 2).astype(np.uint64)
    records = Records.of(Samples(np.zeros((len(patients), 1)), np.zeros(len(patients), np.int64), patients))
    drawn = records.draw(0.3, SecureBytes())
    assert drawn.mean() == pytest.approx(0.3, abs=0.009)
    assert (drawn[1:] & drawn[:-1]).mean() == pytest.approx(0.09, abs=0.009)
    assert np.array_equal(records.shares(drawn), np.repeat(drawn / 2, 2))
    assert (drawn != records.draw(0.3, SecureBytes())).mean() == pytest.approx(0.42, abs=0.01)


def test_of_each_tree_patients_are_drawn_anew_with_all_their_rows() -> None:
    """Of two patients with three rows each, in one leaf: nobody, either or both."""
    data = Samples(np.zeros((6, 2)), np.ones(6, np.int64), np.array([0, 0, 0, 1, 1, 1], np.uint64))
    made = learner(terms(sampling_rate=0.3))
    assert {round(made.leaves(data, 0)[0].sum() / -0.5, 6) for _ in range(200)} == {0.0, 1.0, 2.0}


def test_a_margin_that_is_no_number_tells_nothing() -> None:
    made = learner(terms(), 3)
    broken = {name: leaf.copy() for name, leaf in made.parameters().items()}
    broken["value"][0, 0, 3] = np.inf
    made.load(broken)
    assert np.isfinite(np.concatenate(made.leaves(drawn(classes=3), 1))).all()


def test_a_method_reads_no_row_and_held_out_patients_are_told_by_noisy_counts() -> None:
    made, shielded = learner(terms()), Shielded(drawn(), 100)
    np.testing.assert_allclose(made.leaves(shielded, 1), learner(terms()).leaves(drawn(), 1), atol=1e-9)
    for look in (made.codes, made.outcome, made.evaluate, lambda data: made.derivatives(data, 1)):
        with pytest.raises(BadData):
            look(shielded)
    held_out = drawn([0] * 11 + list(range(1, 14)))
    assert made.evaluate(held_out)["count"][0] == 14
    noisy, told = (one.evaluate(held_out)["binned_scores"].tolist() for one in (learner(terms(evaluation_noise=30.0)), made))
    assert noisy != told
    with pytest.raises(BadInput):
        learner(terms(evaluation_noise=None)).evaluate(held_out)
