"""Any Keras 3 model on TensorFlow, on the CPU or a GPU.

What travels: the model's float weights, trained or not, under their own paths (``dense/kernel``), or as the model's ``travels_as(path, rank)``
says: a name and the order of the axes. Integer weights (counts) stay, and go back to their untrained values at every ``load``. What is not
trained, moving statistics and frozen weights alike, is named in ``buffers``. Loss by the target: binary → one output, the log odds of class 1,
binary cross-entropy; multiclass → one output per class, cross-entropy; regression → one output, mean squared error; plus the model's own
regularisation. The optimisers are `aimer2.learners.optimisers`, so that a study gives the numbers that it gives with torch.

A step is two graphs, gradients and update, traced once per model; a correction runs between them, on plain tensors: a warm graph has no anchor
that could be an old one. Layers that draw (dropout) draw anew in each fit, from its stream; a layer of one's own draws from a
``keras.random.SeedGenerator`` that is its attribute. TensorFlow uses as many threads as OMP_NUM_THREADS says.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite, prod
from typing import Any, final

import numpy as np
import numpy.typing as npt

# Both are read when TensorFlow and Keras are first imported: no lines of TensorFlow's own on the terminal, and no other backend.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf

from aimer2.core import tree
from aimer2.core.dataset import Dataset, Samples
from aimer2.core.errors import BadModel, BadUpdate, NotAvailable
from aimer2.core.protocols import Correction, Selector
from aimer2.core.said import mark, say
from aimer2.core.tree import Tree
from aimer2.learners.batches import batches
from aimer2.learners.optimisers import OPTIMISERS, Scalars, rates
from aimer2.learners.recipe import Recipe
from aimer2.metrics.figures import measure

CHUNK = 1 << 20
"""Feature values predicted at a time."""

RESIDENT_BYTES = 1 << 30
"""Data in memory up to this size are converted once; larger ones batch by batch."""

_LOSSES: Mapping[str, Callable[[Any, Any], Any]] = {
    "binary": lambda logits, targets: tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits),
    "multiclass": lambda logits, targets: tf.nn.softmax_cross_entropy_with_logits(tf.one_hot(targets, logits.shape[1], dtype=logits.dtype), logits),
    "regression": lambda logits, targets: (logits - targets) ** 2,
}


def _settle() -> None:
    """The process's TensorFlow: repeatable, no more threads than the BLAS, GPU memory as it is needed. Too late where it is in use already."""
    tf.get_logger().setLevel("ERROR")
    tf.config.experimental.enable_op_determinism()
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(int(os.environ.get("OMP_NUM_THREADS", "0")))
        tf.config.threading.set_inter_op_parallelism_threads(1)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)


_settle()


@final
@dataclass(frozen=True, slots=True)
class _Leaf:
    """A variable of the model and how it travels: ``axes`` its own axes in the order in which they travel, ``back`` the other way."""

    variable: Any
    axes: tuple[int, ...]
    back: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variable.shape[axis] for axis in self.axes)


@final
@dataclass(frozen=True, slots=True)
class _Program:
    """A step on these leaves: slots of the optimiser, layers whose statistics stay still, its graphs."""

    leaves: Mapping[str, _Leaf]
    slots: list[tuple[Any, ...]]
    still: tuple[Any, ...]
    gradients: Callable[[Any, Any], tuple[Any, list[Any]]]
    step: Callable[[list[Any], Any], None]


