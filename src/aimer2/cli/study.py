"""`aimer2 study`: all that a researcher does with a study, from its first line to its result."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

from aimer2.cli.login import CLOCK, at_coordinator
from aimer2.cli.partly_lazy import PartlyLazy
from aimer2.cli.rehearsal import blocked, side_by_side
from aimer2.client.coordinator import Coordinator
from aimer2.client.figures import printable
from aimer2.client.report import report
from aimer2.client.run import Run
from aimer2.core.clock import rfc3339
from aimer2.core.errors import BadStudy, Conflict, NoResult
from aimer2.core.study import Study, read_study
from aimer2.messages.wire import StudySummary
from aimer2.repository.page import as_page
from aimer2.study.check import refuse_faults
from aimer2.study.differential_privacy import calibration
from aimer2.study.events import StudyFinished
from aimer2.study.template import new_study

_SHOWN = 16
_FILE = click.Path(path_type=Path, dir_okay=False)
_DECIDED = {"waiting": "waiting", "approve": "approved", "refuse": "refused", "withdraw": "withdrawn"}


def _as_json(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="For a machine.")(command)


@click.group(
    cls=PartlyLazy,
    lazy={
        "leave-one-out": "aimer2.cli.leave_one_out:leave_one_out",
        "archive": "aimer2.cli.study_versions:archive",
        "diagnose": "aimer2.cli.diagnose:diagnose",
        "draft": "aimer2.cli.study_draft:draft",
        "explain": "aimer2.cli.study_explain:explain",
        "feasibility": "aimer2.cli.study_feasibility:feasibility",
        "people": "aimer2.cli.study_people:people",
        "versions": "aimer2.cli.study_versions:versions",
    },
)
def study() -> None:
    """Write, check, submit and follow studies. STUDY: its digest, the beginning of it, or its name."""


@study.command()
@click.argument("name")
def new(name: str) -> None:
    """Write NAME/study.toml: a whole study with comments, to be changed."""
    text = new_study(name, CLOCK)
    path = Path(name) / "study.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Conflict(f"{path} exists and is not overwritten.", remedy="Choose another name.") from None
    click.echo(f"{path} is written. Next:\n\n  aimer2 study check {path}\n  aimer2 simulate {path}")


@study.command()
@click.argument("file", type=_FILE)
@_as_json
def check(file: Path, as_json: bool) -> None:
    """List every fault of a study, with what to do."""
    try:
        found = _sound(file)
    except BadStudy as error:
        if not as_json:
            raise
        click.echo(json.dumps({"faults": [asdict(fault) for fault in error.faults]}, indent=1))
        sys.exit(2)
    told = calibration(found)
    if as_json:
        click.echo(json.dumps({"faults": []} | ({"calibration": told} if told else {}), indent=1, ensure_ascii=False))
        return
    read = f"{len(found.columns)} columns" if found.analyses else f"{len(found.cohort.features)} features"
    click.echo(f"{found.name} has no faults: {', '.join(found.methods)}, {found.rounds} rounds, {read}.")
    for name, line in told.items():
        click.echo(f"{name:12}  {line}")


@study.command()
@click.argument("file", type=_FILE)
@click.option("--watch", "follow", is_flag=True, help="Stay and show the study live.")
@click.option("--supersedes", metavar="STUDY", help="A new version of this study, whose place it takes; every hospital approves it anew.")
@_as_json
@at_coordinator
def submit(coordinator: Coordinator, file: Path, follow: bool, supersedes: str | None, as_json: bool) -> None:
    """Offer the study to its hospitals. It starts by itself when all of them have decided and enough have approved."""
    run = coordinator.submit(_sound(file), file.parent, supersedes=coordinator.study(supersedes).digest if supersedes else None)
    summary = run.summary()
    if as_json:
        click.echo(summary.model_dump_json(indent=1))
    else:
        click.echo(f"Submitted {summary.name}, digest {summary.digest}\nAsked: {', '.join(site.site for site in summary.sites)}")
    if follow:
        _follow(run, Console(stderr=as_json))
    elif not as_json:
        click.echo(f"Each approves that digest, or refuses. Next: aimer2 study watch {summary.digest[:_SHOWN]}")


@study.command()
@click.argument("study", metavar="STUDY")
@_as_json
@at_coordinator
def preflight(coordinator: Coordinator, study: str, as_json: bool) -> None:
    """Ask every hospital that has approved whether its data fit, and show the answers side by side."""
    found = coordinator.preflight(coordinator.study(study).digest)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        Console().print(side_by_side(found))
    if blocked(found):
        sys.exit(1)


@study.command()
@click.argument("study", metavar="STUDY")
@at_coordinator
def watch(coordinator: Coordinator, study: str) -> None:
    """Show the study live until it has finished, stopped or paused."""
    _follow(Run(coordinator, coordinator.study(study).digest), Console())


@study.command("list")
@click.option("--archived", is_flag=True, help="Archived ones too.")
@_as_json
@at_coordinator
def list_studies(coordinator: Coordinator, archived: bool, as_json: bool) -> None:
    """The studies that you may see, oldest first."""
    found = coordinator.studies(archived=archived)
    frozen = coordinator.frozen()
    if frozen.frozen:
        click.echo(f"Everything is frozen by {printable(frozen.by)} since {rfc3339(int(frozen.since or 0))}: {printable(frozen.reason)}", err=True)
    if as_json:
        click.echo(json.dumps([summary.model_dump(mode="json") for summary in found], indent=1))
        return
    if not found:
        click.echo("There is no study that you may see. Next: aimer2 study submit FILE", err=True)
        return
    # What is left of the line is for the ethics reference: it may be a sentence, and `study show` has the whole of it.
    table = Table("digest", "name", "state", "round", "sites", "expires", Column("ethics", ratio=1), box=None, pad_edge=False, expand=True)
    for column in table.columns:
        column.no_wrap = column.header != "sites"
    for summary in found:
        name = summary.name if summary.version == 1 else f"{summary.name} (version {summary.version})"
        state = f"{summary.state}, archived" if summary.archived else summary.state
        about = summary.digest[:_SHOWN], name, state, _round(summary), _sites(summary)
        table.add_row(*about, rfc3339(int(summary.expires))[:10], printable(summary.ethics))
    Console(markup=False).print(table)


@study.command()
@click.argument("study", metavar="STUDY")
@_as_json
@at_coordinator
def show(coordinator: Coordinator, study: str, as_json: bool) -> None:
    """Where the study stands, what each hospital has decided, and what the hospitals' ledgers have charged to it."""
    found = coordinator.study(study)
    charged = coordinator.spending(found.digest)
    _show(found, as_json, {"charged": [one.model_dump(mode="json") for one in charged]})
    for one in () if as_json else charged:
        click.echo(f"  {one.site} has charged ε = {one.epsilon:.3f} at δ = {one.delta:g} to each of its patients, for {one.tasks} tasks")


