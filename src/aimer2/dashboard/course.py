"""The course of a study as its events tell it: what the live view shows, kept once for everybody who looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from aimer2.charts.chart import Axis, Chart, Series
from aimer2.client.watch import Progress
from aimer2.core.said import mark
from aimer2.core.task import ITERATED, SiteId
from aimer2.study.events import EVENT, Event, ReplyReceived, RoundFinished, RoundStarted
from aimer2.web.pictures import thinned
from aimer2.web.translation import Language

RECENT = 15
_MOST_POINTS = 240
_LOSS = ("loss", "log_loss", "rmse", "mae", "brier")
_SHARES = frozenset(("auc", "accuracy", "sensitivity", "specificity", "balanced_accuracy", "concordance", "dice", "iou", "auc_micro", "image_dice"))

CURVES = mark("Pooled figures on the patients held out")
LOSSES = mark("Pooled loss")
TIMES = mark("Seconds per round")
BYTES = mark("Megabytes received per round")
ROUND = mark("round")


@final
@dataclass(slots=True)
class Curve:
    """A pooled figure over the rounds, with its interval where it has one."""

    rounds: list[float] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)
    low: list[float | None] = field(default_factory=list)
    high: list[float | None] = field(default_factory=list)

    def add(self, number: float, value: float | None, low: float | None = None, high: float | None = None) -> None:
        self.rounds.append(number)
        self.values.append(value)
        self.low.append(low)
        self.high.append(high)

    def series(self, name: str) -> Series:
        """So many points as a screen has room for."""
        kept = thinned(self.values, _MOST_POINTS)
        band = all(self.low[place] is not None and self.high[place] is not None for place in kept) and bool(kept)
        x, y, low, high = (tuple(part[place] for place in kept) for part in (self.rounds, self.values, self.low, self.high))
        return Series(name=name, mark="line", x=x, y=y, **({"low": low, "high": high} if band else {}))


@final
class Course:
    """Events are added in their order; ``version`` says whether there is something new since one looked."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.last = 0
        """The number of the last event."""
        self.progress = Progress()
        self.recent: deque[Event] = deque(maxlen=RECENT)
        self.rounds: list[RoundFinished] = []
        self.figures: dict[str, Curve] = {}
        self.seconds = Curve()
        self.bytes = Curve()
        self.work: Mapping[SiteId, Mapping[str, Any]] = {}
        """What each site has to do now, as `GET /v1/studies/{digest}/work` tells it."""
        self.version = 0

    def add(self, sequence: int, document: str) -> None:
        if sequence <= self.last:
            return
        event = EVENT.validate_json(document)
        self.last = sequence
        self.version += 1
        self.progress.add(event)
        # What a later event says again is not told twice.
        if not (isinstance(event, RoundStarted) or (isinstance(event, ReplyReceived) and event.outcome == "answer")):
            self.recent.append(event)
        if isinstance(event, RoundFinished):
            self._finish(event)

    @property
    def started(self) -> bool:
        return bool(self.progress.sites)

    def set_work(self, work: Sequence[Mapping[str, Any]]) -> None:
        now = {one["site"]: one for one in work}
        if now != self.work:
            self.work = now
            self.version += 1

    def _finish(self, event: RoundFinished) -> None:
        self.rounds.append(event)
        if event.stage not in (*ITERATED, "final"):
            return
        # A round measures the model that it has received; the last evaluation follows the last round.
        number = float(event.round_number if event.stage != "final" else len(self.seconds.rounds) + 1)
        for figure in event.figures:
            self.figures.setdefault(figure.name, Curve()).add(number, figure.value, figure.low, figure.high)
        if event.stage in ITERATED:
            self.seconds.add(number, event.seconds)
            self.bytes.add(number, event.bytes_received / 1e6)

    def charts(self, language: Language) -> Iterator[Chart]:
        """Shares between 0 and 1 in one picture, losses in another, then what a round costs."""
        shares = {name: curve for name, curve in self.figures.items() if name in _SHARES}
        losses = {name: curve for name, curve in self.figures.items() if name in _LOSS}
        for title, curves in ((CURVES, shares), (LOSSES, losses)):
            if curves:
                yield _chart(language, title, [curve.series(name) for name, curve in curves.items()])
        for title, curve in ((TIMES, self.seconds), (BYTES, self.bytes)):
            if len(curve.rounds) > 1:
                yield _chart(language, title, [curve.series("")], low=0.0)


def _chart(language: Language, title: str, series: Sequence[Series], low: float | None = None) -> Chart:
    if len(series) > 1:
        # Bands of several curves would hide each other.
        series = [one.model_copy(update={"low": (), "high": ()}) for one in series]
    shown = language.text(title)
    last = [f"{one.name} {one.y[-1]:.3g}".strip() for one in series if one.y and one.y[-1] is not None]
    return Chart(title=shown, description=f"{shown}: {', '.join(last)}", x=Axis(title=language.text(ROUND)), y=Axis(low=low), series=tuple(series))
