"""Methods of which a part of the model travels: what FedBN, FedPer, FedRep and frozen backbones share.

``model`` is the part that is averaged. ``base`` is the rest as it was at the start: sites receive it once, as the same bytes in every round, and
no update of it is ever sent.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol, final, runtime_checkable

import numpy as np

from aimer2.algorithms.fedavg import mean_difference, weighted
from aimer2.core import tree
from aimer2.core.errors import BadStudy, Fault
from aimer2.core.protocols import Local
from aimer2.core.said import say
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True)
class Parted:
    """The state: the part that travels, and the rest as it was at the start."""

    model: Tree
    base: Tree
    round_number: int = 0


def part(model: Tree, travelling: Collection[str]) -> Parted:
    inside = {name: leaf for name, leaf in model.items() if name in travelling}
    return Parted(inside, {name: leaf for name, leaf in model.items() if name not in travelling})


def sent(state: Parted) -> Mapping[str, Tree]:
    """What sites receive; a model that travels whole has no ``base``."""
    return {"model": state.model, "base": state.base} if state.base else {"model": state.model}


def whole(received: Mapping[str, Tree], own: Tree | None = None) -> dict[str, Any]:
    """The model to train or to measure; ``own`` leaves take the place of those at the start."""
    return {**received.get("base", {}), **received["model"], **(own or {})}


@runtime_checkable
class Assembling(Protocol):
    """A method whose sites put the model together in a way of its own."""

    def whole(self, received: Mapping[str, Tree]) -> Tree: ...


def whole_model(algorithm: object, received: Mapping[str, Tree]) -> Tree:
    """The common model that the received trees stand for."""
    return algorithm.whole(received) if isinstance(algorithm, Assembling) else whole(received)


def joined(state: Parted) -> Tree:
    return {**state.base, **state.model}


def averaged(state: Parted, total: Update) -> Parted:
    """FedAvg's step for the part that travels."""
    step = mean_difference(total)
    moved = tree.map(lambda w, d: (w + d).astype(w.dtype, copy=False), state.model, step)
    return replace(state, model=moved, round_number=state.round_number + 1)


def difference(received: Mapping[str, Tree], trained: Tree, site: Local) -> Update:
    """What FedAvg sends, of the part that travels alone."""
    rows, model = len(site.data), received["model"]
    moved = tree.map(lambda after, before: weighted(after, before, rows), {name: trained[name] for name in model}, model)
    return Update({"difference": moved, "weight": {"rows": np.array([rows], np.float64)}})


def leaves_called(model: Iterable[str], words: str, parameter: str) -> frozenset[str]:
    """The leaves that a study's hyper-parameter names: leaves, layers (``head`` is head.weight and head.bias) or patterns (``blocks.*``),
    separated by commas.

    Raises BadStudy for a word that names none.
    """
    found: set[str] = set()
    names = sorted(model)
    for word in filter(None, map(str.strip, words.split(","))):
        called = [name for name in names if any(fnmatchcase(name, pattern) for pattern in (word, f"{word}.*", f"{word}/*"))]
        if not called:
            layers = ", ".join(dict.fromkeys(map(layer_of, names)))
            raise BadStudy(
                [
                    Fault(
                        f"method.parameters.{parameter}",
                        say("the model has no layer or leaf '{word}'", word=word),
                        say("it has {layers}", layers=layers),
                    )
                ]
            )
        found.update(called)
    return frozenset(found)


def layer_of(name: str) -> str:
    """``blocks.0`` of torch's ``blocks.0.weight``, ``net/dense`` of Keras's ``net/dense/kernel``; a leaf of no layer is one of its own."""
    return name[: max(name.rfind("."), name.rfind("/"), 0)] or name


def last_layer(model: Iterable[str]) -> frozenset[str]:
    """The layer whose name is last, numbers taken as numbers: that of ``10.weight`` comes after that of ``9.weight``."""
    names = sorted(model)
    last = max(map(layer_of, names), key=_natural, default="")
    return frozenset(name for name in names if layer_of(name) == last)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def head_of(model: Iterable[str], words: str, parameter: str = "head") -> frozenset[str]:
    """The named leaves, else the last layer. Raises BadStudy where that is the whole model, or nothing."""
    names = frozenset(model)
    found = leaves_called(names, words, parameter) or last_layer(names)
    if found == names:
        problem = "is the whole model, of which a part must be left"
        raise BadStudy(
            [Fault(f"method.parameters.{parameter}", problem, say("name some of {names}, or take another method", names=", ".join(sorted(names))))]
        )
    return found
