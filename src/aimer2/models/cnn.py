"""A small convolutional network for images.

Group normalisation (Wu & He 2018) unless a study asks for that of batches: it keeps no running means, which differ between hospitals (Hsieh et
al. 2020, "The Non-IID Data Quagmire of Decentralized Machine Learning", section 5).
"""

from __future__ import annotations

from math import gcd
from typing import final

import torch
from torch import Tensor, nn

from aimer2.models.options import CnnOptions, refuse_images

GROUPS = 8


@final
class Cnn(nn.Module):
    """Blocks of 3×3 convolution, normalisation, ReLU and 2×2 maximum; then the mean over the image, the columns beside it, and one linear layer.

    The last ``columns`` of the ``inputs`` channels are columns: each has one value everywhere, and the convolutions do not see it.
    """

    def __init__(self, inputs: int, outputs: int, options: CnnOptions, columns: int) -> None:
        super().__init__()
        inputs = self._channels = inputs - columns
        blocks: list[nn.Module] = []
        for channels in options.channels:
            blocks += [
                nn.Conv2d(inputs, channels, 3, padding=1, bias=False),
                normalisation(channels, batch=options.batch_norm),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            inputs = channels
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(inputs + columns, outputs)

    def forward(self, images: Tensor) -> Tensor:
        # a plain mean: adaptive pooling has no deterministic backward pass on a GPU
        pooled = self.dropout(self.blocks(images[:, : self._channels]).mean(dim=(2, 3)))
        scores: Tensor = self.head(torch.cat([pooled, images[:, self._channels :, 0, 0]], dim=1))
        return scores


def normalisation(channels: int, *, batch: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch else nn.GroupNorm(gcd(GROUPS, channels), channels)


def build(feature_shape: tuple[int, ...], outputs: int, options: CnnOptions, columns: int = 0) -> nn.Module:
    """Raises BadModel where the features are not images or these are too small for so many blocks."""
    refuse_images("cnn", feature_shape, options.smallest)
    return Cnn(feature_shape[0], outputs, options, columns)
