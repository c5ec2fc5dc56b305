"""A whole update's ``difference``, compressed and restored: which arrays, under which names.

Arrays of fewer than two dimensions travel as they are, as in Vogels, Karimireddy, Jaggi 2019, "PowerSGD": biases, scales of normalisation
layers and running means and variances are few, and a running variance that is moved by more than its site meant may become negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from aimer2.compression.compressor import Compressor, Draws, Form, form_of
from aimer2.core import tree
from aimer2.core.errors import BadUpdate
from aimer2.core.task import SiteId
from aimer2.core.tree import Array, Tree


@final
@dataclass(frozen=True, slots=True)
class Packing:
    """One round of a study whose updates are compressed; ``site`` is empty at the coordinator."""

    compressor: Compressor
    seed: int
    round_number: int
    site: SiteId = ""

    def pack(self, leaves: Tree) -> dict[str, Array]:
        """What travels in the place of the leaves. Raises BadUpdate for an array of whole numbers."""
        packed: dict[str, Array] = {}
        for name, leaf in leaves.items():
            if not is_compressed(form_of(leaf)):
                packed[name] = leaf
                continue
            parts = self.compressor.pack(leaf, self._draws(name))
            packed.update({_named(part, name): _here(array, [leaf]) for part, array in parts.items()})
        return packed

    def restore(self, packed: Tree, model: Tree) -> dict[str, Array]:
        """The leaves again, or what of them has come. ``model``: has the names, shapes and types of the update.

        Raises BadUpdate where what came has not the forms that it must have.
        """
        self.check(packed, model)
        return {name: self._restored(name, packed, form_of(leaf)) for name, leaf in model.items()}

    def check(self, packed: Tree, model: Tree) -> None:
        """Raises BadUpdate unless what came has the names, shapes and types of a compressed update of this model."""
        if {name: form_of(leaf) for name, leaf in packed.items()} != self.forms(model):
            raise BadUpdate("The update does not have the names, shapes and types of the study's compression.")

    def forms(self, model: Tree) -> dict[str, Form]:
        """Of all that travels."""
        expected: dict[str, Form] = {}
        for name, leaf in model.items():
            form = form_of(leaf)
            parts = self.compressor.forms(form) if is_compressed(form) else {"": form}
            expected.update({_named(part, name): one for part, one in parts.items()})
        return expected

    def left_out(self, leaves: Tree, packed: Tree) -> dict[str, Array]:
        """What of the compressed leaves has not gone along."""
        large = {name: leaf for name, leaf in leaves.items() if is_compressed(form_of(leaf))}
        sent = {name: self._restored(name, packed, form_of(leaf)) for name, leaf in large.items()}
        return tree.map(lambda whole, part: whole - part, large, sent)

    def _restored(self, name: str, packed: Tree, form: Form) -> Array:
        if not is_compressed(form):
            whole: Array = packed[name]
            return whole
        parts = {part: packed[_named(part, name)] for part in self.compressor.forms(form)}
        return _here(self.compressor.restore(parts, form, self._draws(name)), list(parts.values()))

    def _draws(self, leaf: str) -> Draws:
        return Draws(self.seed, self.round_number, leaf, self.site)


def is_compressed(form: Form) -> bool:
    """Whether an array of this form is compressed, or travels as it is."""
    return len(form.shape) >= 2 and form.dtype.kind == "f"


def added(leaves: Tree, residual: Mapping[str, Any]) -> dict[str, Array]:
    """The leaves with what was left out of earlier ones, nothing at first. Raises BadUpdate where that belongs to another model."""
    if not residual:
        return dict(leaves)
    large = {name: leaf for name, leaf in leaves.items() if is_compressed(form_of(leaf))}
    return {**leaves, **tree.map(np.add, large, residual)}


def _named(part: str, leaf: str) -> str:
    return f"{part}:{leaf}" if part else leaf


def _here(array: Array, made_of: list[Array]) -> Array:
    """Computed at once where all that it is made of is in memory."""
    return tree.load(array) if all(isinstance(one, np.ndarray) for one in made_of) else array
