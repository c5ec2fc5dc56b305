"""A multilayer perceptron: hidden layers of chosen widths, for tables; other features are flattened."""

from __future__ import annotations

from math import prod

from torch import nn

from aimer2.models.options import MlpOptions

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def build(feature_shape: tuple[int, ...], outputs: int, options: MlpOptions) -> nn.Module:
    """Linear, [batch normalisation], activation, [dropout] per hidden layer, then one linear layer."""
    layers: list[nn.Module] = [] if len(feature_shape) == 1 else [nn.Flatten()]
    width = prod(feature_shape)
    for hidden in options.hidden:
        layers.append(nn.Linear(width, hidden))
        if options.batch_norm:
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(_ACTIVATIONS[options.activation]())
        if options.dropout:
            layers.append(nn.Dropout(options.dropout))
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, outputs))
