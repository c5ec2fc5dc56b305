"""Known answers on parabolas: Algorithm 2 in scalars, where it rests, FedAvg for q = 0, more even losses for larger q."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.fedavg import FedAvg
from aimer2.algorithms.qfedavg import QFedAvg
from aimer2.core.errors import BadUpdate
from aimer2.core.update import Update


def losses(rounds: Any, x: float) -> Any:
    return np.array([site.a / 2 * (x - site.b) ** 2 for site in rounds.hospitals])


def by_hand(rounds: Any, q: float, lipschitz: float, count: int, start: float) -> list[float]:
    x, path = start, [start]
    for _ in range(count):
        above = below = 0.0
        for site, loss in zip(rounds.hospitals, losses(rounds, x), strict=True):
            way = lipschitz * (1 - (1 - rounds.h * site.a) ** site.steps) * (x - site.b)
            above += site.rows * loss**q * way
            below += site.rows * (q * loss ** (q - 1) * way**2 + lipschitz * loss**q)
        x -= above / below
        path.append(x)
    return path


@pytest.mark.parametrize(("q", "lipschitz"), [(0.5, 10.0), (1.0, 10.0), (2.0, 3.0)])
def test_every_round_is_the_papers(rounds: Any, q: float, lipschitz: float) -> None:
    path = rounds.run(QFedAvg(q=q, lipschitz=lipschitz), 30, start=3.0)
    assert path == pytest.approx(by_hand(rounds, q, lipschitz, 30, 3.0), abs=1e-11)


@pytest.mark.parametrize("lipschitz", [1.0, 17.0])
def test_without_q_it_is_fedavg_bit_for_bit(rounds: Any, lipschitz: float) -> None:
    assert rounds.run(QFedAvg(q=0.0, lipschitz=lipschitz), 20, start=np.pi) == rounds.run(FedAvg(), 20, start=np.pi)


@pytest.mark.parametrize("q", [1.0, 4.0])
def test_one_step_rests_at_the_optimum_of_the_fair_objective(rounds: Any, q: float) -> None:
    """Σ n F^(q+1)/(q + 1) is least there; the worst site's loss is below FedAvg's."""
    rounds.hospitals = [replace(site, steps=1) for site in rounds.hospitals]
    x = rounds.run(QFedAvg(q=q), 1000)[-1]
    slopes = np.array([site.a * (x - site.b) for site in rounds.hospitals])
    assert float(rounds.shares() @ (losses(rounds, x) ** q * slopes)) == pytest.approx(0.0, abs=1e-6)
    around = [float(rounds.shares() @ losses(rounds, y) ** (q + 1)) for y in np.linspace(-2, 7, 1001)]
    assert float(rounds.shares() @ losses(rounds, x) ** (q + 1)) <= min(around)
    assert losses(rounds, x).max() < 0.9 * losses(rounds, rounds.run(FedAvg(), 300)[-1]).max()


@pytest.mark.parametrize("q", [0.0, 0.5, 2.0])
def test_a_site_without_loss_stops_nothing(rounds: Any, q: float) -> None:
    """F = 0 and q < 1 would be infinite."""
    rounds.hospitals = rounds.hospitals[:1]
    assert rounds.run(QFedAvg(q=q), 3, start=rounds.hospitals[0].b) == pytest.approx([rounds.hospitals[0].b] * 4)


def test_running_means_are_averaged_by_rows() -> None:
    start = {"w": np.zeros(1, np.float32), "running_mean": np.zeros(1, np.float32)}
    sums = {
        "difference": {name: np.array([6.0], np.float32) for name in start},
        "weight": {"rows": np.array([3.0]), "norm": np.array([12.0])},
        "buffers": {"w": np.zeros(1), "running_mean": np.array([3.0])},
    }
    moved = QFedAvg().update(QFedAvg().init(start), Update(sums))
    assert {name: (float(leaf[0]), leaf.dtype.name) for name, leaf in moved.model.items()} == {
        "w": (0.5, "float32"),
        "running_mean": (2.0, "float32"),
    }
    with pytest.raises(BadUpdate):
        QFedAvg().update(QFedAvg().init(start), Update({**sums, "weight": {"rows": np.array([3.0]), "norm": np.zeros(1)}}))