@final
class KerasLearner:
    """Trains a Keras model; the optimiser starts anew in every round, model and graphs stay warm between rounds."""

    def __init__(self, build: Callable[[], Any], recipe: Recipe, device: str | None = None) -> None:
        """``device`` as torch writes it (cpu, cuda, cuda:1), None: a GPU if there is one.

        Raises BadModel where weights or outputs have a wrong form, NotAvailable where the machine has no such device or where Keras already runs
        on another backend in this process.
        """
        if keras.backend.backend() != "tensorflow":
            raise NotAvailable("Keras runs on another backend here.", remedy="Set KERAS_BACKEND=tensorflow before Keras is first imported.")
        self._build = build
        self._recipe = recipe
        self._device = _device(device)
        self._loss = _LOSSES[recipe.target.kind]
        self._optimiser = OPTIMISERS[recipe.training.optimiser]
        self._resident: tuple[Dataset, Any, Any] | None = None
        self.initialise(np.random.default_rng(0))

    def initialise(self, rng: np.random.Generator) -> None:
        keras.utils.set_random_seed(int(rng.integers(2**32)))
        # names of layers count up over the whole process otherwise, and a weight's name would depend on what was built before
        keras.utils.clear_session(free_memory=False)
        with tf.device(self._device):
            self._model = self._build()
            if not isinstance(self._model, keras.Model):
                raise BadModel("`build` did not return a keras.Model.")
            _refuse_activation(self._model, self._recipe.target.kind)
            # the first call makes the weights of layers that do not know their inputs yet, and refuses a model of the wrong form
            self._logits(self._model(tf.zeros((2, *self._recipe.feature_shape)), training=False), 2)
            self._take_stock()
            self._graphs()

    def _take_stock(self) -> None:
        """What of the model travels, what is trained, what stays."""
        model = self._model
        floating = [weight for weight in model.weights if "float" in weight.dtype]
        if odd := [weight.path for weight in floating if weight.dtype not in ("float32", "float64")]:
            raise BadModel(say("{odd} is neither float32 nor float64.", odd=odd[0]))
        self._counters = [(weight, weight.numpy().copy()) for weight in model.weights if "float" not in weight.dtype]
        self._generators = [variable for variable in model.variables if variable.name == "seed_generator_state"]
        self._travelling = _travelling(floating, getattr(model, "travels_as", None))
        trained = {id(variable) for variable in model.trainable_variables}
        self._trained = {name: leaf for name, leaf in self._travelling.items() if id(leaf.variable) in trained}
        self._dtype = next((leaf.variable.dtype for leaf in self._trained.values()), "float32")
        self._normalises = any(weight.name == "moving_variance" for weight in floating)

    def _graphs(self) -> None:
        self._inputs = tf.TensorSpec((None, *self._recipe.feature_shape), self._dtype)
        self._forward = tf.function(self._traced_forward, input_signature=[self._inputs], autograph=False)
        self._programs: dict[frozenset[str], _Program] = {}

    def _program(self, trainable: Selector | None) -> _Program:
        """The two graphs of a step that trains these leaves, made once."""
        chosen = frozenset(self._travelling if trainable is None else self._travelling.keys() & set(trainable))
        if chosen not in self._programs:
            leaves = {name: leaf for name, leaf in self._trained.items() if name in chosen}
            if not leaves:
                remedy = "Name layers that have weights, and freeze not all of the model."
                raise BadModel("None of the weights that are to be trained learns.", remedy=remedy)
            left = {id(leaf.variable) for name, leaf in self._travelling.items() if name in self.buffers - chosen}
            targets = tf.TensorSpec((None,), "int64" if self._recipe.target.kind == "multiclass" else self._dtype)
            shapes = [tf.TensorSpec(leaf.variable.shape, leaf.variable.dtype) for leaf in leaves.values()]
            slots = [tuple(tf.Variable(tf.zeros(s.shape, s.dtype), trainable=False) for _ in range(self._optimiser.slots)) for s in shapes]
            gradients = partial(self._traced_gradients, leaves)
            step = partial(self._traced_step, leaves, slots)
            self._programs[chosen] = _Program(
                leaves=leaves,
                slots=slots,
                still=_normalising(self._model, left),
                gradients=tf.function(gradients, input_signature=[self._inputs, targets], autograph=False),
                step=tf.function(step, input_signature=[shapes, tf.TensorSpec((4,), "float64")], autograph=False),
            )
        return self._programs[chosen]

    @property
    def buffers(self) -> frozenset[str]:
        return frozenset(self._travelling.keys() - self._trained.keys())

    def parameters(self) -> Tree:
        return {name: np.array(leaf.variable.numpy().transpose(leaf.axes), order="C") for name, leaf in self._travelling.items()}

    def load(self, parameters: Tree) -> None:
        _check_names({name: leaf.shape for name, leaf in self._travelling.items()}, parameters)
        for name, leaf in self._travelling.items():
            leaf.variable.assign(_turned(_array(parameters[name]), leaf.back))
        for counter, untrained in self._counters:
            counter.assign(untrained)

    def native(self, tree_: Tree) -> Tree:
        """Tensors: they never change, and no graph holds them."""
        with tf.device(self._device):
            tensors = {name: tf.convert_to_tensor(_array(leaf)) for name, leaf in tree_.items()}
            return {name: tf.cast(leaf, self._dtype) if leaf.dtype.is_floating else leaf for name, leaf in tensors.items()}

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
        """The correction gets tensors, in the form in which they travel. No steps: 0."""
        self._recipe.check(data)
        # off a copy, so that the batches are those of every other framework; a generator's state is a seed and how often it was drawn from
        seeds = copy.deepcopy(rng).integers(2**31, size=len(self._generators))
        for generator, seed in zip(self._generators, seeds, strict=True):
            generator.assign([int(seed), 0])
        program = self._program(trainable)
        for slot in (slot for slots in program.slots for slot in slots):
            slot.assign(tf.zeros_like(slot))
        left = set() if trainable is None else self.buffers - set(trainable)
        kept = [(self._travelling[name].variable, self._travelling[name].variable.numpy().copy()) for name in left]
        order = batches(len(data), batch_size=batch_size, steps=steps, rng=rng, at_least=2 if self._normalises else 1)
        with tf.device(self._device), _stilled(program.still):
            total = self._steps(program, self._feed(data, order), round_number, correction)
        for variable, value in kept:
            variable.assign(value)
        # one look at the end, not one a step, which would make a GPU wait: a sum with a value that is not finite is not finite
        mean = float(total) / max(steps, 1)
        if not isfinite(mean):
            raise BadUpdate("The training loss is not finite.")
        return mean

    def predict(self, data: Dataset) -> npt.NDArray[Any]:
        return self._measured(data)[0]

    def evaluate(self, data: Dataset) -> Tree:
        self._recipe.check(data)
        scores, loss = self._measured(data, with_loss=True)
        return measure(self._recipe.target.kind, scores, np.asarray(data.targets), loss, self._recipe.metrics)

    def _steps(self, program: _Program, feed: Iterator[tuple[Any, Any]], round_number: int, correction: Correction | None) -> Any:
        """The sum of the losses."""
        training, rate = self._recipe.training, self._recipe.learning_rate(round_number)
        total = tf.zeros((), tf.float64)
        for step, (features, targets) in enumerate(feed, 1):
            loss, gradients = program.gradients(features, targets)
            if correction is not None:
                gradients = _corrected(correction, program.leaves, gradients)
            program.step(gradients, tf.constant(rates(rate, training.weight_decay, step), tf.float64))
            total += tf.cast(loss, tf.float64)
        return total

    def _traced_gradients(self, leaves: Mapping[str, _Leaf], features: Any, targets: Any) -> tuple[Any, list[Any]]:
        variables = [leaf.variable.value for leaf in leaves.values()]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            logits = self._logits(self._model(features, training=True), None)
            loss = tf.reduce_mean(self._loss(logits, targets))
            if self._model.losses:
                loss += tf.cast(tf.add_n(self._model.losses), loss.dtype)
        return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)]

    def _traced_step(self, leaves: Mapping[str, _Leaf], slots: list[tuple[Any, ...]], gradients: list[Any], numbers: Any) -> None:
        training = self._recipe.training
        scalars = {
            kind: Scalars(training.weight_decay, training.momentum, *tf.unstack(tf.cast(numbers, kind)))
            for kind in {gradient.dtype for gradient in gradients}
        }
        for leaf, gradient, own in zip(leaves.values(), gradients, slots, strict=True):
            stepped, after = self._optimiser.step(leaf.variable.value, gradient, own, scalars[gradient.dtype])
            constraint = leaf.variable.constraint
            leaf.variable.assign(stepped if constraint is None else constraint(stepped))
            for slot, value in zip(own, after, strict=True):
                slot.assign(value)

    def _traced_forward(self, features: Any) -> Any:
        return tf.cast(self._logits(self._model(features, training=False), None), tf.float64)

    def _logits(self, outputs: Any, rows: int | None) -> Any:
        """One output per row, or per row and class. ``rows`` None: their number is not known yet."""
        expected = [rows, *self._recipe.score_shape]
        if tf.is_tensor(outputs) and outputs.shape.as_list() == [rows, 1] and len(expected) == 1:
            outputs = tf.squeeze(outputs, 1)
        if not tf.is_tensor(outputs) or outputs.shape.as_list() != expected:
            per = say("row and class") if (kind := self._recipe.target.kind) == "multiclass" else say("row")
            message = mark("For a {kind} target the model gives one output per {per}; it gave {shape} for {rows} rows.")
            raise BadModel(say(message, kind=kind, per=per, shape=getattr(outputs, "shape", None), rows=rows or say("all")))
        return outputs

    def _converted(self, features: npt.NDArray[Any], targets: npt.NDArray[Any]) -> tuple[Any, Any]:
        kind = "int64" if self._recipe.target.kind == "multiclass" else self._dtype
        return tf.convert_to_tensor(np.asarray(features, self._dtype)), tf.convert_to_tensor(np.asarray(targets).astype(kind, copy=False))

    def _feed(self, data: Dataset, order: Iterator[npt.NDArray[np.int64]]) -> Iterator[tuple[Any, Any]]:
        """The batches; rows in memory are converted once per data set, all rows at once only once per fit."""
        held, batch = None, None
        whole = self._in_memory(data)
        for rows in order:
            if rows is not held:
                held = rows
                if whole is None:
                    batch = self._converted(*data.batch(rows))
                else:
                    batch = whole if len(rows) == len(data) else (tf.gather(whole[0], rows), tf.gather(whole[1], rows))
            assert batch is not None
            yield batch

    def _in_memory(self, data: Dataset) -> tuple[Any, Any] | None:
        """All rows as tensors, kept until another data set is trained on; None where the rows are read as they are needed."""
        if not isinstance(data, Samples) or not data.in_memory or np.asarray(data.features).nbytes > RESIDENT_BYTES:
            return None
        if self._resident is None or self._resident[0] is not data:
            self._resident = (data, *self._converted(np.asarray(data.features), np.asarray(data.targets)))
        return self._resident[1:]

    def _measured(self, data: Dataset, *, with_loss: bool = False) -> tuple[npt.NDArray[Any], float]:
        """Scores of all rows and, if asked for, the sum of their losses."""
        kind = self._recipe.target.kind
        scores, loss = np.empty((len(data), *self._recipe.score_shape)), 0.0
        chunk = max(1, CHUNK // max(1, prod(self._recipe.feature_shape)))
        with tf.device(self._device):
            for start in range(0, len(data), chunk):
                rows = np.arange(start, min(start + chunk, len(data)))
                features, targets = self._converted(*data.batch(rows))
                logits = self._forward(features)
                if with_loss:
                    loss += float(tf.reduce_sum(self._loss(logits, targets if kind == "multiclass" else tf.cast(targets, tf.float64))))
                scores[rows] = {"binary": tf.sigmoid, "multiclass": tf.nn.softmax}.get(kind, tf.identity)(logits).numpy()
        return scores, loss


def _device(name: str | None) -> str:
    """TensorFlow's name of the device."""
    gpus = tf.config.list_logical_devices("GPU")
    if name is None:
        return "/GPU:0" if gpus else "/CPU:0"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number or "0").isdigit():
        raise NotAvailable(say("There is no device '{name}'.", name=name), remedy="Use cpu, cuda or cuda:0.")
    if kind == "cuda" and int(number or 0) >= len(gpus):
        raise NotAvailable("This machine has no such GPU that TensorFlow can use.", remedy="Leave the device out: the CPU is used then.")
    return f"/{'GPU' if kind == 'cuda' else 'CPU'}:{number or 0}"


