"""A trained PyTorch model as an ONNX file that takes rows as a hospital has them: the preparation of images and columns is part of the graph."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from aimer2.core.errors import NotAvailable
from aimer2.core.study import Image
from aimer2.learners.torch import CHUNK, TorchLearner

IMAGES, ROWS = "images", "rows"

_OPSET = 18
_CLOSE = 1e-5
"""How far a score of the exported graph may lie from the original's, beside the largest score where that is above 1."""

_DRAWN = 64


@final
@dataclass(frozen=True, slots=True)
class Preparation:
    """Of each input column ``(p,)``: what a missing cell becomes (None: nothing), what is subtracted, what it is divided by; and the image before
    them, where the study has one, with the intensity under which ``flat`` an image has nothing to stretch."""

    missing: npt.NDArray[np.float64] | None
    shift: npt.NDArray[np.float64]
    divisor: npt.NDArray[np.float64]
    image: Image | None = None
    flat: float = 0.0

    def draw(self, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """Inputs of a few rows, by their names in the graph."""
        size = 1 if self.image is None else int(np.prod(self.image.shape))
        rows, drawn = min(_DRAWN, max(2, CHUNK // size)), dict[str, npt.NDArray[Any]]()
        if self.image is not None:
            drawn[IMAGES] = rng.random((rows, *self.image.shape), np.float32)
        if len(self.shift):
            drawn[ROWS] = self.shift + self.divisor * rng.normal(size=(rows, len(self.shift)))
        return drawn


@final
class _Columns(nn.Module):
    def __init__(self, preparation: Preparation, dtype: torch.dtype) -> None:
        super().__init__()
        self.shift = nn.Buffer(torch.from_numpy(preparation.shift))
        self.divisor = nn.Buffer(torch.from_numpy(preparation.divisor))
        self.missing = None if preparation.missing is None else nn.Buffer(torch.from_numpy(preparation.missing))
        self._dtype = dtype

    def forward(self, rows: Tensor) -> Tensor:
        if self.missing is not None:
            rows = torch.where(torch.isnan(rows), self.missing, rows)
        return ((rows - self.shift) / self.divisor).to(self._dtype)


@final
class _Pixels(nn.Module):
    """As `aimer2.study.images.prepared`, from intensities."""

    def __init__(self, wanted: Image, flat: float, dtype: torch.dtype) -> None:
        super().__init__()
        mean, deviation = (torch.tensor(numbers).reshape(1, -1, 1, 1) for numbers in (wanted.mean or (0.0,), wanted.deviation or (1.0,)))
        self.mean, self.deviation = nn.Buffer(mean), nn.Buffer(deviation)
        self._own, self._flat, self._dtype = wanted.intensity == "image", flat, dtype

    def forward(self, images: Tensor) -> Tensor:
        if not self._own:
            return ((images - self.mean) / self.deviation).to(self._dtype)
        mean, deviation = (of(dim=(1, 2, 3), keepdim=True) for of in (images.mean, lambda **over: images.std(correction=0, **over)))
        return ((images - mean) / torch.where(deviation < self._flat, 1.0, deviation)).to(self._dtype)


@final
class _Prepared(nn.Module):
    """From an image, a row of columns, or both in this order, to scores."""

    def __init__(self, preparation: Preparation, scorer: nn.Module) -> None:
        super().__init__()
        dtype = next((parameter.dtype for parameter in scorer.parameters()), torch.float32)
        parts: list[nn.Module] = [] if preparation.image is None else [_Pixels(preparation.image, preparation.flat, dtype)]
        if len(preparation.shift):
            parts.append(_Columns(preparation, dtype))
        self.parts, self.scorer = nn.ModuleList(parts), scorer

    def forward(self, *inputs: Tensor) -> Tensor:
        seen, *beside = [part(given) for part, given in zip(self.parts, inputs, strict=True)]
        for columns in beside:
            planes = columns[:, :, None, None].expand(-1, -1, *seen.shape[2:])
            seen = torch.cat([seen, planes], dim=1)
        scores: Tensor = self.scorer(seen)
        return scores


def write_onnx(learner: TorchLearner, preparation: Preparation, path: Path, notes: Mapping[str, str], rng: np.random.Generator) -> float:
    """Writes the file, with ``notes`` in its metadata, runs it in ONNX Runtime on drawn inputs, and returns the largest distance of a score to the
    original's. Inputs: ``images`` float32 ``(n, channels, height, width)``, intensities from 0 to 1; ``rows`` float64 ``(n, p)``; each only where
    the study has it. Output: ``scores``.

    Raises NotAvailable where the graph cannot be exported, or computes something else: then there is no file.
    """
    module = _Prepared(preparation, learner.scorer()).eval()
    drawn = preparation.draw(rng)
    draft = path.with_name(f".{path.name}.draft")
    try:
        _export(module, drawn, draft)
        _annotate(draft, notes)
        with torch.no_grad():
            expected = module(*map(torch.from_numpy, drawn.values())).numpy()
        found = onnxruntime.InferenceSession(draft, providers=["CPUExecutionProvider"]).run(["scores"], drawn)[0]
        distance = float(np.abs(np.asarray(found) - expected).max())
        if not distance <= _CLOSE * max(1.0, float(np.abs(expected).max())):
            raise NotAvailable("The exported graph does not compute what the model computes.", remedy="Export the weights with --to folder.")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return distance


def _export(module: nn.Module, drawn: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    count = torch.export.Dim("n", min=1)
    arguments: dict[str, Any] = {
        "input_names": list(drawn),
        "output_names": ["scores"],
        "opset_version": _OPSET,
        "dynamic_shapes": {"inputs": tuple({0: count} for _ in drawn)},
        "external_data": False,
        "verbose": False,
    }
    given: Sequence[Tensor] = [torch.from_numpy(array[:2]) for array in drawn.values()]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter warns of its own insides.
            warnings.simplefilter("ignore")
            torch.onnx.export(module, tuple(given), path, **arguments)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        remedy = "Export the weights with --to folder, and use them with PyTorch."
        raise NotAvailable("PyTorch cannot export this model as ONNX.", remedy=remedy) from error


def _annotate(path: Path, notes: Mapping[str, str]) -> None:
    model = onnx.load(path)
    for name, text in notes.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    onnx.checker.check_model(model)
    onnx.save(model, path)
