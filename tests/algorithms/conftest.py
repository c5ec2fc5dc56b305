"""Hospitals whose loss is a parabola: f_i(x) = a_i/2 · (x − b_i)², so that every round can be computed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.aggregators.weighted_mean import WeightedMean
from aimer2.core.dataset import Samples
from aimer2.core.protocols import Algorithm, Local
from aimer2.core.study import Target, Training
from aimer2.core.update import Update
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe


@dataclass
class Parabola:
    """Each row is (a, b); the loss is the mean over the rows."""

    def initial(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": np.zeros(1)}

    def gradient(self, parameters: Mapping[str, Any], features: Any, targets: Any) -> tuple[float, dict[str, Any]]:
        away = parameters["x"] - targets
        a = features[:, 0]
        return float(np.mean(a / 2 * away**2)), {"x": np.array([np.mean(a * away)])}

    def predict(self, parameters: Mapping[str, Any], features: Any) -> Any:
        return np.repeat(parameters["x"], len(features))


@dataclass(frozen=True)
class Hospital:
    a: float
    b: float
    rows: int = 1
    steps: int = 1


@dataclass
class Rounds:
    """Drives a method by hand: no engine, no loop, no codec."""

    hospitals: Sequence[Hospital]
    h: float
    memory: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.memory = [{} for _ in self.hospitals]

    def local(self, algorithm: Algorithm[Any], state: Any, number: int, round_number: int = 1) -> Update:
        hospital = self.hospitals[number]
        recipe = Recipe(Training(learning_rate=self.h), Target(name="y", kind="regression"), 1000, (1,))
        site = Local(
            data=Samples(np.full((hospital.rows, 1), hospital.a), np.full(hospital.rows, hospital.b)),
            learner=NumpyLearner(Parabola, recipe),
            memory=self.memory[number],
            rng=np.random.default_rng(number),
            round_number=round_number,
            steps=hospital.steps,
            batch_size=None,
        )
        return algorithm.local(algorithm.broadcast(state), site)

    def step(self, algorithm: Algorithm[Any], state: Any, round_number: int = 1) -> Any:
        updates = [self.local(algorithm, state, number, round_number) for number in range(len(self.hospitals))]
        return algorithm.update(state, WeightedMean()(updates))

    def run(self, algorithm: Algorithm[Any], rounds: int, start: float = 0.0) -> list[float]:
        """The model after each round, the untrained one first."""
        state, path = algorithm.init({"x": np.array([start])}), [start]
        for number in range(1, rounds + 1):
            state = self.step(algorithm, state, number)
            path.append(float(algorithm.model(state)["x"][0]))
        return path

    def shares(self) -> Any:
        rows = np.array([hospital.rows for hospital in self.hospitals], float)
        return rows / rows.sum()

    def fixed_point(self, c: Any) -> float:
        """Where x ← x − Σ p c (x − b) rests."""
        b = np.array([hospital.b for hospital in self.hospitals])
        return float((self.shares() * c * b).sum() / (self.shares() * c).sum())


@pytest.fixture
def hospitals() -> list[Hospital]:
    return [Hospital(a=1.0, b=-2.0, rows=10, steps=5), Hospital(a=4.0, b=1.0, rows=30, steps=5), Hospital(a=0.5, b=7.0, rows=20, steps=2)]


@pytest.fixture
def rounds(hospitals: list[Hospital]) -> Rounds:
    return Rounds(hospitals, h=0.1)
