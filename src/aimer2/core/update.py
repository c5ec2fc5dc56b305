"""What a site sends about its data: named sums, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from aimer2.core import tree
from aimer2.core.errors import BadUpdate
from aimer2.core.said import say
from aimer2.core.tree import Tree


@final
@dataclass(frozen=True, slots=True)
class Update:
    """Named sums over a site's patients. ``a + b`` equals what the two sites' data pooled would have given.

    So sums in secret, drop-outs, statistics and deep learning are one mechanism. Typical names: ``difference`` (Σ n·(w_local − w_received)),
    ``weight`` (Σ n), ``metrics`` (evaluation as counts and sums).
    """

    sums: Mapping[str, Tree]

    def __add__(self, other: Update) -> Update:
        return total([self, other])


def total(updates: Sequence[Update]) -> Update:
    """The sum of updates in the given order; the order decides the last bits of floating-point sums.

    Raises BadUpdate where two updates do not hold the same sums.
    """
    if not updates:
        raise BadUpdate("There is no update to add.")
    names = updates[0].sums.keys()
    for other in updates[1:]:
        if other.sums.keys() != names:
            raise BadUpdate(say("The updates hold different sums: {names}.", names=", ".join(sorted(names ^ other.sums.keys()))))
    return Update({name: tree.add(*(update.sums[name] for update in updates)) for name in names})