@study.command()
@click.argument("study", metavar="STUDY")
@_as_json
@at_coordinator
def start(coordinator: Coordinator, study: str, as_json: bool) -> None:
    """Start with the hospitals that have approved, though others have not decided."""
    _show(coordinator.start(coordinator.study(study).digest), as_json)


@study.command()
@click.argument("study", metavar="STUDY")
@click.option("--final", is_flag=True, help="For good; without it the study is paused, and `resume` goes on.")
@click.option("--reason", default="By its researcher.", show_default=True, help="Told to the hospitals and written into the record.")
@_as_json
@at_coordinator
def stop(coordinator: Coordinator, study: str, final: bool, reason: str, as_json: bool) -> None:
    """Pause the study, or stop it for good."""
    _show(coordinator.stop(coordinator.study(study).digest, final=final, reason=reason), as_json)


@study.command()
@click.argument("study", metavar="STUDY")
@_as_json
@at_coordinator
def resume(coordinator: Coordinator, study: str, as_json: bool) -> None:
    """Go on with a paused study, from its last finished round."""
    _show(coordinator.resume(coordinator.study(study).digest), as_json)


@study.command()
@click.argument("study", metavar="STUDY")
@click.option("--save", type=_FILE, help="Write the record to this file (JSON).")
@click.option("--save-model", type=_FILE, help="Write the final model to this file (safetensors).")
@_as_json
@at_coordinator
def results(coordinator: Coordinator, study: str, save: Path | None, save_model: Path | None, as_json: bool) -> None:
    """The result of a finished study: who took part, the figures, the terms, the lineage. Its signature is checked."""
    run = Run(coordinator, coordinator.study(study).digest)
    record = run.result()
    text = json.dumps(record, indent=1, ensure_ascii=False)
    if save is not None:
        save.write_text(text + "\n", encoding="utf-8")
        click.echo(f"The record is in {save}.", err=True)
    if save_model is not None:
        saved = run.save_model(save_model)
        click.echo(f"The model is in {save_model}: {saved.size} bytes, SHA-256 {saved.sha256}.", err=True)
    if as_json:
        click.echo(text)
    else:
        Console().print(report(record))