def _refuse_activation(model: Any, kind: str) -> None:
    """Raises BadModel where the model ends in probabilities: their loss is computed from log odds, and would be computed wrongly without a word."""
    last = model.layers[-1] if model.layers else None
    name = getattr(getattr(last, "activation", None), "__name__", type(last).__name__).lower()
    if kind != "regression" and name in ("sigmoid", "softmax"):
        raise BadModel(say("The model ends in a {name}; it must give the log odds: leave that activation out.", name=name))


def _travelling(weights: list[Any], travels_as: Callable[[str, int], tuple[str, tuple[int, ...]]] | None) -> dict[str, _Leaf]:
    found: dict[str, _Leaf] = {}
    for weight in weights:
        rank = len(weight.shape)
        name, axes = (weight.path, tuple(range(rank))) if travels_as is None else travels_as(weight.path, rank)
        if name in found:
            raise BadModel(say("Two weights of the model are called {name}: give their layers names.", name=name))
        found[name] = _Leaf(weight, axes, tuple(int(axis) for axis in np.argsort(axes)))
    return found


def _corrected(correction: Correction, leaves: Mapping[str, _Leaf], gradients: list[Any]) -> list[Any]:
    given = {name: _turned(gradient, leaf.axes) for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)}
    corrected = correction({name: _turned(tf.convert_to_tensor(leaf.variable.value), leaf.axes) for name, leaf in leaves.items()}, given)
    _check_names({name: leaf.shape for name, leaf in leaves.items()}, corrected)
    return [_turned(tf.convert_to_tensor(corrected[name]), leaf.back) for name, leaf in leaves.items()]


