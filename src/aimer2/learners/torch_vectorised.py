"""Many sites' PyTorch models trained in one batched computation: for the simulator, where a round of a small model is all calls and no arithmetic.

The sites' weights lie in one array per leaf, ``(sites, *shape)``. A step is one forward pass over all of them (`torch.vmap` of the module as a
function of its weights), one backward pass and one step of the very optimiser that a single site has: each of them works element by element.
What each site gives its learner stays its own: the rows of each batch are drawn from its own stream, its gradients go through its own correction,
and it stops after its own steps. Shorter batches are filled up with a row that counts 0.

The mathematics is that of `aimer2.learners.torch`, the rounding is not: products of many small matrices are added in another order. So a
simulation has the bits of hospitals only without this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any, TypeVar, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call

from aimer2.core import tree
from aimer2.core.dataset import Dataset, Samples
from aimer2.core.errors import AimerError, BadModel, BadUpdate, NotAvailable
from aimer2.core.protocols import Correction, Learner, Selector
from aimer2.core.said import say
from aimer2.core.tree import Tree
from aimer2.learners.batches import Rows, batches
from aimer2.learners.torch import TorchLearner, check_names
from aimer2.learners.torch_feed import RESIDENT_BYTES, as_tensor
from aimer2.learners.turns import Turns

ABREAST = 256
"""Sites that are trained at once at most."""

VALUES = 1 << 24
"""Weights of all sites that are trained at once: larger models are trained fewer at a time, and gain little."""

TOLERANCE = 1e-3
"""By how much of its largest value a gradient may differ from that of the model alone: far more than rounding, far less than another sum."""

_PROBED = 4
"""Rows of the probe, of which the last fills up."""

Made = TypeVar("Made")


@final
@dataclass(frozen=True, slots=True)
class Fit:
    """What one site asks for: from these weights, one step over each of these batches."""

    start: Tree
    data: Dataset
    rows: Sequence[Rows]
    round_number: int
    correction: Correction | None
    trainable: frozenset[str] | None


@final
@dataclass(frozen=True, slots=True)
class Fitted:
    """The weights after it, and the mean loss."""

    weights: Tree
    loss: float


@final
class SiteLearner:
    """One site's learner of a model that all sites share; it holds the weights, and fits when all sites do."""

    def __init__(self, shared: VectorisedTorchLearner) -> None:
        self._shared = shared
        self._weights = shared.parameters()

    @property
    def buffers(self) -> frozenset[str]:
        return self._shared.buffers

    def initialise(self, rng: np.random.Generator) -> None:
        self._shared.initialise(rng)
        self._weights = self._shared.parameters()

    def parameters(self) -> Tree:
        return {name: leaf.copy() for name, leaf in self._weights.items()}

    def load(self, parameters: Tree) -> None:
        self._weights = self._shared.held(parameters)

    def native(self, tree_: Tree) -> Tree:
        return self._shared.native(tree_)

    def fit(
        self,
        data: Dataset,
        *,
        steps: int,
        batch_size: int | None,
        round_number: int,
        rng: np.random.Generator,
        correction: Correction | None = None,
        trainable: Selector | None = None,
    ) -> float:
        """The correction's parameters and gradients are this site's alone."""
        self._shared.check(data)
        rows = list(batches(len(data), batch_size=batch_size, steps=steps, rng=rng))
        chosen = None if trainable is None else frozenset(trainable)
        fitted = self._shared.turns.ask(Fit(self._weights, data, rows, round_number, correction, chosen))
        self._weights = fitted.weights
        if not isfinite(fitted.loss):
            raise BadUpdate("The training loss is not finite.")
        return fitted.loss

    def predict(self, data: Dataset) -> npt.NDArray[Any]:
        self._shared.load(self._weights)
        return self._shared.predict(data)

    def evaluate(self, data: Dataset) -> Tree:
        self._shared.load(self._weights)
        return self._shared.evaluate(data)


