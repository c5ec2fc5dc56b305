"""What a site's task gave, and what can do one."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Protocol, final

from aimer2.core.task import Check, FigureDocument, Task
from aimer2.core.tree import Tree
from aimer2.metrics.figures import Figure
from aimer2.study.personal import Compared


@final
@dataclass(frozen=True, slots=True)
class Performed:
    """What a task gave: sums to send, checks of a preflight, the site's own figures (they stay)."""

    sums: Mapping[str, Tree]
    checks: tuple[Check, ...] = ()
    figures: tuple[Figure, ...] = ()
    released: tuple[FigureDocument, ...] = ()
    """Of the figures what the approved study releases."""
    compared: Compared | None = None
    """At the end of a personal method: which model the site keeps."""
    cohorts: Mapping[str, bytes] = field(default_factory=dict)
    """Of statistical questions whom each rests on, for the site's own comparison with earlier ones: `aimer2.study.asked`."""


class Performs(Protocol):
    """Anything that can do a site's tasks."""

    def perform(self, task: Task, received: Mapping[str, Tree], memory: MutableMapping[str, Tree]) -> Performed: ...
