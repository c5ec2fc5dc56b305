"""Where the loop of a study stands: all that it needs to go on after its process has died."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

from aimer2.core.task import SiteId
from aimer2.study.site_level import CLIPPING


@final
@dataclass(frozen=True, slots=True)
class Position:
    """Where the loop stands: the last finished round of a part. Becomes the checkpoint."""

    part: int = 0
    round_number: int = 0
    attempt: int = 1
    """How often the study has been started or resumed: what was asked before a pause is asked anew."""
    paused: bool = False
    state: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What finished stages left, as blobs: ``moments``, ``model``."""
    excluded: Mapping[SiteId, str] = field(default_factory=dict)
    last: Mapping[str, Any] | None = None
    """The event of the last finished round: it happened with the checkpoint, so it can be told again if nobody heard it."""
    counted: Mapping[SiteId, int] = field(default_factory=dict)
    """Of each site the last training round whose sum holds its answer."""
    summing: Mapping[str, Any] = field(default_factory=dict)
    """What the way to a sum keeps: of a sum in secret, whose keys and whose updates it is made of."""
    sent: Mapping[str, Any] = field(default_factory=dict)
    """What the last round sent, and who has it: `Sent`."""
    lost: int = 0
    """How often the round now asked for was lost."""
    ahead: Mapping[str, Any] | None = None
    """Where to go on once the data contract has been checked again after a pause."""

    def resumed(self) -> Position:
        """The position after a pause: the sites' data may have changed, so the data contract comes first again."""
        summing = {name: value for name, value in self.summing.items() if name == CLIPPING}
        behind = replace(self, paused=False, attempt=self.attempt + 1, excluded={}, summing=summing, lost=0)
        if self.part == 0:
            return behind
        return Position(attempt=behind.attempt, models=self.models, last=self.last, summing=summing, ahead=behind.document())

    def document(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}
