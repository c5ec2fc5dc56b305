"""This hospital's update as the coordinator of a secure round receives it: words under masks."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aimer2.attacks.coordinator_view import measure
from aimer2.core import tree
from aimer2.core.tree import NumpyArray, Tree
from aimer2.core.update import Update
from aimer2.secure_aggregation.layout import Layout
from aimer2.secure_aggregation.masking import mask
from aimer2.secure_aggregation.quantisation import decode, encode
from aimer2.site.leak.findings import Words

_SHOWN = 1024
_SEED = 32


def view(update: Update, sites: int) -> Words:
    """The update's words before and after masking, twice."""
    layout = Layout.of(update.sums, {}, sites)
    clear = np.concatenate([encode(_flat(update.sums[leaf.sum][leaf.name]), leaf, sites).words.view(np.uint64) for leaf in layout.leaves])
    masked, again = (_words(masked_once(update.sums, layout, sites), layout) for _ in range(2))
    return Words(
        clear=clear.tobytes()[:_SHOWN].hex(),
        masked=masked.tobytes()[:_SHOWN].hex(),
        again=again.tobytes()[:_SHOWN].hex(),
        clear_found=measure(clear).largest,
        masked_found=measure(masked, clear).largest,
        count=len(masked),
    )


def masked_once(sums: Mapping[str, Tree], layout: Layout, sites: int) -> dict[str, dict[str, NumpyArray]]:
    """Under one mask of its own and one with each other hospital, of seeds that nobody else has."""
    own, *pairs = (secrets.token_bytes(_SEED) for _ in range(sites))
    half = len(pairs) // 2
    masked = mask(sums, layout, secrets.token_bytes(_SEED), own, pairs[:half], pairs[half:])
    return {name: {leaf: np.array(tree.load(words)) for leaf, words in named.items()} for name, named in masked.items()}


def _words(masked: Mapping[str, Tree], layout: Layout) -> npt.NDArray[np.uint64]:
    """Of the study's own sums; without ranges every leaf has 64-bit words."""
    return np.concatenate([_flat(masked[leaf.sum][leaf.name]).view(np.uint64) for leaf in layout.leaves])


def _flat(leaf: Any) -> NumpyArray:
    return np.ascontiguousarray(tree.load(leaf)).reshape(-1)


def garbled(sums: Mapping[str, Tree], sites: int) -> dict[str, dict[str, NumpyArray]]:
    """The masked words read as if they were the update: what an attacker has who ignores the masks."""
    layout = Layout.of(sums, {}, sites)
    masked = masked_once(sums, layout, sites)
    read: dict[str, dict[str, NumpyArray]] = {}
    for leaf in layout.leaves:
        numbers = decode(_flat(masked[leaf.sum][leaf.name]), leaf, sites)
        read.setdefault(leaf.sum, {})[leaf.name] = np.asarray(numbers, np.float64).reshape(leaf.shape)
    return read
