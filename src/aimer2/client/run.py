"""A submitted study in the hand of its researcher: watch it, read what comes out; shows itself in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Protocol, final

from rich.console import Console

from aimer2.client.figures import Figures
from aimer2.client.report import report
from aimer2.client.tables import Tables
from aimer2.client.watch import watch
from aimer2.core.task import BlobRef, FigureDocument
from aimer2.messages.wire import StudySummary
from aimer2.study.events import Event


class Conducts(Protocol):
    """What a run asks of its coordinator."""

    def study(self, which: str) -> StudySummary: ...
    def events(self, digest: str, after: int = 0) -> Iterator[Event]: ...
    def result(self, digest: str) -> dict[str, Any]: ...
    def save_model(self, digest: str, path: Path) -> BlobRef: ...


@final
@dataclass(frozen=True, slots=True)
class Run:
    """One study at one coordinator."""

    coordinator: Conducts
    digest: str

    def summary(self) -> StudySummary:
        """Where it stands, and what each site has decided."""
        return self.coordinator.study(self.digest)

    def events(self) -> Iterator[Event]:
        """Every event from the first, then live."""
        return self.coordinator.events(self.digest)

    def watch(self, console: Console | None = None) -> Event | None:
        """Shows the study live until it has finished, stopped or paused; returns that last event."""
        return watch(self.events(), console, asked=[decision.site for decision in self.summary().sites])

    def result(self) -> dict[str, Any]:
        """The signed record, its signature checked. Raises NotFound before the end."""
        return self.coordinator.result(self.digest)

    def figures(self) -> Figures:
        """The final model's figures, pooled over the sites' held-out patients. Raises NotFound before the end."""
        return Figures(FigureDocument(**figure) for figure in self.result()["figures"])

    def tables(self) -> Tables:
        """The answers to its statistical questions. Raises NotFound before the end."""
        return Tables.of(self.result())

    def report(self, console: Console | None = None) -> None:
        """Prints the result for people. Raises NotFound before the end."""
        (console or Console()).print(report(self.result()))

    def save_model(self, path: Path) -> BlobRef:
        """The newest model as a safetensors file."""
        return self.coordinator.save_model(self.digest, path)

    def _repr_html_(self) -> str:
        summary = self.summary()
        rows = "".join(f"<tr><td>{escape(s.site)}</td><td>{escape(s.decision)}</td><td>{escape(s.by or s.reason)}</td></tr>" for s in summary.sites)
        found = Tables.of(self.result())._repr_html_() if summary.state == "finished" else ""
        figures = Figures(FigureDocument(**f) for f in self.result()["figures"])._repr_html_() if summary.state == "finished" else ""
        return (
            f"<h4>{escape(summary.name)} <code>{self.digest[:16]}</code></h4><p>{escape(summary.question)}</p>"
            f"<p><b>{escape(summary.state)}</b>, round {summary.round_number} of {summary.rounds}. {escape(summary.reason)}</p>"
            f"<table><tr><th>site</th><th>decision</th><th>by</th></tr>{rows}</table>{found}{figures}"
        )
