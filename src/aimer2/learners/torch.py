"""Any ``torch.nn.Module``, on the CPU or a GPU.

What travels: parameters and persistent float buffers (running means) under the module's own names. Integer buffers (batches counted) stay,
and go back to their untrained values at every ``load``. A fit seeds torch's own generator, so dropout repeats too; how many threads torch uses
is left to the process. `aimer2.learners.torch_losses` says what outputs each target asks for, and what is minimised.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from math import isfinite, prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aimer2.core.dataset import Dataset, Samples, rows_of
from aimer2.core.errors import BadModel, BadUpdate, NotAvailable
from aimer2.core.protocols import Correction, Selector
from aimer2.core.said import say
from aimer2.core.tree import Tree
from aimer2.learners import torch_lightning
from aimer2.learners.batches import batches, in_parts, set_aside
from aimer2.learners.recipe import Recipe
from aimer2.learners.tasks import OWN_OPTIMISER
from aimer2.learners.torch_descent import Optimiser, foreseen, optimiser, seed
from aimer2.learners.torch_feed import Feed, as_tensor
from aimer2.learners.torch_losses import objective
from aimer2.learners.torch_low_rank import with_factors
from aimer2.learners.torch_stopping import Stopping
from aimer2.metrics.figures import measure, summed

CHUNK = 1 << 20
"""Feature values predicted at a time."""

_PARTS = {"multiclass": "class", "multilabel": "label", "survival": "interval", "segmentation": "class and pixel"}


class TorchLearner:
    """Trains a module with one of torch's optimisers, fresh in every round; the module stays on its device between rounds.

    `aimer2.learners.torch_private` trains the same module by gradients that tell little of a patient.
    """

    def __init__(self, build: Callable[[], nn.Module], recipe: Recipe, device: str | None = None, *, learned_only: bool = False) -> None:
        """``build`` draws its weights from torch's generator; ``device`` as torch writes it, None: a GPU if there is one. ``learned_only``: of
        its leaves only those travel that learn.

        Raises BadModel where parameters or outputs have a wrong form, NotAvailable where the machine has no such device.
        """
        self._build = build
        self._recipe = recipe
        self._learned_only = learned_only
        self._device = _device(device)
        self._objective = objective(recipe.target, recipe.training)
        self._loss = self._objective.loss
        self._fed: Feed | None = None
        self._aside: tuple[Dataset, Samples, Samples] | None = None
        self.initialise(np.random.default_rng(0))
        self._probe()

    def initialise(self, rng: np.random.Generator) -> None:
        seed(int(rng.integers(2**63)), self._device)
        self._module = self._build()
        if not isinstance(self._module, nn.Module):
            raise BadModel("`build` did not return a torch.nn.Module.")
        self._check_trains(self._module)
        kept = self._module.state_dict().keys()
        self._module.to(self._device)
        self._weights = {name: parameter.detach() for name, parameter in self._module.named_parameters()}
        self._learned = {name: parameter for name, parameter in self._module.named_parameters() if parameter.requires_grad}
        inner = {name: buffer for name, buffer in self._module.named_buffers() if name in kept}
        self._buffers = {name: buffer for name, buffer in inner.items() if buffer.is_floating_point()}
        self._counters = [(buffer, buffer.clone()) for name, buffer in inner.items() if name not in self._buffers]
        every = {**self._weights, **self._buffers}
        self._travelling = {name: every[name] for name in self._learned} if self._learned_only else every
        for name, tensor in self._travelling.items():
            if tensor.dtype not in (torch.float32, torch.float64):
                raise BadModel(say("{name} is neither float32 nor float64; for half precision set training.mixed_precision.", name=name))
        self._dtype = next((tensor.dtype for tensor in self._weights.values()), torch.float32)
        self._normalises = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in self._module.modules())

    @property
    def buffers(self) -> frozenset[str]:
        return frozenset(self._buffers)

    def parameters(self) -> Tree:
        return {name: tensor.cpu().numpy().copy() for name, tensor in self._travelling.items()}

    def load(self, parameters: Tree) -> None:
        check_names(self._travelling, parameters)
        with torch.no_grad():
            for name, tensor in self._travelling.items():
                tensor.copy_(as_tensor(parameters[name]))
            for counter, untrained in self._counters:
                counter.copy_(untrained)

    def native(self, tree_: Tree) -> Tree:
        arrays = {name: as_tensor(leaf) for name, leaf in tree_.items()}
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
        """The correction gets the parameters themselves, detached: they change after it has returned. No steps: 0.

        With early stopping the steps are the most there are; the validation part of the rows is not trained on, and the weights that did best
        on it after a pass are the ones left. Raises BadData where that part is empty.
        """
        self._recipe.check(data)
        data, judged = self._divided(data)
        seed(foreseen(rng), self._device)
        descent = self._descent(data, self._prepare(trainable), round_number, correction)
        stopping = None if judged is None else Stopping(self._recipe.training.patience or 1, self._travelling)
        per_pass = 1 if batch_size is None else -(-len(data) // batch_size)
        total, taken = torch.zeros((), dtype=torch.float64, device=self._device), 0
        for rows in batches(len(data), batch_size=batch_size, steps=steps, rng=rng, at_least=self._at_least):
            total += descent(rows, taken)
            taken += 1
            if stopping is None or judged is None or (taken % per_pass and taken < steps):
                continue
            if stopping.enough(sum(self._measured(part, with_loss=True)[1] for part in self._in_turn(judged))):
                break
            self._prepare(trainable)
        if stopping is not None:
            stopping.restore()
        # one look at the end, not one a step, which would make a GPU wait: a sum with a value that is not finite is not finite
        mean = float(total) / max(taken, 1)
        if not isfinite(mean):
            raise BadUpdate("The training loss is not finite.")
        return mean

    def adapted(self, weights: Collection[str], full: Collection[str], *, rank: int, scale: float) -> TorchLearner:
        """A learner over a copy of this model as it stands, of which only low-rank factors of the named weights and the leaves in ``full`` learn
        and travel. Raises BadModel where a name is not the weight of a plain linear layer.
        """
        module = with_factors(self._module, weights, full, rank, scale)
        return TorchLearner(lambda: module, self._recipe, str(self._device), learned_only=True)

    def predict(self, data: Dataset) -> npt.NDArray[Any]:
        """Not in half precision even where training is."""
        return self._measured(data)[0]

    def evaluate(self, data: Dataset) -> Tree:
        self._recipe.check(data)
        return summed([self._evaluated(part) for part in self._in_turn(data)])

    def _evaluated(self, data: Dataset) -> dict[str, npt.NDArray[Any]]:
        scores, loss = self._measured(data, with_loss=True)
        return measure(self._recipe.target.kind, scores, np.asarray(data.targets), loss, self._recipe.metrics, timeline=self._recipe.timeline)

    def _in_turn(self, data: Dataset) -> list[Dataset]:
        """All rows at once, or of images whose pixels are told so many as fit into memory."""
        if self._recipe.target.kind != "segmentation":
            return [data]
        step = max(1, CHUNK // prod(self._recipe.score_shape))
        return [rows_of(data, np.arange(start, min(start + step, len(data)))) for start in range(0, max(len(data), 1), step)]

    @property
    def _at_least(self) -> int:
        """Rows that batch normalisation needs."""
        return 2 if self._normalises else 1

    def _divided(self, data: Dataset) -> tuple[Dataset, Samples | None]:
        """The rows to train on, and those that early stopping looks at; divided once per data set."""
        share = self._recipe.training.validation_share
        if not share:
            return data, None
        if self._aside is None or self._aside[0] is not data:
            self._aside = (data, *set_aside(data, share))
        return self._aside[1:]

    def _descent(
        self, data: Dataset, trained: Mapping[str, nn.Parameter], round_number: int, correction: Correction | None
    ) -> Callable[[npt.NDArray[np.int64], int], Tensor]:
        """One step of the optimiser, by the rows of its batch and its number; gives their mean loss."""
        training, feed, half = self._recipe.training, self._fed_by(data), self._half()
        descent = self._optimiser(list(trained.values()), round_number)
        scaler = torch.amp.GradScaler(self._device.type, enabled=half is torch.float16)

        def step(rows: npt.NDArray[np.int64], number: int) -> Tensor:
            losses = []
            descent.zero_grad()
            for part in [rows] if training.accumulation is None else in_parts(rows, training.accumulation, at_least=self._at_least):
                features, targets = feed(part)
                with contextlib.nullcontext() if half is None else torch.autocast(self._device.type, dtype=half):
                    loss = self._share(features, targets, number, len(rows))
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach().double())
            if correction is not None:
                scaler.unscale_(descent)  # type: ignore[arg-type] # its parameters are all that is asked of it
                self._correct(correction, trained)
            scaler.step(descent)  # type: ignore[arg-type]
            scaler.update()
            return functools.reduce(torch.add, losses)

        return step

    def _share(self, features: Tensor, targets: Tensor, number: int, rows: int) -> Tensor:
        """The part of these rows in the mean loss of a batch of so many."""
        if self._recipe.training.optimiser == OWN_OPTIMISER:
            mean = torch_lightning.loss(self._module, features, targets, number)
        else:
            mean = self._loss(self._logits(self._module(features), len(features)), targets, "mean")
        return mean if len(features) == rows else mean * (len(features) / rows)

    def _optimiser(self, parameters: list[nn.Parameter], round_number: int) -> Optimiser:
        training = self._recipe.training
        if training.optimiser == OWN_OPTIMISER:
            return torch_lightning.optimiser(self._module)
        return optimiser(training, parameters, self._recipe.learning_rate(round_number))

    def _check_trains(self, module: nn.Module) -> None:
        """A module that trains itself and a study that says how to train would not know of each other."""
        own = torch_lightning.trains_itself(module)
        if own and self._recipe.training.optimiser != OWN_OPTIMISER:
            raise BadModel(
                say(
                    "The module says itself how it trains (`training_step`); the study must agree: training.optimiser = '{own_optimiser}'.",
                    own_optimiser=OWN_OPTIMISER,
                )
            )
        if not own and self._recipe.training.optimiser == OWN_OPTIMISER:
            raise BadModel("The module has no `training_step` and `configure_optimizers`; give the study an optimiser.")

    def _prepare(self, trainable: Selector | None) -> dict[str, nn.Parameter]:
        """Puts the module into training; what is not to change needs no gradient, and keeps its running means.

        Raises BadModel where nothing is left to learn.
        """
        self._module.train()
        for name, parameter in self._learned.items():
            parameter.requires_grad_(trainable is None or name in trainable)
            parameter.grad = None
        for name, part in self._module.named_modules() if self._buffers and trainable is not None else ():
            own = self._buffers.keys() & {f"{name}.{buffer}".lstrip(".") for buffer, _ in part.named_buffers(recurse=False)}
            if own and trainable is not None and own.isdisjoint(trainable):
                part.eval()
        trained = {name: parameter for name, parameter in self._learned.items() if parameter.requires_grad}
        if not trained:
            raise BadModel(
                "None of the weights that are to be trained learns.", remedy="Name layers that have weights, and freeze not all of the model."
            )
        return trained

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
            raise BadModel(
                say(
                    "For a {kind} target the model gives one output per {per}; it gave {shape} for {rows} rows.",
                    kind=self._recipe.target.kind,
                    per=self._per(),
                    shape=shape,
                    rows=rows,
                )
            )
        return outputs.to(self._dtype)

    def _per(self) -> str:
        shape = self._recipe.score_shape
        return f"row and {_PARTS[self._recipe.target.kind]}" if shape else "row"

    def _correct(self, correction: Correction, trained: Mapping[str, nn.Parameter]) -> None:
        gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained.items()}
        with torch.no_grad():
            corrected = correction({name: self._weights[name] for name in trained}, gradients)
        check_names(gradients, corrected)
        for name, parameter in trained.items():
            parameter.grad = corrected[name]

    def _feed(self, data: Dataset, order: Iterator[npt.NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self._fed_by(data), order)

    def _fed_by(self, data: Dataset) -> Feed:
        if self._fed is None or self._fed.data is not data:
            self._fed = Feed(data, self._dtype, torch.int64 if self._objective.integers else self._dtype, self._device)
        return self._fed

    @torch.inference_mode()
    def _measured(self, data: Dataset, *, with_loss: bool = False) -> tuple[npt.NDArray[Any], float]:
        """Scores of all rows and, if asked for, the sum of their losses."""
        self._module.eval()
        outputs = torch.empty((len(data), *self._recipe.score_shape), dtype=torch.float64)
        chunk = max(1, CHUNK // max(1, prod(self._recipe.feature_shape)))
        for start in range(0, len(data), chunk):
            rows = np.arange(start, min(start + chunk, len(data)))
            features = as_tensor(data.batch(rows)[0]).to(self._device, self._dtype)
            outputs[start : start + chunk] = self._logits(self._module(features), len(rows))
        # of all rows at once: a risk set does not fall into chunks
        loss = 0.0
        if with_loss and len(data):
            targets = as_tensor(np.asarray(data.targets)).to(torch.int64 if self._objective.integers else torch.float64)
            loss = float(self._loss(outputs, targets, "sum"))
        return self._objective.scores(outputs).numpy(), loss

    def scorer(self) -> nn.Module:
        """The model as it stands, from rows ``(n, *feature_shape)`` to scores: what `predict` computes, as a module to hand on."""
        return _Scorer(self._module, self._objective.scores, self._recipe.score_shape)

    def _probe(self) -> None:
        """A forward pass of two rows of zeros, so that a model of the wrong form is refused before any patient's record is read."""
        shape = (2, *self._recipe.feature_shape)
        self._measured(Samples(np.zeros(shape, np.float32), np.zeros((2, *self._recipe.target_shape))))


class _Scorer(nn.Module):
    def __init__(self, module: nn.Module, scores: Callable[[Tensor], Tensor], score_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).cpu().eval()
        self._scores = scores
        self._score_shape = score_shape

    def forward(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.module(rows).reshape(-1, *self._score_shape)
        return self._scores(logits)


def _device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise NotAvailable(say("torch knows no device '{name}'.", name=name), remedy="Use cpu, cuda or cuda:0.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise NotAvailable("This machine has no GPU that torch can use.", remedy="Leave the device out: the CPU is used then.")
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    return device


def check_names(own: Mapping[str, Tensor], given: Tree) -> None:
    """Raises BadModel unless both have the same names and shapes."""
    if own.keys() != given.keys():
        odd = sorted(own.keys() ^ given.keys())[:3]
        raise BadModel(say("Names differ between the model and what was given: {odd}.", odd=", ".join(odd)))
    for name, tensor in own.items():
        if tuple(given[name].shape) != tuple(tensor.shape):
            raise BadModel(say("{name} has shape {shape}; given was {other}.", name=name, shape=tuple(tensor.shape), other=tuple(given[name].shape)))