@study.command()
@click.argument("study")
@click.argument("file", type=_FILE)
@at_coordinator
def export(coordinator: Coordinator, study: str, file: Path) -> None:
    """Write a finished study as FILE, one page that checks itself offline in any browser: for an ethics board or a journal."""
    record = coordinator.record(coordinator.study(study).digest)
    file.write_text(as_page(record), encoding="utf-8")
    click.echo(f"{file} is written. Open it in a browser: it checks its signatures and digests, and shows what they hold.")


def _sound(file: Path) -> Study:
    """Raises BadStudy with all faults."""
    found = read_study(file)
    refuse_faults(found, file.parent, CLOCK)
    return found


def _follow(run: Run, console: Console) -> None:
    """Raises NoResult where it ends without one."""
    last = run.watch(console)
    if not isinstance(last, StudyFinished):
        short = run.digest[:_SHOWN]
        raise NoResult("The study has no result.", remedy=f"`aimer2 study show {short}` says why; a paused one goes on with `resume`.")
    click.echo(f"aimer2 study results {run.digest[:_SHOWN]}", err=True)


def _show(summary: StudySummary, as_json: bool, more: Mapping[str, Any] | None = None) -> None:
    """``more``: what a machine is told besides."""
    if as_json:
        click.echo(json.dumps(summary.model_dump(mode="json") | dict(more or {}), indent=1, ensure_ascii=False))
        return
    facts = Table.grid(padding=(0, 2))
    facts.add_row("study", f"{printable(summary.name)} {summary.digest}")
    facts.add_row("question", printable(summary.question))
    facts.add_row("state", f"{summary.state} {printable(summary.reason)}".strip())
    facts.add_row("round", _round(summary))
    version = f"{summary.version}{f', before it {summary.supersedes[:_SHOWN]}' if summary.supersedes else ''}"
    facts.add_row("version", f"{version}{f'; superseded by {summary.superseded_by[:_SHOWN]}' if summary.superseded_by else ''}")
    facts.add_row("ethics", printable(summary.ethics))
    facts.add_row("expires", rfc3339(int(summary.expires)))
    facts.add_row("submitted", f"{rfc3339(int(summary.submitted))} by {printable(summary.submitted_by)}")
    sites = Table("site", "", "by", "reason", box=None, pad_edge=False)
    for site in summary.sites:
        sites.add_row(site.site, _DECIDED[site.decision], printable(site.by), printable(site.reason))
    Console(markup=False).print(facts, "", sites)


def _round(summary: StudySummary) -> str:
    return f"{summary.round_number} of {summary.rounds}"


def _sites(summary: StudySummary) -> str:
    counted = Counter[str](site.decision for site in summary.sites)
    return ", ".join(f"{counted[decision]} {text}" for decision, text in _DECIDED.items() if counted[decision])
