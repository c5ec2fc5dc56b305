"""DP-SGD: a torch model trained so that it tells little of any one patient, whoever reads its weights.

Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang 2016, "Deep Learning with Differential Privacy", Algorithm 1, with the patient as the unit:
in each step every patient is drawn with probability q (``sampling_rate``); the gradient of a drawn patient is that of the mean loss of the
patient's rows, shortened to C (``clip_norm``); to the sum of them comes Gaussian noise of standard deviation σ·C (``noise_multiplier``), and it is
divided by q times the public size of a site, not by a number that the data decide. Only this leaves the step: a method's correction, momentum and
the optimiser come after the noise. Who was drawn and the noise come from the system's secure source, never from the study's seed.

Gradients per patient are Opacus' (Yousefpour et al. 2021): row by row, added up per patient; where each patient has one row, of large linear layers
by ghost clipping (Li, Tramèr, Liang, Hashimoto 2022), two backward passes and no single patient's gradient. Large draws are computed in parts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleHooksFastGradientClipping
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from aimer2.core.dataset import Dataset
from aimer2.core.errors import BadInput, BadModel
from aimer2.core.protocols import Correction, Selector
from aimer2.core.random import SecureBytes
from aimer2.core.said import say
from aimer2.core.tree import Tree
from aimer2.learners.recipe import Recipe
from aimer2.learners.records import Records, inside, told
from aimer2.learners.torch import TorchLearner
from aimer2.privacy.gaussian import gaussian
from aimer2.privacy.terms import Terms

ROW_VALUES = 1 << 22
"""Feature values computed on at a time: the memory that a step takes does not grow with the patients that are drawn."""

GRADIENT_VALUES = 1 << 26
"""Numbers of single rows' gradients in memory at a time, where they must be there."""

SPARED = 1 << 14
"""Numbers of a linear layer from which on no single row's gradient of it is computed."""

_MARGIN = 1 - 1e-4
"""Norms and sums of them are rounded to single precision; nothing may be longer than the clip norm."""


