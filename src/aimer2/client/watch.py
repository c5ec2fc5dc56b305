"""A study live: what its one stream of events says, as a picture in a terminal, as lines elsewhere."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias, final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aimer2.client.figures import Figures, printable, size_of, text_of
from aimer2.core.task import ITERATED, FigureDocument, SiteId
from aimer2.study.events import (
    Event,
    ReplyReceived,
    RoundFinished,
    RoundStalled,
    RoundStarted,
    StageStarted,
    StudyFinished,
    StudyPaused,
    StudyStarted,
    StudyStopped,
)

Fate: TypeAlias = Literal["waiting", "asked", "in", "late", "refused", "failed", "unfit"]
"""waiting: not asked yet. in: has answered. unfit: its data do not meet the study's contract, so it is asked no more."""

_COLOURS = {"waiting": "dim", "asked": "yellow", "in": "green", "late": "magenta", "refused": "red", "failed": "red", "unfit": "red"}
_STAGES = {"preflight": "checking data", "moments": "common scale", "train": "training", "final": "last evaluation", "analyse": "answering"}
_RECENT_ROUNDS = 10


@final
@dataclass(slots=True)
class SiteLine:
    """How a site fares."""

    fate: Fate = "waiting"
    reason: str = ""
    rounds: int = 0
    seconds: float | None = None
    received: int = 0
    """Bytes of its updates that counted."""
    sent: int = 0
    """Bytes of models that it was sent."""


