"""Models of a hospital's own: what FedBN, FedPer, FedRep, Ditto and local fine-tuning share.

A personal model never leaves its site. At the end of a study the site compares three models: the common one, its own, and one that it has
trained alone on the same rows for as many steps. It keeps the one of the least loss on its validation patients, whom none of the sites' models
was trained on, and reports the figures on its held-out patients, who took no part in that choice. So what a hospital keeps is, on its validation
patients, never worse than what it could have made alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from aimer2.algorithms.remembered import moment_of
from aimer2.core.protocols import Local
from aimer2.core.ranges import Range
from aimer2.core.tree import Tree

SHARE = Range("above 0 and below 1", lambda value: 0 < value < 1)
"""Of ``validation``: the share of a site's training patients that no model is trained on."""


@runtime_checkable
class Personal(Protocol):
    """A method at whose end each site has a model of its own."""

    version: ClassVar[int]

    @property
    def rounds(self) -> int: ...
    @property
    def validation(self) -> float: ...
    def personal(self, received: Mapping[str, Tree], site: Local) -> Tree:
        """The site's own whole model, from the last common one and what the site has kept."""
        ...


def kept(site: Local) -> Tree | None:
    """What the site kept of its own before this round, whichever attempt at the round this is; None at its first."""
    return site.memory.get(moment_of(site)) if "last" in site.memory else None


def keep(site: Local, leaves: Tree) -> None:
    """Keeps it beside what was there before, from which a round that is asked anew starts."""
    before = kept(site)
    site.memory.pop("before", None)
    if before is not None:
        site.memory["before"] = before
    site.memory["after"] = leaves
    site.memory["last"] = {"round_number": np.array([site.round_number], np.float64)}


def last_kept(site: Local) -> Tree | None:
    """What the site kept in its last round, for the end of a study."""
    return site.memory.get("after")


def fit(site: Local, *, steps: int | None = None, **options: Any) -> Tree:
    """The leaves after so many steps (none: the study's) from what the learner has loaded."""
    count = site.steps if steps is None else steps
    site.learner.fit(site.data, steps=count, batch_size=site.batch_size, round_number=site.round_number, rng=site.rng, **options)
    return site.learner.parameters()
