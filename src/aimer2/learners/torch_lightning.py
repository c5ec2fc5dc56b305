"""Modules that say themselves how they train, as Lightning's do: ``training_step`` gives the loss, ``configure_optimizers`` the optimiser.

Nothing of Lightning is imported: any ``nn.Module`` with these two functions will do. A study asks for it by ``optimiser = "module"``. What is
read of such a module:

- ``training_step(batch, batch_idx)`` with batch = (features, targets), the step's number from 0; it returns the mean loss, or a mapping with
  ``loss``.
- ``configure_optimizers()``: one optimiser, alone, as the one entry of a list, or under ``optimizer`` of a mapping. It is called anew in
  every round.
- ``forward(features)``: the outputs that figures are made of, in the form that the study's target asks for.

Not there, and refused: several optimisers, schedulers of the learning rate, optimisation by hand. Not there, and not called: a trainer, its
callbacks and loggers, the hooks (``on_train_batch_start`` and the like), ``validation_step``; ``self.log`` does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aimer2.core.errors import BadModel
from aimer2.learners import code


def trains_itself(module: nn.Module) -> bool:
    return callable(getattr(module, "training_step", None)) and callable(getattr(module, "configure_optimizers", None))


def loss(module: Any, features: Tensor, targets: Tensor, number: int) -> Tensor:
    """The mean loss of a batch, by the module's own account. Raises BadModel."""
    with code.refusing():
        found = module.training_step((features, targets), number)
    found = found.get("loss") if isinstance(found, Mapping) else found
    if not isinstance(found, Tensor) or found.ndim or not found.requires_grad:
        raise BadModel("`training_step` did not return a loss: one number with its gradient, or a mapping with `loss`.")
    return found


def optimiser(module: Any) -> torch.optim.Optimizer:
    """The module's one optimiser. Raises BadModel where it has another arrangement."""
    if not getattr(module, "automatic_optimization", True):
        raise BadModel("The module optimises by hand (automatic_optimization is off); a study's steps cannot be counted then.")
    with code.refusing():
        given = module.configure_optimizers()
    if isinstance(given, Mapping):
        given = None if "lr_scheduler" in given else given.get("optimizer")
    elif isinstance(given, Sequence) and len(given) == 1:
        given = given[0]
    if not isinstance(given, torch.optim.Optimizer):
        raise BadModel("`configure_optimizers` gives one optimiser and no scheduler; the study's rounds have `training.schedule`.")
    own = {id(parameter) for parameter in module.parameters()}
    if any(id(parameter) not in own for group in given.param_groups for parameter in group["params"]):
        raise BadModel("The module's optimiser holds parameters that the module has not.")
    return given
