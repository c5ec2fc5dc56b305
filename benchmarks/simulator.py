"""100 virtual sites in one process. Floor: the same additions in numpy, with nothing encoded."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import numpy as np

from aimer2 import federate
from aimer2.algorithms.fedavg import FedAvg
from aimer2.core.dataset import Samples
from aimer2.core.study import Target, Training
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.study.events import Event, RoundFinished
from benchmarks.rows import Row
from benchmarks.trivial import Trivial

SITES, SIZE, ROUNDS = 100, 1000, 20


def run() -> Iterator[Row]:
    recipe = Recipe(Training(learning_rate=0.1), Target(name="event"), ROUNDS, (1,))
    sites = {
        f"site-{number:03}": (NumpyLearner(lambda: Trivial(SIZE), recipe), Samples(np.full((4, 1), float(number)), np.zeros(4, np.int64)))
        for number in range(SITES)
    }
    seconds: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, RoundFinished):
            seconds.append(event.seconds)

    federate(FedAvg(rounds=ROUNDS), sites, rounds=ROUNDS, on_event=listen)
    yield Row("simulator", "100 sites × 1,000 floats, median round", statistics.median(seconds) * 1000, "ms", floor() * 1000)


def floor() -> float:
    taken = []
    model = np.zeros(SIZE, np.float32)
    for _ in range(ROUNDS):
        began = time.perf_counter()
        total = np.zeros_like(model)
        for number in range(SITES):
            total += np.float32(4) * ((model - np.float32(number)) - model)
        model = model + total / np.float32(4 * SITES)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
