"""Linear, logistic and multinomial regression in torch: one layer, zeros at the start because the loss is convex."""

from __future__ import annotations

from math import prod
from typing import final

import torch
from torch import Tensor, nn

from aimer2.models.options import LinearOptions


@final
class SingleLayer(nn.Linear):
    """η = xWᵀ + b for features of any shape, flattened: parameters ``weight`` (outputs, p) and ``bias`` (outputs,)."""

    def reset_parameters(self) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(1))


def build(feature_shape: tuple[int, ...], outputs: int, options: LinearOptions) -> nn.Module:
    return SingleLayer(prod(feature_shape), outputs, bias=options.intercept)
