"""A step of DP-SGD: per-patient gradients, clipping, secure noise. Floor: a plain step of the same model on the same batch, turn by turn.

Processor time of one thread, which other programs disturb little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from aimer2.core.dataset import Samples
from aimer2.core.study import Target, Training
from aimer2.learners.recipe import Recipe
from aimer2.learners.torch import TorchLearner
from aimer2.learners.torch_private import PrivateTorchLearner
from aimer2.models import cnn, mlp
from aimer2.models.options import CnnOptions, MlpOptions
from aimer2.privacy.terms import Terms
from benchmarks.rows import Row

BATCH, STEPS, TURNS, IMAGE = 128, 4, 12, (1, 28, 28)
CLASSES = tuple("abcdefghij")


def _dense() -> nn.Module:
    """207 thousand parameters, most of them in one linear layer."""
    blocks = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, 10))


def run() -> Iterator[Row]:
    torch.set_num_threads(1)
    yield from _compared("images, 207 k parameters", _dense, IMAGE)
    yield from _compared("images, the ready-made cnn", lambda: cnn.build(IMAGE, 10, CnnOptions()), IMAGE)
    yield from _compared("a table, the ready-made mlp", lambda: mlp.build((30,), 10, MlpOptions()), (30,))


def _compared(case: str, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    single = Samples(rng.normal(size=(BATCH, *shape)).astype(np.float32), rng.integers(0, 10, BATCH))
    pairs = Samples(single.features, single.targets, np.arange(BATCH, dtype=np.uint64) // 2)
    recipe = Recipe(Training(learning_rate=0.01), Target(name="y", kind="multiclass", categories=CLASSES), 1, shape, ())
    terms = Terms(1.0, 1.0, 1.0, 1e-5, STEPS, 1, None, BATCH)
    plain, private = TorchLearner(build, recipe, "cpu"), PrivateTorchLearner(build, recipe, "cpu", terms)
    best = [float("inf")] * 3
    for _ in range(TURNS):
        for place, (learner, rows) in enumerate(((plain, single), (private, single), (private, pairs))):
            best[place] = min(best[place], _seconds(learner, rows))
    yield Row("private_step", f"{case}: a row per patient", best[1] * 1e3, "ms", best[0] * 1e3)
    yield Row("private_step", f"{case}: two rows per patient", best[2] * 1e3, "ms", best[0] * 1e3)


def _seconds(learner: TorchLearner, rows: Samples) -> float:
    began = time.process_time()
    learner.fit(rows, steps=STEPS, batch_size=None, round_number=1, rng=np.random.default_rng(1))
    return (time.process_time() - began) / STEPS
