"""Any ``torch.nn.Module``, on the CPU or a GPU.

What travels: parameters and persistent float buffers (running means) under the module's own names. Integer buffers (batches counted) stay,
and go back to their untrained values at every ``load``. A fit seeds torch's own generator, so dropout repeats too; how many threads torch uses
is left to the process. Loss by the target: binary → one output, the log odds of class 1, binary cross-entropy; multiclass → one output per
class, cross-entropy; regression → one output, mean squared error.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from math import isfinite, prod
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimer2.core import tree
from aimer2.core.dataset import Dataset, Samples
from aimer2.core.errors import BadModel, BadUpdate, NotAvailable
from aimer2.core.protocols import Correction, Selector
from aimer2.core.study import Training
from aimer2.core.tree import Tree
from aimer2.learners.batches import batches
from aimer2.learners.recipe import WITH_MOMENTUM, Recipe
from aimer2.metrics.figures import measure

CHUNK = 1 << 20
"""Feature values predicted at a time."""

RESIDENT_BYTES = 1 << 30
"""Data in memory up to this size lie on the GPU through a fit; larger ones are moved batch by batch."""

_OPTIMISERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
_LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "binary": functional.binary_cross_entropy_with_logits,
    "multiclass": functional.cross_entropy,
    "regression": functional.mse_loss,
}


@final
class TorchLearner:
    """Trains a module with one of torch's optimisers, fresh in every round; the module stays on its device between rounds."""

    def __init__(self, build: Callable[[], nn.Module], recipe: Recipe, device: str | None = None) -> None:
        """``build`` draws its weights from torch's generator; ``device`` as torch writes it, None: a GPU if there is one.

        Raises BadModel where parameters or outputs have a wrong form, NotAvailable where the machine has no such device.
        """
        self._build = build
        self._recipe = recipe
        self._device = _device(device)
        self._loss = _LOSSES[recipe.target.kind]
        self._resident: tuple[Dataset, Tensor, Tensor] | None = None
        self.initialise(np.random.default_rng(0))
        self._probe()

    def initialise(self, rng: np.random.Generator) -> None:
        torch.manual_seed(int(rng.integers(2**63)))
        self._module = self._build()
        if not isinstance(self._module, nn.Module):
            raise BadModel("`build` did not return a torch.nn.Module.")
        kept = self._module.state_dict().keys()
        self._module.to(self._device)
        self._weights = {name: parameter.detach() for name, parameter in self._module.named_parameters()}
        self._learned = {name: parameter for name, parameter in self._module.named_parameters() if parameter.requires_grad}
        inner = {name: buffer for name, buffer in self._module.named_buffers() if name in kept}
        self._buffers = {name: buffer for name, buffer in inner.items() if buffer.is_floating_point()}
        self._counters = [(buffer, buffer.clone()) for name, buffer in inner.items() if name not in self._buffers]
        self._travelling = {**self._weights, **self._buffers}
        for name, tensor in self._travelling.items():
            if tensor.dtype not in (torch.float32, torch.float64):
                raise BadModel(f"{name} is neither float32 nor float64; for half precision set training.mixed_precision.")
        self._dtype = next((tensor.dtype for tensor in self._weights.values()), torch.float32)
        self._normalises = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in self._module.modules())

    @property
    def buffers(self) -> frozenset[str]:
        return frozenset(self._buffers)

    def parameters(self) -> Tree:
        return {name: tensor.cpu().numpy().copy() for name, tensor in self._travelling.items()}

    def load(self, parameters: Tree) -> None:
        _check_names(self._travelling, parameters)
        with torch.no_grad():
            for name, tensor in self._travelling.items():
                tensor.copy_(_tensor(parameters[name]))
            for counter, untrained in self._counters:
                counter.copy_(untrained)

    def native(self, tree_: Tree) -> Tree:
        arrays = {name: _tensor(leaf) for name, leaf in tree_.items()}
        return {name: leaf.to(self._device, self._dtype if leaf.is_floating_point() else leaf.dtype) for name, leaf in arrays.items()}

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
        """The correction gets the parameters themselves, detached: they change after it has returned. No steps: 0."""
        self._recipe.check(data)
        # off a copy, so that the batches are those of every other framework
        torch.manual_seed(int(copy.deepcopy(rng).integers(2**63)))
        trained = self._prepare(trainable)
        optimiser = _optimiser(self._recipe.training, list(trained.values()), self._recipe.learning_rate(round_number))
        half = self._half()
        scaler = torch.amp.GradScaler(self._device.type, enabled=half is torch.float16)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        order = batches(len(data), batch_size=batch_size, steps=steps, rng=rng, at_least=2 if self._normalises else 1)
        for features, targets in self._feed(data, order):
            with contextlib.nullcontext() if half is None else torch.autocast(self._device.type, dtype=half):
                outputs = self._module(features)
            loss = self._loss(self._logits(outputs, len(features)), targets)
            optimiser.zero_grad()
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            if correction is not None:
                scaler.unscale_(optimiser)
                self._correct(correction, trained)
            scaler.step(optimiser)
            scaler.update()
            total += loss.detach()
        # one look at the end, not one a step, which would make a GPU wait: a sum with a value that is not finite is not finite
        mean = float(total) / max(steps, 1)
        if not isfinite(mean):
            raise BadUpdate("The training loss is not finite.")
        return mean

    def predict(self, data: Dataset) -> npt.NDArray[Any]:
        """Not in half precision even where training is."""
        return self._measured(data)[0]

    def evaluate(self, data: Dataset) -> Tree:
        self._recipe.check(data)
        scores, loss = self._measured(data, with_loss=True)
        return measure(self._recipe.target.kind, scores, np.asarray(data.targets), loss, self._recipe.metrics)

    def _prepare(self, trainable: Selector | None) -> dict[str, nn.Parameter]:
        """Puts the module into training; what is not to change needs no gradient, and keeps its running means."""
        self._module.train()
        for name, parameter in self._learned.items():
            parameter.requires_grad_(trainable is None or name in trainable)
            parameter.grad = None
        for name, part in self._module.named_modules():
            own = self._buffers.keys() & {f"{name}.{buffer}".lstrip(".") for buffer, _ in part.named_buffers(recurse=False)}
            if own and trainable is not None and own.isdisjoint(trainable):
                part.eval()
        return {name: parameter for name, parameter in self._learned.items() if parameter.requires_grad}

    def _half(self) -> torch.dtype | None:
        """The short type of mixed precision: bfloat16, or float16 (with scaled gradients) on a GPU that lacks it."""
        if not self._recipe.training.mixed_precision:
            return None
        lacks = self._device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.float16 if lacks else torch.bfloat16

    def _logits(self, outputs: Any, rows: int) -> Tensor:
        expected = (rows, *self._recipe.score_shape)
        if isinstance(outputs, Tensor) and outputs.shape == (rows, 1) and expected == (rows,):
            outputs = outputs.squeeze(1)
        if not isinstance(outputs, Tensor) or outputs.shape != expected:
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise BadModel(f"For a {self._recipe.target.kind} target the model gives one output per {self._per()}; it gave {shape} for {rows} rows.")
        return outputs.to(self._dtype)

    def _per(self) -> str:
        return "row and class" if self._recipe.target.kind == "multiclass" else "row"

    def _correct(self, correction: Correction, trained: Mapping[str, nn.Parameter]) -> None:
        gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained.items()}
        with torch.no_grad():
            corrected = correction({name: self._weights[name] for name in trained}, gradients)
        _check_names(gradients, corrected)
        for name, parameter in trained.items():
            parameter.grad = corrected[name]

    def _converted(self, features: npt.NDArray[Any], targets: npt.NDArray[Any]) -> tuple[Tensor, Tensor]:
        kind = torch.int64 if self._recipe.target.kind == "multiclass" else self._dtype
        return _tensor(features).to(self._dtype), _tensor(targets).to(kind)

    def _feed(self, data: Dataset, order: Iterator[npt.NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches on the device; rows in memory are converted once per data set, all rows at once only once per fit."""
        held = None
        whole = self._in_memory(data)
        for rows in order:
            if rows is not held:
                held = rows
                if whole is None:
                    features, targets = self._converted(*data.batch(rows))
                elif len(rows) == len(data):
                    features, targets = whole
                else:
                    chosen = torch.from_numpy(rows).to(whole[0].device)
                    features, targets = whole[0].index_select(0, chosen), whole[1].index_select(0, chosen)
                features, targets = features.to(self._device), targets.to(self._device)
            yield features, targets

    def _in_memory(self, data: Dataset) -> tuple[Tensor, Tensor] | None:
        """All rows as tensors, kept until another data set is trained on; None where the rows are read as they are needed."""
        if not isinstance(data, Samples):
            return None
        if self._resident is None or self._resident[0] is not data:
            features, targets = self._converted(data.features, data.targets)
            if features.nbytes <= RESIDENT_BYTES:
                features, targets = features.to(self._device), targets.to(self._device)
            self._resident = (data, features, targets)
        return self._resident[1:]

    @torch.inference_mode()
    def _measured(self, data: Dataset, *, with_loss: bool = False) -> tuple[npt.NDArray[Any], float]:
        """Scores of all rows and, if asked for, the sum of their losses."""
        self._module.eval()
        scores, loss = np.empty((len(data), *self._recipe.score_shape)), 0.0
        chunk = max(1, CHUNK // max(1, prod(self._recipe.feature_shape)))
        for start in range(0, len(data), chunk):
            rows = np.arange(start, min(start + chunk, len(data)))
            features, targets = self._converted(*data.batch(rows))
            logits = self._logits(self._module(features.to(self._device)), len(rows)).double()
            if with_loss:
                kind = targets if self._recipe.target.kind == "multiclass" else targets.double()
                loss += float(self._loss(logits, kind.to(self._device), reduction="sum"))
            scores[rows] = self._scores(logits).cpu().numpy()
        return scores, loss

    def _scores(self, logits: Tensor) -> Tensor:
        match self._recipe.target.kind:
            case "binary":
                return logits.sigmoid()
            case "multiclass":
                return logits.softmax(dim=1)
            case _:
                return logits

    def _probe(self) -> None:
        """A forward pass of two rows of zeros, so that a model of the wrong form is refused before any patient's record is read."""
        shape = (2, *self._recipe.feature_shape)
        self._measured(Samples(np.zeros(shape, np.float32), np.zeros(2)))


def _device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise NotAvailable(f"torch knows no device '{name}'.", remedy="Use cpu, cuda or cuda:0.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise NotAvailable("This machine has no GPU that torch can use.", remedy="Leave the device out: the CPU is used then.")
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    return device


def _optimiser(training: Training, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    momentum = {"momentum": training.momentum} if training.optimiser in WITH_MOMENTUM else {}
    return _OPTIMISERS[training.optimiser](parameters, lr=rate, weight_decay=training.weight_decay, **momentum)


def _tensor(leaf: Any) -> Tensor:
    """A tensor of any leaf; shares memory where it may be written to."""
    if isinstance(leaf, Tensor):
        return leaf
    array = np.asarray(tree.load(leaf))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _check_names(own: Mapping[str, Tensor], given: Tree) -> None:
    """Raises BadModel unless both have the same names and shapes."""
    if own.keys() != given.keys():
        odd = sorted(own.keys() ^ given.keys())[:3]
        raise BadModel(f"Names differ between the model and what was given: {', '.join(odd)}.")
    for name, tensor in own.items():
        if tuple(given[name].shape) != tuple(tensor.shape):
            raise BadModel(f"{name} has shape {tuple(tensor.shape)}; given was {tuple(given[name].shape)}.")
