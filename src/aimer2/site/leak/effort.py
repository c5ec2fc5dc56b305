"""How much a rehearsal tries: an officer waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Effort:
    """Seconds are of the processor. Of what takes longer, less is attacked, and the report says so."""

    search_seconds: float = 15.0
    """For all searches together; later updates are read off the first layer alone."""
    steps: int = 100
    """Of one search."""
    trace_seconds: float = 15.0
    """For all trainings together, about; fewer rounds are trained where they would take longer."""
    worlds: int = 12
    """Trainings by which members are told from others."""
    values: int = 1 << 22
    """Pixels and columns of all images that are attacked; of more images some are drawn."""


USUAL = Effort()