@final
class PrivateTorchLearner(TorchLearner):
    """Trains by DP-SGD, and measures by noisy counts. One ``fit`` is what the terms count as a round: ``local_steps`` steps."""

    def __init__(self, build: Callable[[], nn.Module], recipe: Recipe, device: str | None, terms: Terms, source: SecureBytes | None = None) -> None:
        """``source`` is for tests alone. Raises BadModel where one patient's gradient would depend on other patients."""
        self._terms = terms
        self._source = SecureBytes() if source is None else source
        self._hooks: GradSampleHooks | None = None
        super().__init__(build, recipe, device)

    def initialise(self, rng: np.random.Generator) -> None:
        super().initialise(rng)
        self._hooks = None
        self._module.train()
        validators = ModuleValidator.VALIDATORS
        odd = sorted({type(part).__name__ for part in self._module.modules() if type(part) in validators and validators[type(part)](part)})
        if odd or self._buffers or self._counters:
            raise BadModel(
                say(
                    "With {odd} a single patient's gradient depends on other patients, or cannot be told.",
                    odd=", ".join(odd) or say("buffers that training changes"),
                ),
                remedy="Use group or layer normalisation for that of batches, and layers that Opacus supports.",
            )

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
        """The terms decide who is drawn, not ``batch_size``. Returns 0: the training loss would tell of the patients.

        Raises BadInput for another number of steps than the terms count.
        """
        if steps != self._terms.local_steps:
            raise BadInput(
                say(
                    "The terms of differential privacy count {local_steps} steps a round, not {steps}.",
                    local_steps=self._terms.local_steps,
                    steps=steps,
                )
            )
        records = Records.of(inside(data))
        self._recipe.check(records.rows)
        torch.manual_seed(int(copy.deepcopy(rng).integers(2**63)))
        trained = self._prepare(trainable)
        optimiser = self._optimiser(list(trained.values()), round_number)
        for _ in range(steps):
            noisy = self._noisy(self._clipped_sum(records, records.draw(self._terms.sampling_rate, self._source), trained))
            for name, parameter in trained.items():
                parameter.grad = noisy[name]
            if correction is not None:
                self._correct(correction, trained)
            optimiser.step()
        return 0.0

    def evaluate(self, data: Dataset) -> Tree:
        """Noisy counts and bounded sums over held-out patients (`aimer2.learners.records.told`)."""
        return told(data, self._recipe, self._terms, self._source, lambda rows: self._measured(rows)[0])

    def _noisy(self, summed: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sums of clipped gradients with noise, over the public expected number of patients; added in double precision."""
        whole = torch.cat([leaf.flatten() for leaf in summed.values()]).double()
        if deviation := self._terms.noise_multiplier * self._terms.clip_norm if self._terms.noise_multiplier else 0.0:
            whole += torch.from_numpy(gaussian(self._source, deviation, whole.numel())).to(whole.device)
        whole /= self._terms.expected_batch
        parts = torch.split(whole, [leaf.numel() for leaf in summed.values()])
        return {name: part.reshape(leaf.shape).to(leaf.dtype) for (name, leaf), part in zip(summed.items(), parts, strict=True)}

    def _clipped_sum(self, records: Records, drawn: npt.NDArray[np.bool_], trained: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """Over the drawn patients: the sum of their gradients, none longer than the clip norm."""
        summed = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
        most = ROW_VALUES // math.prod(self._recipe.feature_shape)
        single_gradients = sum(parameter.numel() for parameter in trained.values() if not (records.single and _is_spared(parameter)))
        most = min(most, GRADIENT_VALUES // max(single_gradients, 1))
        parts = list(records.parts(drawn, max(most, 1)))
        for (_, owner), (features, targets) in zip(parts, self._feed(records.rows, iter([rows for rows, _ in parts])), strict=True):
            single = records.single
            part = self._by_single_row(features, targets, trained) if single else self._by_patient(features, targets, owner, trained)
            self._clear(list(trained.values()))
            for name, gradient in part.items():
                summed[name] += gradient
        return summed

    def _by_single_row(self, features: Tensor, targets: Tensor, trained: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """Each row a patient. Of large linear layers one backward pass gives the norms and a second the sum of the shortened gradients."""
        losses = self._backward(features, targets, _Sparing)
        norms = {name: p._norm_sample for name, p in trained.items() if p.grad_sample is None}  # type: ignore[attr-defined]
        own = {name: p.grad_sample for name, p in trained.items() if name not in norms}  # type: ignore[attr-defined]
        whole = torch.stack([*norms.values(), *_norms(own)]).norm(dim=0)
        if norms and not torch.isfinite(whole).all():
            # Times 0 in the second pass it would still be no number.
            self._clear(list(trained.values()))
            kept = torch.isfinite(whole)
            return self._by_single_row(features[kept], targets[kept], trained) if kept.any() else {}
        factors = self._factors(whole)
        summed = _weighted(factors, own)
        if norms:
            again = torch.autograd.grad((factors * losses).sum(), [trained[name] for name in norms])
            summed |= dict(zip(norms, again, strict=True))
        return summed

    def _by_patient(self, features: Tensor, targets: Tensor, owner: npt.NDArray[np.int64], trained: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """``owner``: for each row the number of its patient within the part."""
        whose = torch.from_numpy(owner).to(features.device)
        rows = torch.bincount(whose).to(self._dtype)
        self._backward(features, targets, GradSampleHooks, 1 / rows[whose])
        own = {
            name: torch.zeros((len(rows), *p.shape), dtype=p.dtype, device=p.device).index_add_(0, whose, p.grad_sample)  # type: ignore[attr-defined]
            for name, p in trained.items()
        }
        return _weighted(self._factors(torch.stack(_norms(own)).norm(dim=0)), own)

    def _backward(self, features: Tensor, targets: Tensor, kind: type[GradSampleHooks], weights: Tensor | None = None) -> Tensor:
        """The rows' losses, after a pass back that has left each row's gradient, or its norm, with the parameters.

        Towards the features alone: the hooks see each layer's gradient on its way there, and no weight's is computed for nothing.
        """
        hooks = self._attached(kind)
        hooks.enable_hooks()
        features = features.detach().requires_grad_()
        losses = self._loss(self._logits(self._module(features), len(features)), targets, reduction="none")
        whole = losses.sum() if weights is None else (losses * weights).sum()
        torch.autograd.backward(whole, retain_graph=kind is _Sparing, inputs=[features])
        hooks.disable_hooks()
        return losses

    def _attached(self, kind: type[GradSampleHooks]) -> GradSampleHooks:
        if type(self._hooks) is not kind:
            if self._hooks is not None:
                self._hooks.remove_hooks()
            self._hooks = kind(self._module, loss_reduction="sum")
        return self._hooks

    def _factors(self, norms: Tensor) -> Tensor:
        """What each patient's gradient is multiplied with; one that is not finite counts as none: a failure would tell of the patient."""
        clip_norm = self._terms.clip_norm * _MARGIN
        factors = torch.where(norms > clip_norm, clip_norm / norms, torch.ones_like(norms))
        return torch.where(torch.isfinite(norms), factors, torch.zeros_like(norms))

    def _clear(self, parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            parameter.grad = None
            parameter.grad_sample = parameter._norm_sample = None  # type: ignore[attr-defined]


def _is_spared(weight: Tensor) -> bool:
    """Whether a linear layer with this weight is so large that two passes cost less than each row's gradient of it."""
    return weight.ndim == 2 and weight.numel() >= SPARED


@final
class _Sparing(GradSampleHooksFastGradientClipping):  # type: ignore[misc]
    """Opacus' hooks, with ghost clipping for large linear layers only: of all others each row's gradient is kept, so that it need not come twice."""

    def capture_backprops_hook(self, module: nn.Module, *given: Any, **named: Any) -> None:
        spares = type(module) in self.NORM_SAMPLERS and _is_spared(module.weight)  # type: ignore[arg-type]
        kind = GradSampleHooksFastGradientClipping if spares else GradSampleHooks
        kind.capture_backprops_hook(self, module, *given, **named)


def _norms(own: dict[str, Tensor]) -> list[Tensor]:
    return [gradient.flatten(1).norm(dim=1) for gradient in own.values()]


def _weighted(factors: Tensor, own: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.tensordot(factors, torch.nan_to_num(gradient), dims=1) for name, gradient in own.items()}
