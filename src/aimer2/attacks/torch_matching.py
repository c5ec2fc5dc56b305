"""Records searched for until training on them gives the update that was seen.

Zhu, Liu, Han 2019, "Deep Leakage from Gradients"; Geiping et al. 2020, "Inverting Gradients", section 6 for several local steps. The attacker
knows what a coordinator knows, the model, its weights, the study's terms and the order of the batches (from the study's seed), and is granted the
outcomes. The steps are replayed as gradient descent with momentum; of another optimiser only the direction of the update is compared. Where a dense
first layer gives the records' span away the search stays in it. Images of models without such a layer are searched as in Geiping et al., equation 4:
by the update's direction, and smooth.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from aimer2.attacks.inversion import FirstLayer, Floats, ratios, span
from aimer2.core import tree
from aimer2.core.tree import Tree

_LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "binary": functional.binary_cross_entropy_with_logits,
    "multiclass": functional.cross_entropy,
    "regression": functional.mse_loss,
}
_FOUND = 1e-9
_RATES = (0.1, 0.01)
_SMOOTH = 0.01
"""Weight of an image's total variation, in standard deviations of its pixels, beside 1 - the cosine."""


@final
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Training:
    """How the update came about. ``hospitals``: of each one whose update is in the sum, its batches in order, as numbers of rows;
    ``targets`` (rows,) of all of them."""

    kind: Literal["binary", "multiclass", "regression"]
    hospitals: Sequence[Sequence[npt.NDArray[np.int64]]]
    targets: npt.NDArray[Any]
    feature_shape: tuple[int, ...]
    centre: Floats
    spread: Floats
    """Where records are likely, per feature: the search starts there."""
    learning_rate: float
    columns: int = 0
    """How many of an image's channels, the last ones, are columns, each of one value everywhere."""
    momentum: float = 0.0
    weight_decay: float = 0.0
    plain_descent: bool = True
    """Whether the optimiser is gradient descent, which can be replayed; else only directions are compared."""


def match(
    module: nn.Module, weights: Tree, seen: Tree, training: Training, layer: FirstLayer | None, rng: np.random.Generator, *, steps: int = 150
) -> Floats:
    """Candidates for all rows of the sum, (rows, features). ``seen``: the sum of differences; ``steps``: of the search, twice: Adam, then L-BFGS."""
    search = _Search(module, weights, seen, training)
    rows = len(training.targets)
    basis = None if layer is None else span(layer)
    free = torch.eye(int(np.prod(training.feature_shape)), dtype=torch.float64) if basis is None else torch.from_numpy(basis)
    start = training.centre + training.spread * rng.normal(size=(rows, free.shape[1]))
    known = np.empty((0, free.shape[1])) if layer is None else ratios(layer)
    start[: len(known)] = rng.permutation(known)[:rows]
    at = (torch.from_numpy(start) @ free.T).requires_grad_()
    _descend(lambda: search.distance(at @ free), at, steps)
    return (at @ free).detach().numpy()


def match_images(
    module: nn.Module, weights: Tree, seen: Tree, training: Training, rng: np.random.Generator, *, steps: int, hurry: Callable[[], bool]
) -> Floats:
    """As `match`, for images: ``centre``, ``spread`` and the candidates are of the pixels, then the columns. Ends early where ``hurry`` says so."""
    search = _Search(module, weights, seen, replace(training, plain_descent=False))
    channels, height, width = training.feature_shape
    image = channels - training.columns, height, width
    centre, spread = torch.from_numpy(training.centre), torch.from_numpy(training.spread)
    at = torch.from_numpy(0.1 * rng.normal(size=(len(training.targets), len(centre)))).requires_grad_()
    descent = torch.optim.Adam([at], lr=_RATES[0])
    for number in range(3 * steps):
        if hurry():
            break
        descent.param_groups[0]["lr"] = _RATES[number >= 2 * steps]
        descent.zero_grad()
        found = centre + spread * at
        planes = found[:, prod(image) :, None].expand(-1, -1, height * width).reshape(len(at), -1)
        rough = at[:, : prod(image)].reshape(-1, *image)
        variation = rough.diff(dim=2).abs().sum() + rough.diff(dim=3).abs().sum()
        distance = search.distance(torch.cat([found[:, : prod(image)], planes], dim=1)) + _SMOOTH * variation / rough.numel()
        distance.backward()  # type: ignore[no-untyped-call]
        descent.step()
    return (centre + spread * at).detach().numpy()


def _descend(distance: Callable[[], Tensor], at: Tensor, steps: int) -> None:
    for rate in _RATES:
        coarse = torch.optim.Adam([at], lr=rate)
        for _ in range(steps // 2):
            coarse.zero_grad()
            found = distance()
            if float(found.detach()) < _FOUND:
                return
            found.backward()  # type: ignore[no-untyped-call]
            coarse.step()
    fine = torch.optim.LBFGS([at], max_iter=steps, history_size=30, line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=1e-14)

    def again() -> float:
        fine.zero_grad()
        found = distance()
        found.backward()  # type: ignore[no-untyped-call]
        return float(found.detach())

    fine.step(again)  # type: ignore[no-untyped-call]


@final
class _Search:
    """How far the update of given records is from the one that was seen."""

    def __init__(self, module: nn.Module, weights: Tree, seen: Tree, training: Training) -> None:
        self._module = copy.deepcopy(module).cpu().double().train()
        names = [name for name, _ in self._module.named_parameters() if name in seen]
        self._weights = {name: _tensor(weights[name]).requires_grad_() for name in names}
        goal = torch.cat([_tensor(seen[name]).reshape(-1) for name in names])
        self._length = goal.norm().clamp_min(1e-30)
        self._goal = goal / self._length
        self._training = training
        targets = torch.from_numpy(np.asarray(training.targets))
        self._targets = targets.long() if training.kind == "multiclass" else targets.double()

    def distance(self, flat: Tensor) -> Tensor:
        records = flat.reshape(len(flat), *self._training.feature_shape)
        given = torch.cat([part.reshape(-1) for part in self._update(records).values()])
        if not self._training.plain_descent:
            return 1 - functional.cosine_similarity(given, self._goal, dim=0)
        distance: Tensor = ((given / self._length - self._goal) ** 2).sum()
        return distance

    def _update(self, records: Tensor) -> dict[str, Tensor]:
        total = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        for batches in self._training.hospitals:
            rows = len(np.unique(np.concatenate(list(batches))))
            trained = self._trained(records, batches)
            total = {name: total[name] + rows * (trained[name] - weight) for name, weight in self._weights.items()}
        return total

    def _trained(self, records: Tensor, batches: Sequence[npt.NDArray[np.int64]]) -> dict[str, Tensor]:
        training = self._training
        weights, velocity = dict(self._weights), {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        for chosen in batches:
            loss = self._loss(weights, records[chosen], self._targets[chosen])
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            for name, gradient in zip(velocity, gradients, strict=True):
                velocity[name] = training.momentum * velocity[name] + gradient + training.weight_decay * weights[name]
            weights = {name: weight - training.learning_rate * velocity[name] for name, weight in weights.items()}
        return weights

    def _loss(self, weights: Mapping[str, Tensor], features: Tensor, targets: Tensor) -> Tensor:
        outputs = functional_call(self._module, dict(weights), (features,))
        outputs = outputs if self._training.kind == "multiclass" else outputs.reshape(len(features))
        return _LOSSES[self._training.kind](outputs, targets)


def _tensor(leaf: Any) -> Tensor:
    return torch.from_numpy(np.array(tree.load(leaf), np.float64))