@final
class Progress:
    """What the events so far add up to."""

    def __init__(self, asked: Iterable[SiteId] = ()) -> None:
        self.sites: dict[SiteId, SiteLine] = {site: SiteLine() for site in asked}
        self.stage = ""
        self.round_number = 0
        self.rounds = 0
        self.finished_rounds = 0
        self.figures: tuple[FigureDocument, ...] = ()
        self.bytes_received = 0
        self.bytes_sent = 0
        self.stalled = ""
        self.ended: StudyFinished | StudyPaused | StudyStopped | None = None
        self._seconds: list[float] = []

    @property
    def seconds_left(self) -> float | None:
        """Of the training, from the rounds that have finished; None before the first."""
        if self.stage not in ITERATED or not self._seconds:
            return None
        return statistics.median(self._seconds) * (self.rounds - self.finished_rounds)

    def add(self, event: Event) -> None:
        match event:
            case StudyStarted():
                self.ended = None
                for site in event.sites:
                    self._site(site)
            case StageStarted():
                self.stage, self.rounds, self.round_number, self.finished_rounds = event.stage, event.rounds, 0, 0
            case RoundStarted():
                self._start(event)
            case ReplyReceived():
                self._reply(event)
            case RoundStalled():
                self.stalled = _stalled(event)
                for site in event.waiting_for:
                    self._site(site).fate = "late"
            case RoundFinished():
                self._finish(event)
            case StudyFinished() | StudyPaused() | StudyStopped():
                self.ended = event

    def _site(self, site: SiteId) -> SiteLine:
        return self.sites.setdefault(site, SiteLine())

    def _start(self, event: RoundStarted) -> None:
        self.stage, self.rounds, self.round_number, self.stalled = event.stage, event.rounds, event.round_number, ""
        for site in event.sites:
            line = self._site(site)
            line.fate, line.reason, line.seconds = "asked", "", None

    def _reply(self, event: ReplyReceived) -> None:
        line = self._site(event.site)
        line.seconds = event.seconds
        unfit = _unfit(event)
        if event.outcome == "answer":
            line.fate, line.reason = ("unfit", unfit) if unfit else ("in", "")
        else:
            line.fate, line.reason = ("refused" if event.outcome == "refusal" else "failed"), event.reason

    def _finish(self, event: RoundFinished) -> None:
        self.stage, self.rounds, self.round_number, self.finished_rounds = event.stage, event.rounds, event.round_number, event.round_number
        self.stalled = ""
        self.figures = event.figures or self.figures
        self.bytes_received += event.bytes_received
        self.bytes_sent += event.bytes_sent
        for site, traffic in event.traffic.items():
            line = self._site(site)
            line.received, line.sent = line.received + traffic.received, line.sent + traffic.sent
        for site in event.took_part:
            line = self._site(site)
            line.rounds += event.stage in ITERATED
            if line.fate != "unfit":
                line.fate, line.reason = "in", ""
        for absence in event.absent:
            line = self._site(absence.site)
            line.fate, line.reason = absence.outcome, absence.reason
        if event.stage in ITERATED:
            self._seconds = [*self._seconds, event.seconds][-_RECENT_ROUNDS:]

    def __rich__(self) -> Group:
        parts = [self._bar(), self._table()]
        if self.figures:
            parts.append(Figures(self.figures).__rich__())
        sentence = self.stalled if self.ended is None else _ending(self.ended)
        return Group(*parts, Text(sentence, "bold")) if sentence else Group(*parts)

    def _bar(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        left = "" if self.seconds_left is None or self.ended else f"about {_duration(self.seconds_left)} left"
        stage = _STAGES.get(self.stage, "waiting for the start")
        count = f"round {self.finished_rounds} of {self.rounds}" if self.rounds else ""
        bar = ProgressBar(total=max(self.rounds, 1), completed=self.finished_rounds, width=40)
        grid.add_row(Text(stage, "bold"), bar, count, left, f"{size_of(self.bytes_received)} received, {size_of(self.bytes_sent)} sent")
        return grid

    def _table(self) -> Table:
        table = Table("site", "", "rounds", "seconds", "received", "sent", "why", box=None, pad_edge=False)
        for name, line in sorted(self.sites.items()):
            seconds = "" if line.seconds is None else f"{line.seconds:.2f}"
            traffic = size_of(line.received), size_of(line.sent)
            table.add_row(name, Text(line.fate, _COLOURS[line.fate]), str(line.rounds), seconds, *traffic, Text(printable(line.reason)))
        return table


def lines_of(event: Event) -> Iterator[str]:
    """The event as lines for a log or a pipe; none where it says nothing that a later event does not say again."""
    match event:
        case StudyStarted():
            yield f"{'Resumed' if event.resumed else 'Started'} with {len(event.sites)} sites: {', '.join(event.sites)}"
        case StageStarted():
            yield f"{_STAGES[event.stage].capitalize()}: {event.rounds} round{'s' * (event.rounds > 1)}"
        case ReplyReceived():
            if unfit := _unfit(event):
                yield f"  {event.site} is unfit: {printable(unfit)}"
            elif event.outcome != "answer":
                yield f"  {event.site} {'refused' if event.outcome == 'refusal' else 'failed'}: {printable(event.reason or event.code)}"
        case RoundStalled():
            yield f"  {_stalled(event)}"
        case RoundFinished():
            yield from (f"  {absence.site} is late" for absence in event.absent if absence.outcome == "late")
            shown = "".join(f"  {figure.name} {text_of(figure)}" for figure in event.figures)
            asked = len(event.took_part) + len(event.absent)
            carried = f"{size_of(event.bytes_received)} received, {size_of(event.bytes_sent)} sent"
            sites = f"{len(event.took_part)} of {asked} sites"
            yield f"  round {event.round_number} of {event.rounds}: {sites}, {event.seconds:.2f} s, {carried}{shown}"
        case StudyFinished() | StudyPaused() | StudyStopped():
            yield _ending(event)
        case _:
            pass


@final
class Watch:
    """Shows events as they come, between ``with`` and its end; events may come from another thread."""

    def __init__(self, console: Console | None = None, *, asked: Sequence[SiteId] = ()) -> None:
        self._console = console or Console()
        self._lock = threading.Lock()
        self.progress = Progress(asked)
        # Draws as soon as it is made, so it comes last.
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=8) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def add(self, event: Event) -> None:
        with self._lock:
            self.progress.add(event)
        if self._live is None:
            for line in lines_of(event):
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        with self._lock:
            return self.progress.__rich__()


def watch(events: Iterable[Event], console: Console | None = None, *, asked: Sequence[SiteId] = ()) -> Event | None:
    """Shows events until there are no more; returns the last. ``asked``: the sites, where the study has not started."""
    last: Event | None = None
    with Watch(console, asked=asked) as view:
        for last in events:
            view.add(last)
    return last


def _unfit(event: ReplyReceived) -> str:
    """What a site's check of its data has found against it."""
    return " ".join(check.finding for check in event.checks if check.blocking and not check.passed)


def _stalled(event: RoundStalled) -> str:
    waiting = ", ".join(event.waiting_for)
    return f"Round {event.round_number} waits for {waiting}: {len(event.answered)} sites have answered, {event.needed} are needed."


def _ending(event: StudyFinished | StudyPaused | StudyStopped) -> str:
    if isinstance(event, StudyFinished):
        return "Finished."
    return f"{'Paused' if isinstance(event, StudyPaused) else 'Stopped'}: {printable(event.reason)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
