"""How the sites of a study differ, and which method that speaks for: a trial of a few rounds, in this process.

Between hospitals the same trial is a study of its own, `trial(study)`, which each hospital approves; its record holds the same diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from rich.console import Group

from aimer2.client.report import diagnosed
from aimer2.client.simulate import SiteData, simulate
from aimer2.core.study import Study
from aimer2.core.task import SiteId
from aimer2.study.diagnosis import ROUNDS, trial
from aimer2.study.events import Event
from aimer2.study.recommendation import changed


@final
@dataclass(frozen=True, slots=True)
class Diagnosed:
    """What the trial has found. ``measured``: the figures by name; shares of variance are from 0 to 1."""

    study: Study
    measured: Mapping[str, float]
    method: str
    changes: Mapping[str, Any]
    """Fields of the study and what to set them to, by their place."""
    reasons: Sequence[str]
    record: Mapping[str, Any]
    """Of the trial, as of every study."""

    @property
    def recommended(self) -> Study:
        """The study with these changes."""
        return changed(self.study, self.changes)

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {"study": self.study.name, **self.record["diagnosis"]}

    def __rich__(self) -> Group:
        return diagnosed(self.record["diagnosis"])


def diagnose(
    study: Study,
    sites: Mapping[SiteId, SiteData],
    *,
    folder: Path = Path(),
    patient: str | None = None,
    rounds: int = ROUNDS,
    on_event: Callable[[Event], None] | None = None,
) -> Diagnosed:
    """Runs the trial of this study over these sites' data; ``sites``, ``folder``, ``patient`` and ``on_event`` as for `aimer2.simulate`.

    Raises what `aimer2.simulate` raises.
    """
    record = simulate(trial(study, rounds), sites, folder=folder, patient=patient, on_event=on_event).result
    found = record["diagnosis"]
    said = found["recommendation"]
    return Diagnosed(study, found["measured"], said["method"], said["changes"], said["reasons"], record)
