"""What torch minimises for each kind of target, and how its outputs are read.

Each loss is one number per row; training adds them up and divides by the rows of the batch, evaluation by all rows. So the objective of a
federation weighted by rows is the mean over all patients of all sites, with class weights too (torch's own weighted cross-entropy divides by
the sum of the weights).

- binary: one output, the log odds of class 1; binary cross-entropy.
- multiclass: one output per class; cross-entropy.
- regression: one output; squared error.
- multilabel: one output per label, the log odds; binary cross-entropy, mean over the labels.
- survival without intervals: one output η, the log relative risk; minus the logarithm of Cox's partial likelihood (`cox`).
- survival with intervals: one output per interval, the log odds of the event in it for who has reached it (`discrete_time`).
- segmentation: one output per class and pixel; mean cross-entropy of an image's pixels and one minus its mean Dice coefficient (`overlap`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from aimer2.core.study import Target, Training

Loss = Callable[..., Tensor]
"""(outputs, targets, reduction): one number per row with ``none``, their ``sum`` or ``mean``."""


@final
@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised, and ``scores(outputs)``: probabilities, numbers or risks, as `Learner.predict` has them."""

    loss: Loss
    scores: Callable[[Tensor], Tensor]
    integers: bool = False
    """Whether the loss takes targets as whole numbers."""


def objective(target: Target, training: Training) -> Objective:
    weights = training.class_weights
    match target.kind:
        case "binary":
            return Objective(partial(_binary, weights=weights), torch.sigmoid)
        case "multiclass":
            return Objective(partial(_multiclass, weights=weights), partial(torch.softmax, dim=1), integers=True)
        case "multilabel":
            return Objective(partial(_multilabel, weights=weights), torch.sigmoid)
        case "survival":
            if target.intervals:
                return Objective(partial(discrete_time, ends=target.intervals), survival)
            return Objective(partial(cox, ties=training.ties or "efron"), _as_they_are)
        case "regression":
            return Objective(_regression, _as_they_are)
        case "segmentation":
            return Objective(partial(overlap, weights=weights), partial(torch.softmax, dim=1), integers=True)


def _as_they_are(outputs: Tensor) -> Tensor:
    return outputs


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


def _binary(outputs: Tensor, targets: Tensor, reduction: str, *, weights: tuple[float, ...]) -> Tensor:
    factor = None if not weights else torch.where(targets == 1, weights[1], weights[0]).to(outputs)
    return functional.binary_cross_entropy_with_logits(outputs, targets, weight=factor, reduction=reduction)


def _multiclass(outputs: Tensor, targets: Tensor, reduction: str, *, weights: tuple[float, ...]) -> Tensor:
    if not weights:
        return functional.cross_entropy(outputs, targets, reduction=reduction)
    return _reduced(functional.cross_entropy(outputs, targets, weight=outputs.new_tensor(weights), reduction="none"), reduction)


def _multilabel(outputs: Tensor, targets: Tensor, reduction: str, *, weights: tuple[float, ...]) -> Tensor:
    presence = outputs.new_tensor(weights) if weights else None
    return _reduced(functional.binary_cross_entropy_with_logits(outputs, targets, pos_weight=presence, reduction="none").mean(dim=1), reduction)


def _regression(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return functional.mse_loss(outputs, targets, reduction=reduction)


def overlap(outputs: Tensor, targets: Tensor, reduction: str, *, weights: tuple[float, ...]) -> Tensor:
    """Of each image the mean cross-entropy of its pixels plus 1 − mean over the classes but the background of (2 Σ p·y + 1)/(Σ p + Σ y + 1), the sums
    over its pixels; outputs (n, K, h, w), targets (n, h, w). The second part: Milletari, Navab, Ahmadi 2016, "V-Net", without squares; the 1 keeps
    an image without the class at a loss of 0 where none is called.
    """
    factor = outputs.new_tensor(weights) if weights else None
    entropy = functional.cross_entropy(outputs, targets, weight=factor, reduction="none").mean(dim=(1, 2))
    likely = torch.softmax(outputs, dim=1)[:, 1:]
    true = functional.one_hot(targets, outputs.shape[1]).movedim(3, 1)[:, 1:].to(likely)
    both, whole = (likely * true).sum(dim=(2, 3)), (likely + true).sum(dim=(2, 3))
    return _reduced(entropy + 1 - ((2 * both + 1) / (whole + 1)).mean(dim=1), reduction)


def cox(outputs: Tensor, targets: Tensor, reduction: str, *, ties: str) -> Tensor:
    """−ln of the partial likelihood of these rows, event by event: outputs η (n,), targets times and events (n, 2).

    Σ over events i of ln(Σ over j with t_j ≥ t_i of exp η_j) − η_i (Cox 1972; at tied times Breslow 1974); Efron 1977: the l-th of d tied
    events, l = 0 … d − 1, has l/d of the tied events' own Σ exp η taken from that sum. The risk sets are of the rows at hand, so in a
    batch a patient is compared with those of the batch only. Rows without an event have 0 of their own. Computed in double precision: where
    the order is learnt already the gradient is next to nothing, and Adam would take what is rounded off for it.
    """
    order = torch.argsort(targets[:, 0], descending=True, stable=True)
    eta, time, event = outputs[order].double(), targets[order, 0], targets[order, 1] == 1
    # Of rows with one time, the last one's running sum holds them all.
    _, group, sizes = torch.unique_consecutive(time, return_inverse=True, return_counts=True)
    at_risk = torch.logcumsumexp(eta, dim=0)[sizes.cumsum(0) - 1][group]
    eta, at_risk, group = eta[event], at_risk[event], group[event]
    own = at_risk - eta
    if ties == "efron":
        own = own + _efron(eta - at_risk, group)
    return _reduced(torch.zeros_like(outputs).index_put((order[event],), own.to(outputs.dtype)), reduction)


def _efron(among: Tensor, group: Tensor) -> Tensor:
    """What Efron's correction adds to each event: ``among`` η less the logarithm of its risk set's sum, ``group`` its time's number, rising."""
    _, place, deaths = torch.unique_consecutive(group, return_inverse=True, return_counts=True)
    share = among.new_zeros(len(deaths)).index_add(0, place, among.exp())
    before = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
    return torch.log1p(-before.to(among) / deaths[place] * share[place])


def discrete_time(outputs: Tensor, targets: Tensor, reduction: str, *, ends: tuple[float, ...]) -> Tensor:
    """−ln likelihood of time intervals: outputs o (n, J) with hazard h = 1/(1 + exp(−o)), targets times and events (n, 2).

    Gensheimer and Narasimhan 2019, "A scalable discrete-time survival model for neural networks", PeerJ 7:e6257, equation 4 with their
    rule for who is censored: −ln h of the interval [end before, end) of the event and −ln(1 − h) of those lived through, which for
    a censored patient are those of which at least a half was observed. After the last end nothing is counted.
    """
    time, event = targets[:, :1], targets[:, 1:] == 1
    upper = outputs.new_tensor(ends)
    lower = functional.pad(upper[:-1], (1, 0))
    lived = torch.where(event, time >= upper, time >= (lower + upper) / 2)
    struck = event & (time >= lower) & (time < upper)
    return _reduced((functional.softplus(outputs) * lived + functional.softplus(-outputs) * struck).sum(dim=1), reduction)


def survival(outputs: Tensor) -> Tensor:
    """The probabilities to live beyond each interval's end, (n, J): the products of 1 − h."""
    return torch.exp(-functional.softplus(outputs).cumsum(dim=1))
