"""The ready-made models for Keras 3: the same architectures as for torch, layer by layer, with torch's ε, momenta and order of the axes outside.

Each declares how its weights travel (``travels_as``): under torch's names and with torch's axes, so that a site with PyTorch and one with
TensorFlow can be in one study, and a final model fits both. Layers bear the names of the modules in the torch models.
"""

from __future__ import annotations

from math import gcd

import keras
from keras import layers

from aimer2.models.options import CnnOptions, LinearOptions, MlpOptions, refuse_images

GROUPS = 8
EPSILON = 1e-5
SINGLE = "single"
"""The one layer of a linear model, which in torch is the module itself."""

_LEAVES = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_AXES = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
"""By rank: a vector; (inputs, outputs) ↔ (outputs, inputs); (height, width, inputs, outputs) ↔ (outputs, inputs, height, width)."""


def travels_as(path: str, rank: int) -> tuple[str, tuple[int, ...]]:
    """The name in torch of a weight of these models, and the axes of its own in torch's order."""
    *layer, leaf = path.split("/")
    return ".".join([*(part for part in layer[-1:] if part != SINGLE), _LEAVES[leaf]]), _AXES[rank]


def build_linear(feature_shape: tuple[int, ...], outputs: int, options: LinearOptions) -> keras.Model:
    """η = xW + b for features of any shape, flattened; starts from zeros because the loss is convex."""
    single = layers.Dense(outputs, use_bias=options.intercept, kernel_initializer="zeros", name=SINGLE)
    return _model(feature_shape, [layers.Flatten(), single])


def build_mlp(feature_shape: tuple[int, ...], outputs: int, options: MlpOptions) -> keras.Model:
    """Dense, [batch normalisation], activation, [dropout] per hidden layer, then one dense layer."""
    parts: list[layers.Layer] = [] if len(feature_shape) == 1 else [layers.Flatten(name="0")]
    for width in options.hidden:
        parts.append(layers.Dense(width, name=str(len(parts))))
        if options.batch_norm:
            parts.append(layers.BatchNormalization(momentum=0.9, epsilon=EPSILON, name=str(len(parts))))
        parts.append(layers.Activation(options.activation, name=str(len(parts))))
        if options.dropout:
            parts.append(layers.Dropout(options.dropout, name=str(len(parts))))
    return _model(feature_shape, [*parts, layers.Dense(outputs, name=str(len(parts)))])


def build_cnn(feature_shape: tuple[int, ...], outputs: int, options: CnnOptions, columns: int = 0) -> keras.Model:
    """Blocks of 3×3 convolution, normalisation, ReLU and 2×2 maximum; then the mean over the image, the columns beside it (the last ``columns``
    channels, each of one value), and one dense layer.

    Raises BadModel where the features are not images or these are too small for so many blocks.
    """
    refuse_images("cnn", feature_shape, options.smallest)
    # TensorFlow convolves on a processor with the channels last only
    parts: list[layers.Layer] = [layers.Permute((2, 3, 1))]
    for block, channels in enumerate(options.channels):
        name = f"blocks.{4 * block + 1}"
        parts += [
            layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"blocks.{4 * block}"),
            layers.BatchNormalization(momentum=0.9, epsilon=EPSILON, name=name)
            if options.batch_norm
            else layers.GroupNormalization(gcd(GROUPS, channels), epsilon=EPSILON, name=name),
            layers.ReLU(name=f"blocks.{4 * block + 2}"),
            layers.MaxPooling2D(2, name=f"blocks.{4 * block + 3}"),
        ]
    parts += [layers.GlobalAveragePooling2D(), layers.Dropout(options.dropout)]
    head = layers.Dense(outputs, name="head")
    if not columns:
        return _model(feature_shape, [*parts, head])
    rows = keras.Input(feature_shape)
    seen = keras.Sequential(parts)(rows[:, :-columns])
    model = keras.Model(rows, head(layers.Concatenate()([seen, rows[:, -columns:, 0, 0]])))
    model.travels_as = travels_as
    return model


def _model(feature_shape: tuple[int, ...], parts: list[layers.Layer]) -> keras.Model:
    model = keras.Sequential([keras.Input(feature_shape), *parts])
    model.travels_as = travels_as
    return model
