"""Low-rank factors beside the linear layers of a module (Hu et al. 2021): the module stays as it is, the factors learn."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from aimer2.core.errors import BadModel
from aimer2.core.said import say


def with_factors(module: nn.Module, weights: Collection[str], full: Collection[str], rank: int, scale: float) -> nn.Module:
    """A copy of the module in which each named linear layer L has parameters ``L.down`` (rank, in) and ``L.up`` (out, rank), adds
    ``scale · up(down(x))`` to its output, and only these learn, and the leaves named in ``full``.

    Raises BadModel where a name is not the weight of a plain ``nn.Linear``: of others it is not known how they use their weight.
    """
    made = copy.deepcopy(module)
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name in full)
    layers = dict(made.named_modules())
    for name in sorted(weights):
        layer = layers.get(name.rpartition(".")[0])
        if type(layer) is not nn.Linear:
            raise BadModel(
                say("{name} is not the weight of a plain nn.Linear, so it cannot be adapted; name the linear layers in `layers`.", name=name)
            )
        layer.register_parameter("down", nn.Parameter(layer.weight.new_zeros(rank, layer.in_features)))
        layer.register_parameter("up", nn.Parameter(layer.weight.new_zeros(layer.out_features, rank)))
        layer.register_forward_hook(_adding(scale))
    return made


def _adding(scale: float) -> Any:
    def add(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + scale * functional.linear(functional.linear(inputs[0], layer.down), layer.up)

    return add