@final
class VectorisedTorchLearner(TorchLearner):
    """The model of all sites, of which `learner` gives each its own.

    Raises NotAvailable where the model cannot be trained so: `aimer2.learners.catalogue` has refused what the study itself asks for.
    """

    def initialise(self, rng: np.random.Generator) -> None:
        super().initialise(rng)
        self.turns: Turns[Fit, Fitted] = Turns(self._fitted)
        self._rows: dict[frozenset[int], _Rows] = {}
        if why := _alone(self._module):
            raise cannot(why)

    def learner(self) -> Learner:
        return SiteLearner(self)

    def abreast(self, calls: Sequence[Callable[[], Made]]) -> Iterator[Made]:
        """What the calls return, in their order; as many at once as there is room for."""
        size = max(1, min(ABREAST, VALUES // max(1, sum(prod(leaf.shape) for leaf in self._travelling.values()))))
        for start in range(0, len(calls), size):
            yield from self.turns.take(calls[start : start + size])

    def check(self, data: Dataset) -> None:
        """Raises BadData where features or targets are not what the model was built for."""
        self._recipe.check(data)

    def held(self, parameters: Tree) -> Tree:
        """These weights as arrays that nobody else changes. Raises BadModel where names or shapes differ."""
        check_names(self._travelling, parameters)
        return {name: _own(parameters[name], tensor) for name, tensor in self._travelling.items()}

    def _fitted(self, fits: Sequence[Fit]) -> list[Fitted | Exception]:
        """Those that train the same leaves at the same rate go together."""
        alike: dict[tuple[int, frozenset[str] | None], list[int]] = {}
        for number, fit in enumerate(fits):
            alike.setdefault((fit.round_number, fit.trainable), []).append(number)
        found: dict[int, Fitted | Exception] = {}
        for numbers in alike.values():
            # those that take more steps first: who goes on is always the beginning
            numbers.sort(key=lambda number: -len(fits[number].rows))
            try:
                found |= zip(numbers, self._together([fits[number] for number in numbers]), strict=True)
            except AimerError as error:
                found |= dict.fromkeys(numbers, error)
        return [found[number] for number in range(len(fits))]

    def _together(self, fits: Sequence[Fit]) -> list[Fitted | Exception]:
        """All of them, those with more steps first. A site that fails is told its error in its place; its weights go on, for nobody."""
        trainable = fits[0].trainable
        self._prepare(trainable)
        weights = {name: _stacked([fit.start[name] for fit in fits], tensor) for name, tensor in self._travelling.items()}
        trained = {name: weights[name].requires_grad_() for name in self._learned if trainable is None or name in trainable}
        data, failed = [fit.data for fit in fits], dict[int, Exception]()
        rows = self._rows_of(data)
        descent = self._optimiser(list(trained.values()), fits[0].round_number)  # type: ignore[arg-type]
        losses = torch.zeros(len(fits), dtype=torch.float64, device=self._device)
        steps, ends = [len(fit.rows) for fit in fits], dict[int, Tree]()
        for number in range(steps[0] + 1):
            going = sum(count > number for count in steps)
            ends |= _taken_out(weights, range(going, len(fits) - len(ends)))
            if not going:
                break
            descent.zero_grad()
            for sites, width in _alike_in_length([len(fit.rows[number]) for fit in fits[:going]]):
                batch = rows.of(data, {site: fits[site].rows[number] for site in sites if site not in failed}, width, failed)
                if batch is not None:
                    losses[batch.sites] += self._backward(weights, batch)
            self._correct_each(fits[:going], trained, failed)
            descent.step()
        means = (losses / torch.tensor(steps, device=self._device).clamp(min=1)).tolist()
        return [failed.get(site) or Fitted(ends[site], mean) for site, mean in enumerate(means)]

    def _backward(self, weights: Mapping[str, Tensor], batch: _Batch) -> Tensor:
        """Adds the gradients of these sites' batches to theirs; gives their losses ``(sites,)``."""
        own = {name: leaf if len(leaf) == len(batch.sites) else leaf[batch.sites] for name, leaf in weights.items()}
        outputs = torch.vmap(self._outputs)(own, batch.features)
        if not isinstance(outputs, Tensor) or outputs.ndim < 2:
            raise BadModel("The model's output is no tensor with a row for each row of its input.")
        targets = batch.targets.flatten(0, 1)
        each = self._loss(self._logits(outputs.flatten(0, 1), len(targets)), targets, "none").reshape(batch.share.shape)
        loss = (each * batch.share).sum(dim=1)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        return loss.detach().double()

    def _outputs(self, weights: dict[str, Tensor], features: Tensor) -> Any:
        return functional_call(self._module, weights, (features,))

    def _correct_each(self, fits: Sequence[Fit], trained: Mapping[str, Tensor], failed: dict[int, Exception]) -> None:
        """Each site's gradients through its own correction, which may keep what it is given."""
        if not any(fit.correction for fit in fits):
            return
        corrected = {name: list(_gradient(leaf)) for name, leaf in trained.items()}
        weights = {name: list(leaf.detach()) for name, leaf in trained.items()}
        for site, fit in enumerate(fits):
            if fit.correction is None or site in failed:
                continue
            own = {name: leaves[site] for name, leaves in corrected.items()}
            try:
                with torch.no_grad():
                    changed = fit.correction({name: leaves[site] for name, leaves in weights.items()}, own)
                check_names(own, changed)
            except AimerError as error:
                failed[site] = error
                continue
            for name, leaf in changed.items():
                corrected[name][site] = leaf
        for name, leaf in trained.items():
            leaf.grad = torch.stack(corrected[name])

    def _rows_of(self, data: Sequence[Dataset]) -> _Rows:
        """These sites' rows; those in memory are put together once, and kept until a data set of them is put together with others."""
        key = frozenset(map(id, data))
        if key not in self._rows:
            self._rows = {those: kept for those, kept in self._rows.items() if those.isdisjoint(key)}
            room = RESIDENT_BYTES - sum(kept.bytes for kept in self._rows.values())
            made = _Rows(data, self._dtype, torch.int64 if self._objective.integers else self._dtype, self._device, room)
            if not made.bytes:
                return made
            self._rows[key] = made
        return self._rows[key]

    def _probe(self) -> None:
        """Also whether one of many sites' gradients is that of the model alone, though its batch is filled up: on drawn rows, before any patient's.

        A model whose rows see each other, or that torch cannot batch, is refused here. Raises NotAvailable.
        """
        super()._probe()
        if not self._learned:
            return
        # zeros and ones, which a model may take for codes too
        drawn = np.random.default_rng(0).integers(0, 2, (_PROBED, *self._recipe.feature_shape)).astype(np.float64)
        data = Samples(drawn, np.zeros((_PROBED, *self._recipe.target_shape), np.int64))
        batch = self._rows_of([data]).of([data, data], {0: np.arange(_PROBED - 1), 1: np.arange(_PROBED)}, _PROBED, {})
        assert batch is not None
        self._rows.clear()
        parameters = self._prepare(None)
        features, targets = batch.features[0, :-1], batch.targets[0, :-1]
        leaves = {name: torch.stack((leaf, 2 * leaf)).requires_grad_(name in parameters) for name, leaf in self._travelling.items()}
        try:
            self._loss(self._logits(self._module(features), len(features)), targets, "mean").backward()  # type: ignore[no-untyped-call]
            self._backward(leaves, batch)
        except Exception as error:  # noqa: BLE001 - the study's own code, on rows that it was not written for
            raise cannot(say("on drawn rows the model fails: {error}", error=str(error).partition("\n")[0])) from None
        alone = torch.cat([_gradient(parameter).reshape(-1) for parameter in parameters.values()])
        together = torch.cat([_gradient(leaves[name])[0].reshape(-1) for name in parameters])
        if not torch.allclose(alone, together, rtol=0, atol=TOLERANCE * float(alone.abs().max()), equal_nan=True):
            raise cannot(say("the rows of a batch see each other in this model, or it holds something from one batch to the next"))


@final
@dataclass(frozen=True, slots=True)
class _Batch:
    """One step's rows of some sites: ``features`` (sites, width, …), ``targets`` (sites, width, …), ``share`` (sites, width): of each row in its
    site's mean, 0 where a batch was filled up."""

    sites: Sequence[int]
    features: Tensor
    targets: Tensor
    share: Tensor


@final
class _Rows:
    """The rows of all sites one after another where they are in memory and there is room; else read batch by batch."""

    def __init__(self, data: Sequence[Dataset], features: torch.dtype, targets: torch.dtype, device: torch.device, room: int) -> None:
        self._data = list(data)  # kept, or another could have its number
        self._types = (features, targets)
        self._device = device
        ends = np.cumsum([len(one) for one in data])
        self._starts = {id(one): int(end) - len(one) for one, end in zip(data, ends, strict=True)}
        self._whole: tuple[Tensor, Tensor] | None = None
        rows = int(ends[-1])
        if all(isinstance(one, Samples) and one.in_memory for one in data) and rows * prod(data[0].feature_shape) * features.itemsize <= room:
            self._whole = self._tensors([(np.asarray(one.features), np.asarray(one.targets)) for one in data if isinstance(one, Samples)])

    @property
    def bytes(self) -> int:
        return 0 if self._whole is None else sum(part.nbytes for part in self._whole)

    def of(self, data: Sequence[Dataset], rows: Mapping[int, Rows], width: int, failed: dict[int, Exception]) -> _Batch | None:
        """``rows`` of each site, whose data sets are ``data``. A site whose rows cannot be read is put into ``failed``; None where none is left."""
        sites = list(rows)
        filled, share = np.zeros((len(sites), width), np.int64), np.zeros((len(sites), width))
        for place, chosen in enumerate(rows.values()):
            filled[place, : len(chosen)], share[place, : len(chosen)] = chosen, 1 / len(chosen)
            filled[place, len(chosen) :] = chosen[0]
        if self._whole is None:
            read = {}
            for place, site in enumerate(sites):
                try:
                    read[place] = data[site].batch(filled[place])
                except AimerError as error:
                    failed[site] = error
            sites, share = [sites[place] for place in read], share[list(read)]
        if not sites:
            return None
        if self._whole is None:
            features, targets = self._tensors(list(read.values()))
        else:
            starts = np.array([self._starts[id(data[site])] for site in sites])
            at = torch.from_numpy((filled + starts[:, None]).reshape(-1)).to(self._device)
            features, targets = (part.index_select(0, at) for part in self._whole)
        form = (len(sites), width)
        shares = torch.from_numpy(share).to(self._device, self._types[0])
        return _Batch(sites, features.reshape(*form, *features.shape[1:]), targets.reshape(*form, *targets.shape[1:]), shares)

    def _tensors(self, parts: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> tuple[Tensor, Tensor]:
        features, targets = (torch.cat([as_tensor(part[side]).to(self._types[side]) for part in parts]) for side in (0, 1))
        return features.to(self._device), targets.to(self._device)


def _alike_in_length(lengths: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """The sites in parts whose batches are of about one length, and how long the longest is: none is filled up to more than its double."""
    parts: dict[int, list[int]] = {}
    for site, length in enumerate(lengths):
        parts.setdefault((length - 1).bit_length(), []).append(site)
    for sites in parts.values():
        yield sites, max(lengths[site] for site in sites)


def _taken_out(weights: Mapping[str, Tensor], sites: range) -> dict[int, Tree]:
    """The weights of those that have taken their last step: what is done to the arrays from then on is nothing to them."""
    if not sites:
        return {}
    ends = {name: leaf.detach()[sites.start : sites.stop].cpu().numpy().copy() for name, leaf in weights.items()}
    return {site: {name: leaf[place] for name, leaf in ends.items()} for place, site in enumerate(sites)}


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _stacked(leaves: Sequence[npt.NDArray[Any]], like: Tensor) -> Tensor:
    if all(leaf is leaves[0] for leaf in leaves):
        # what all sites have received
        return torch.from_numpy(leaves[0].copy()).to(like).expand(len(leaves), *like.shape).clone()
    return torch.from_numpy(np.stack(leaves)).to(like)


def _own(leaf: Any, like: Tensor) -> npt.NDArray[Any]:
    """What is read-only already needs no copy."""
    array = leaf.detach().cpu().numpy() if isinstance(leaf, Tensor) else tree.load(leaf)
    return array.astype(np.float32 if like.dtype == torch.float32 else np.float64, copy=array.flags.writeable)


def _alone(module: nn.Module) -> str:
    """Why many sites' copies of the module cannot be computed as one; empty: they can."""
    kept = module.state_dict().keys()
    if any(name in kept for name, _ in module.named_buffers()):
        return say("the model keeps running means or counts, as batch normalisation does")
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            return say("the model has dropout, whose draws would be others")
    return ""


def cannot(why: str) -> NotAvailable:
    """The refusal, for this reason."""
    return NotAvailable(say("These sites cannot be trained in one computation: {why}.", why=why), remedy="Leave `vectorised` out.")
