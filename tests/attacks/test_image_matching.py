"""An image and the column beside it, rebuilt from what one training step says of them; from noise of the same length nothing comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from aimer2.attacks.inversion import beside
from aimer2.attacks.torch_matching import Training, match_images

PIXELS = (1, 8, 8)
RATE = 0.1
Floats = npt.NDArray[Any]


def spots() -> Floats:
    """Fifty images of a bright spot somewhere, and a number beside each; ``(50, 65)``."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:8, :8]
    middle = rng.uniform(1.5, 5.5, (50, 2, 1, 1))
    return np.hstack([np.exp(-((down - middle[:, 0]) ** 2 + (across - middle[:, 1]) ** 2) / 4).reshape(50, -1), rng.normal(size=(50, 1))])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 1)).double()


def step(module: nn.Module, record: Floats) -> dict[str, Floats]:
    """By how much the weights move when torch trains on the record for one step."""
    planes = torch.from_numpy(np.concatenate([record[:64], np.full(64, record[64])]).reshape(1, 2, 8, 8))
    nn.functional.binary_cross_entropy_with_logits(module(planes).reshape(1), torch.ones(1, dtype=torch.float64)).backward()
    return {name: -RATE * weight.grad.numpy() for name, weight in module.named_parameters() if weight.grad is not None}


def searched(seen: dict[str, Floats], known: Floats) -> Floats:
    module = network()
    weights = {name: weight.detach().numpy() for name, weight in module.named_parameters()}
    spread = np.append(np.full(64, np.sqrt(known[:, :64].var(axis=0).mean())), known[:, 64].std())
    training = Training(
        kind="binary",
        hospitals=[[np.arange(1)]],
        targets=np.ones(1),
        feature_shape=(2, 8, 8),
        centre=known.mean(axis=0),
        spread=spread,
        learning_rate=RATE,
        columns=1,
    )
    return match_images(module, weights, seen, training, np.random.default_rng(1), steps=60, hurry=lambda: False)[0]


def alike(one: Floats, other: Floats) -> float:
    return float(np.corrcoef(one[:64], other[:64])[0, 1])


def test_an_image_comes_out_of_an_update_and_none_of_noise() -> None:
    known = spots()
    record, guess = known[0], known.mean(axis=0)
    seen = step(network(), record)
    found = searched(seen, known)
    assert alike(guess, record) < 0.75 and alike(found, record) > 0.88
    assert abs(found[64] - record[64]) < 0.05
    rng = np.random.default_rng(2)
    noise = {name: np.linalg.norm(moved) * rng.normal(size=moved.shape) / np.sqrt(moved.size) for name, moved in seen.items()}
    assert alike(searched(noise, known), record) < 0.75


def test_a_column_beside_an_image_is_read_off_the_last_layer_of_an_update_of_one_record() -> None:
    """Two units, inputs (a, b, x, y) of which the last two are columns: each row of the change is its bias's times the inputs."""
    inputs, error = np.array([0.3, -1.0, 2.5, -4.0]), np.array([0.2, -0.7])
    moved = {"blocks.weight": np.ones((3, 1, 3, 3)), "head.weight": np.outer(error, inputs), "head.bias": error}
    found = beside(moved, 2)
    assert found is not None
    np.testing.assert_allclose(found, [2.5, -4.0], rtol=1e-12)
    assert beside({"head.weight": np.outer(error, inputs)}, 2) is None