def _normalising(model: Any, variables: set[int]) -> tuple[Any, ...]:
    """The trainable layers all of whose own untrained weights are among the variables: batch normalisation that is to be left alone."""
    own = {layer: {id(w) for w in layer.weights if not w.trainable} for layer in model._flatten_layers() if layer.trainable and not layer._layers}
    return tuple(layer for layer, untrained in own.items() if untrained and untrained <= variables)


@contextlib.contextmanager
def _stilled(layers: tuple[Any, ...]) -> Iterator[None]:
    """Keras normalises by the moving statistics, and leaves them, in a layer that is not trainable; the graph is traced that way."""
    for layer in layers:
        layer.trainable = False
    try:
        yield
    finally:
        for layer in layers:
            layer.trainable = True


def _turned(value: Any, axes: tuple[int, ...]) -> Any:
    return value if axes == tuple(range(len(axes))) else tf.transpose(value, axes)


def _array(leaf: Any) -> Any:
    """A tensor as it is, any other leaf as a numpy array."""
    return leaf if tf.is_tensor(leaf) else np.asarray(tree.load(leaf))


def _check_names(own: Mapping[str, tuple[int, ...]], given: Tree) -> None:
    """Raises BadModel unless both have the same names and shapes."""
    if own.keys() != given.keys():
        odd = sorted(own.keys() ^ given.keys())[:3]
        raise BadModel(say("Names differ between the model and what was given: {odd}.", odd=", ".join(odd)))
    for name, shape in own.items():
        if tuple(given[name].shape) != shape:
            raise BadModel(say("{name} has shape {shape}; given was {other}.", name=name, shape=shape, other=tuple(given[name].shape)))
