"""The published benchmarks: data as their authors prepare them, and scores that come out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import flamby, flamby_heart, flamby_tcga


@pytest.fixture(scope="module")
def heart(data_dir: Path) -> flamby.Task:
    return flamby_heart.task(data_dir / "heart-disease-4sites")


def test_heart_disease_as_published(heart: flamby.Task) -> None:
    assert [len(rows) for rows in heart.train.values()] == [199, 172, 30, 85]
    assert [len(rows) for rows in heart.test.values()] == [104, 89, 16, 45]
    shares = [100 * float(np.mean(rows.targets)) for rows in heart.train.values()]
    assert shares == pytest.approx([45.7, 37.8, 100, 77.6], abs=0.05)
    assert heart.train["0"].feature_shape == (13,)
    assert heart.rounds == 15
    for rows in (heart.train["0"], heart.pooled[0]):
        assert rows.features.mean(axis=0) == pytest.approx(np.zeros(13), abs=1e-5)
        assert rows.features.std(axis=0, ddof=1) == pytest.approx(np.ones(13), abs=1e-5)


@pytest.mark.parametrize("line", ["FedAvg", "FedYogi"])
def test_federated_scores_are_the_published_ones_within_a_patient(heart: flamby.Task, line: str) -> None:
    """The same start and data: what is left is the order of the batches. Where theirs and ours differ by two patients, a method does."""
    theirs = flamby.published(heart)
    theirs = theirs[(theirs["method"] == line) & (theirs["seed"] == 42)].set_index("test")["score"]
    ours = {told["test"]: told["score"] for told in flamby.scored(heart, line, 42)}
    for site, rows in {**heart.test, flamby.POOLED: heart.pooled[1]}.items():
        assert abs(ours[site] - theirs[site]) <= 100.5 / len(rows), site


def test_breast_cancer_survival_as_published(data_dir: Path) -> None:
    task = flamby_tcga.task(data_dir / "tcga-brca-6regions")
    assert [len(rows) for rows in task.train.values()] == [248, 156, 164, 129, 129, 40]
    assert [len(rows) for rows in task.test.values()] == [63, 40, 42, 33, 33, 11]
    assert [int(rows.targets[:, 1].sum()) for rows in task.train.values()][1:] == [35, 14, 16, 7, 2]
    assert (len(task.pooled[0]), len(task.pooled[1]), task.rounds) == (866, 222, 5)
    adam = flamby.scored(task, "FedAdam", 42)
    theirs = flamby.published(task).query("method == 'FedAdam' and test == 'pooled'")["score"]
    ours = next(told["score"] for told in adam if told["test"] == flamby.POOLED)
    assert ours == pytest.approx(theirs.mean(), abs=3 * theirs.std())


def test_concordance_by_hand() -> None:
    """Deaths at 1 and 3, one censored at 2 and one at 4. Comparable: 1 with all others, 3 with 4. Risks 4, 1, 2, 2: a win, a win, a win, a tie."""
    rows = flamby_tcga.Samples(np.array([[4.0], [1.0], [2.0], [2.0]], np.float32), np.array([[1, 1], [2, 0], [3, 1], [4, 0]], np.float32))
    model = {"weight": np.ones((1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    assert flamby_tcga.concordance(model, rows) == pytest.approx(3.5 / 4)
