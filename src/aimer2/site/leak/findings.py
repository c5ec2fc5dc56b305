"""What a rehearsal found: the document that comes out of the confined worker, and that the report is made of. It holds patients' values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self, TypeAlias

from pydantic import Field, model_validator

from aimer2.core.task import Document

View: TypeAlias = Literal["alone", "masked", "sum", "noisy", "noisy-sum"]
"""Whose eyes: this hospital's update in the clear; its masked words; the sum over all hospitals; either with the study's privacy noise."""

TITLES: dict[View, str] = {
    "alone": "without protection: this hospital's update in the clear",
    "masked": "secure aggregation: this hospital's update under its masks",
    "sum": "secure aggregation: the sum over all hospitals",
    "noisy": "differential privacy: this hospital's update with noise",
    "noisy-sum": "both: the sum over all hospitals, with noise",
}

Tell: TypeAlias = Callable[[int, int], None]
"""Hears, while a rehearsal runs, how many of its parts are done, and of how many."""

_TEXT = 200
_CELLS = 64
SIDE = 64
"""Pixels of a shown image's longer side at most."""


def unheard(done: int, of: int) -> None:
    """A ``Tell`` where nobody listens."""


class Attempt(Document):
    """One attack on one view: of ``tried`` records so many were rebuilt almost exactly; ``chance``: so many as guesses from the marginals hit."""

    view: View
    tried: int = Field(ge=0)
    rebuilt: int = Field(ge=0)
    chance: int = Field(ge=0)
    error: float | None = Field(description="median over the records, in standard deviations of a feature; none: no candidate at all")


class Level(Document):
    """The attack on updates that are made of so many of the hospital's records."""

    records: int = Field(ge=1)
    updates: int = Field(ge=1, description="of that size, attacked one by one")
    steps: int = Field(ge=1, description="training steps in each")
    searched: bool = Field(description="whether records were also searched by optimisation, or read off the first layer alone")
    attempts: tuple[Attempt, ...] = Field(max_length=8)


class Cell(Document):
    """One feature of the shown patient, in its own unit."""

    feature: str = Field(max_length=_TEXT)
    low: float = Field(description="smallest value at this hospital")
    high: float
    real: float
    alone: float
    protected: float | None = Field(description="the nearest that came of the sum; none: nothing came of it")


class Picture(Document):
    """The image of the shown record and what came out of its place, each 8 bits per pixel and channel, hexadecimal, row by row; darkest and brightest
    as in the record."""

    height: int = Field(ge=1, le=SIDE)
    width: int = Field(ge=1, le=SIDE)
    channels: int = Field(ge=1, le=3)
    real: str = Field(max_length=6 * SIDE**2, pattern="^[0-9a-f]*$")
    alone: str = Field(max_length=6 * SIDE**2, pattern="^[0-9a-f]*$")
    protected: str | None = Field(max_length=6 * SIDE**2, pattern="^[0-9a-f]*$", description="the nearest that came of the sum; none: nothing")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """A study's own code runs where this is made."""
        digits = 2 * self.height * self.width * self.channels
        if any(shown is not None and len(shown) != digits for shown in (self.real, self.alone, self.protected)):
            raise ValueError(f"an image of this size has {digits} digits")
        return self


class Example(Document):
    """A record that was rebuilt from the unprotected update; of images the one that came out best, be it far from the real one."""

    records: int = Field(ge=1, description="records in the update that it came from")
    error: float
    protected_error: float | None
    cells: tuple[Cell, ...] = Field(max_length=_CELLS)
    picture: Picture | None = None


class Membership(Document):
    """How well those who were trained on are told from those who were not; 0.5 is guessing."""

    view: View
    attack: Literal["threshold", "likelihood"]
    auc: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class Tracing(Document):
    """The membership attacks, and what they were made on."""

    worlds: int = Field(ge=0, description="trainings with other patients left out")
    rounds: int = Field(ge=0, description="of each")
    members: int = Field(ge=0, description="records of this hospital in each")
    results: tuple[Membership, ...] = Field(max_length=16)
    untried: str = Field(default="", max_length=_TEXT, description="why not")


class Words(Document):
    """What the coordinator receives, as bytes, and how far from noise it is in standard deviations."""

    clear: str = Field(max_length=4096, pattern="^[0-9a-f]*$", description="the first bytes of the update, hexadecimal")
    masked: str = Field(max_length=4096, pattern="^[0-9a-f]*$")
    again: str = Field(max_length=4096, pattern="^[0-9a-f]*$", description="the same update masked for another round")
    clear_found: float
    masked_found: float
    count: int = Field(ge=0, description="words in all")


class Told(Document):
    """What the exact sums say of a column without any attack."""

    column: str = Field(max_length=_TEXT)
    count: int
    mean: float
    deviation: float


class Findings(Document):
    """All of it."""

    sites: int = Field(ge=1, description="hospitals in the sum")
    secure: bool = Field(description="the study asks for secure aggregation")
    noise: str = Field(max_length=400, description="how the study's privacy noise was put on; empty: the study asks for none")
    rows: int = Field(ge=0, description="training rows of this hospital")
    attacked: int = Field(ge=0, description="so many of them are what the attacked updates are made of; fewer only of many images")
    features: int = Field(ge=0)
    parameters: int = Field(ge=0, description="of the model")
    levels: tuple[Level, ...] = Field(max_length=16)
    example: Example | None
    tracing: Tracing
    words: Words | None
    told: tuple[Told, ...] = Field(max_length=4096)
    notes: tuple[str, ...] = Field(max_length=32, description="what was bounded, left out or assumed")
    seconds: float = Field(ge=0, description="of the processor")

    @property
    def under_the_terms(self) -> View:
        """What an attacker at the coordinator has in hand under the study's own terms."""
        if self.secure:
            return "noisy-sum" if self.noise else "sum"
        return "noisy" if self.noise else "alone"
