"""A small U-Net: a class for each pixel of an image.

Ronneberger, Fischer, Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation", with padded convolutions, so that the
output has the image's size, and with normalisation, by groups of channels (Wu & He 2018) unless a study asks for that of batches.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from aimer2.models.cnn import normalisation
from aimer2.models.options import UnetOptions, refuse_images


@final
class Unet(nn.Module):
    """Per level two 3×3 convolutions; down by 2×2 maximum, up by transposed convolution beside what the level saw on the way down."""

    def __init__(self, inputs: int, outputs: int, options: UnetOptions) -> None:
        super().__init__()
        self.contract, self.expand = nn.ModuleList(), nn.ModuleList()
        self.enlarge = nn.ModuleList()
        for channels in options.channels:
            self.contract.append(_twice(inputs, channels, options))
            inputs = channels
        for channels in reversed(options.channels[:-1]):
            self.enlarge.append(nn.ConvTranspose2d(inputs, channels, 2, stride=2))
            self.expand.append(_twice(2 * channels, channels, options))
            inputs = channels
        self.dropout = nn.Dropout2d(options.dropout)
        self.head = nn.Conv2d(inputs, outputs, 1)
        self._multiple = options.smallest

    def forward(self, images: Tensor) -> Tensor:
        """``(n, channels, h, w)`` to ``(n, classes, h, w)``; a side that cannot be halved so often is continued with zeros on the way."""
        height, width = images.shape[2:]
        x, beside = functional.pad(images, (0, -width % self._multiple, 0, -height % self._multiple)), list[Tensor]()
        for level, block in enumerate(self.contract):
            x = block(functional.max_pool2d(x, 2) if level else x)
            beside.append(x)
        beside.pop()
        for enlarge, block in zip(self.enlarge, self.expand, strict=True):
            x = block(torch.cat([beside.pop(), enlarge(x)], dim=1))
        scores: Tensor = self.head(self.dropout(x))[:, :, :height, :width]
        return scores


def _twice(inputs: int, channels: int, options: UnetOptions) -> nn.Sequential:
    parts: list[nn.Module] = []
    for before in (inputs, channels):
        parts += [nn.Conv2d(before, channels, 3, padding=1, bias=False), normalisation(channels, batch=options.batch_norm), nn.ReLU()]
    return nn.Sequential(*parts)


def build(feature_shape: tuple[int, ...], outputs: int, options: UnetOptions) -> nn.Module:
    """Raises BadModel where the features are not images or these are too small for so many levels."""
    refuse_images("unet", feature_shape, options.smallest)
    return Unet(feature_shape[0], outputs, options)
