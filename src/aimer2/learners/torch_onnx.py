"""A trained PyTorch model as an ONNX file that takes rows as a hospital has them: the preparation of the columns is part of the graph."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
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
from aimer2.learners.torch import TorchLearner

_OPSET = 18
_CLOSE = 1e-5
"""How far a score of the exported graph may lie from the original's."""


@final
@dataclass(frozen=True, slots=True)
class Preparation:
    """Of each input column ``(p,)``: what a missing cell becomes (None: nothing), what is subtracted, what it is divided by."""

    missing: npt.NDArray[np.float64] | None
    shift: npt.NDArray[np.float64]
    divisor: npt.NDArray[np.float64]


class _Prepared(nn.Module):
    def __init__(self, preparation: Preparation, scorer: nn.Module) -> None:
        super().__init__()
        self.shift = nn.Buffer(torch.from_numpy(preparation.shift))
        self.divisor = nn.Buffer(torch.from_numpy(preparation.divisor))
        self.missing = None if preparation.missing is None else nn.Buffer(torch.from_numpy(preparation.missing))
        self.scorer = scorer
        self._dtype = next((parameter.dtype for parameter in scorer.parameters()), torch.float32)

    def forward(self, rows: Tensor) -> Tensor:
        if self.missing is not None:
            rows = torch.where(torch.isnan(rows), self.missing, rows)
        scores: Tensor = self.scorer(((rows - self.shift) / self.divisor).to(self._dtype))
        return scores


def write_onnx(learner: TorchLearner, preparation: Preparation, path: Path, notes: Mapping[str, str], rng: np.random.Generator) -> float:
    """Writes the file, with ``notes`` in its metadata, runs it in ONNX Runtime on drawn rows, and returns the largest distance of a score to the
    original's. The input ``rows`` is float64 ``(n, p)``, the output ``scores``.

    Raises NotAvailable where the graph cannot be exported, or computes something else: then there is no file.
    """
    module = _Prepared(preparation, learner.scorer()).eval()
    rows = preparation.shift + preparation.divisor * rng.normal(size=(64, len(preparation.shift)))
    draft = path.with_name(f".{path.name}.draft")
    try:
        _export(module, rows[:2], draft)
        _annotate(draft, notes)
        expected = module(torch.from_numpy(rows)).detach().numpy()
        found = onnxruntime.InferenceSession(draft, providers=["CPUExecutionProvider"]).run(["scores"], {"rows": rows})[0]
        distance = float(np.abs(np.asarray(found) - expected).max())
        if not distance <= _CLOSE:
            raise NotAvailable("The exported graph does not compute what the model computes.", remedy="Export the weights with --to folder.")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return distance


def _export(module: nn.Module, rows: npt.NDArray[np.float64], path: Path) -> None:
    arguments: dict[str, Any] = {
        "input_names": ["rows"],
        "output_names": ["scores"],
        "opset_version": _OPSET,
        "dynamic_shapes": {"rows": {0: torch.export.Dim("n", min=1)}},
        "external_data": False,
        "verbose": False,
    }
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter warns of its own insides.
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (torch.from_numpy(rows),), path, **arguments)
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
