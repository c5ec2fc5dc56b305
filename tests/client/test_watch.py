from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from aimer2.client.watch import Progress, lines_of, watch
from aimer2.core.task import Check, FigureDocument
from aimer2.study.events import (
    Absence,
    Event,
    ReplyReceived,
    RoundFinished,
    RoundStalled,
    RoundStarted,
    StageStarted,
    StudyFinished,
    StudyPaused,
    StudyStarted,
    Traffic,
)

SITES = ("bern", "graz", "linz", "ulm", "wien")


def reply(site: str, outcome: str, stage: str = "train", **more: object) -> ReplyReceived:
    return ReplyReceived(time=1, stage=stage, round_number=1, site=site, outcome=outcome, seconds=0.5, **more)  # type: ignore[arg-type]


def recorded() -> list[Event]:
    """Five sites: one answers, one is unfit, one refuses, one fails, one is late."""
    figure = FigureDocument(name="auc", value=0.8124, low=0.7, high=0.9, n=120)
    absent = (
        Absence(site="linz", outcome="refused", code="not-approved", reason="No legal basis."),
        Absence(site="ulm", outcome="failed", code="out-of-resources", reason="Disk, memory or a quota is used up."),
        Absence(site="wien", outcome="late"),
    )
    finding = Check(name="columns", passed=False, finding="There is no column 'age'.")
    note = Check(name="classes", passed=False, blocking=False, finding="Not every class occurs.")
    return [
        StudyStarted(time=0, sites=SITES),
        StageStarted(time=0, stage="preflight", rounds=1),
        RoundStarted(time=0, stage="preflight", round_number=1, rounds=1, sites=SITES),
        *(reply(site, "answer", "preflight", checks=(finding,) if site == "graz" else (note,)) for site in SITES),
        RoundFinished(time=1, stage="preflight", round_number=1, rounds=1, seconds=0.1, took_part=SITES),
        StageStarted(time=1, stage="train", rounds=4),
        RoundStarted(time=1, stage="train", round_number=1, rounds=4, sites=("bern", "linz", "ulm", "wien")),
        reply("bern", "answer"),
        reply("linz", "refusal", code="not-approved", reason="No legal basis."),
        reply("ulm", "failure", code="out-of-resources", reason="Disk, memory or a quota is used up."),
        RoundStalled(time=2, stage="train", round_number=1, answered=("bern",), waiting_for=("wien",), needed=2),
        RoundFinished(
            time=3,
            stage="train",
            round_number=1,
            rounds=4,
            seconds=60,
            took_part=("bern",),
            absent=absent,
            figures=(figure,),
            bytes_received=2500,
            bytes_sent=4000,
            traffic={"bern": Traffic(sent=2000, received=2500), "wien": Traffic(sent=2000, received=0)},
        ),
    ]


def folded(events: Sequence[Event]) -> Progress:
    progress = Progress()
    for event in events:
        progress.add(event)
    return progress


def shown(progress: Progress) -> str:
    console = Console(file=io.StringIO(), width=150, force_terminal=False)
    console.print(progress)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_sites_fate_is_shown_with_its_reason() -> None:
    lines = {line.split()[0]: line for line in shown(folded(recorded())).splitlines() if line.split()}
    assert "in" in lines["bern"].split()
    assert "unfit" in lines["graz"] and "There is no column 'age'." in lines["graz"]
    assert "refused" in lines["linz"] and "No legal basis." in lines["linz"]
    assert "failed" in lines["ulm"] and "used up" in lines["ulm"]
    assert "late" in lines["wien"].split()
    assert lines["bern"].split()[-4:] == ["2", "kB", "2", "kB"] and lines["wien"].split()[-4:] == ["0", "B", "2", "kB"]
    assert "0.812" in lines["auc"] and "0.700 to 0.900" in lines["auc"]


def test_time_left_is_that_of_the_rounds_that_are_left() -> None:
    progress = folded(recorded())
    assert progress.seconds_left == 180
    assert "round 1 of 4" in shown(progress) and "about 3 min left" in shown(progress) and "2 kB received, 4 kB sent" in shown(progress)
    assert folded(recorded()[:8]).seconds_left is None


def test_a_stalled_round_says_for_whom_it_waits() -> None:
    assert "waits for wien" in shown(folded(recorded()[:-1]))
    assert "waits for" not in shown(folded(recorded()))


def test_an_unfit_site_stays_unfit_until_it_is_asked_again() -> None:
    assert folded(recorded()).sites["graz"].fate == "unfit"
    again = RoundStarted(time=9, stage="preflight", round_number=1, rounds=1, attempt=2, sites=SITES)
    assert folded([*recorded(), again]).sites["graz"].fate == "asked"


def test_only_training_rounds_count_as_taken_part() -> None:
    progress = folded(recorded())
    assert (progress.sites["bern"].rounds, progress.sites["graz"].rounds) == (1, 0)


def test_without_a_terminal_there_are_lines() -> None:
    console = Console(file=io.StringIO(), width=40, force_terminal=False)
    last = watch([*recorded(), StudyFinished(time=4, result={})], console)
    assert isinstance(last, StudyFinished)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in text
    for line in ("graz is unfit: There is no column 'age'.", "linz refused: No legal basis.", "ulm failed: ", "wien is late", "Finished."):
        assert line in text
    assert "  round 1 of 4: 1 of 4 sites, 60.00 s, 2 kB received, 4 kB sent  auc 0.812 (0.700 to 0.900)\n" in text


def test_a_terminal_shows_the_last_state() -> None:
    console = Console(file=io.StringIO(), width=150, height=40, force_terminal=True)
    watch([*recorded(), StudyPaused(time=4, reason="1 site answered, 2 are needed.")], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Paused: 1 site answered, 2 are needed." in text
    assert "No legal basis." in text


@pytest.mark.parametrize("terminal", [True, False])
def test_a_sites_words_cannot_steer_the_terminal_nor_the_markup(terminal: bool) -> None:
    bad = reply("linz", "refusal", reason="\x1b]0;owned\x07\x1b[2J[red]no[/red]")
    console = Console(file=io.StringIO(), width=150, height=40, force_terminal=terminal)
    watch([StudyStarted(time=0, sites=SITES), bad], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b]0" not in text and "\x1b[2J" not in text and "\x07" not in text
    assert "[red]no[/red]" in text


def test_every_event_becomes_at_least_the_lines_it_needs() -> None:
    silent = {type(event).__name__ for event in recorded() if not list(lines_of(event))}
    assert silent == {"RoundStarted", "ReplyReceived"}
    assert sum(1 for event in recorded() if isinstance(event, ReplyReceived) and list(lines_of(event))) == 3
