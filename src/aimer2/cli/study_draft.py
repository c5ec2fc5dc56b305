"""`aimer2 study draft`: studies that are still being written, kept at the coordinator for their author alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from aimer2.cli.login import CLOCK, at_coordinator
from aimer2.client.coordinator import Coordinator
from aimer2.client.drafts import draft_of, write_draft
from aimer2.client.figures import printable
from aimer2.core.clock import rfc3339
from aimer2.core.errors import BadStudy, Conflict, Fault
from aimer2.core.study import read_study
from aimer2.study.check import refuse_faults

_FILE = click.Path(path_type=Path, dir_okay=False)
_SHOWN = 16


@click.group()
def draft() -> None:
    """Keep studies that are still being written. DRAFT: its id, the beginning of it, or its name."""


@draft.command()
@click.argument("file", type=_FILE)
@click.option("--name", help="To find it again.  [default: the folder's name]")
@click.option("--draft", "which", metavar="DRAFT", help="Change this one instead of making a new one.")
@click.option("--supersedes", metavar="STUDY", help="It is to be a new version of this study.")
@at_coordinator
def save(coordinator: Coordinator, file: Path, name: str | None, which: str | None, supersedes: str | None) -> None:
    """Save FILE and the Python files beside it, faults and all."""
    before = None if which is None else coordinator.drafts.find(which)
    digest = coordinator.study(supersedes).digest if supersedes else before.supersedes if before else None
    text = draft_of(file, name or (before.name if before else file.absolute().parent.name), digest)
    saved = coordinator.drafts.save(text) if before is None else coordinator.drafts.change(before.id, text, revision=before.revision)
    faults = coordinator.drafts.faults(saved.id)
    click.echo(f"{saved.id}: {printable(saved.name)}, revision {saved.revision}, {len(faults)} faults")


@draft.command("list")
@at_coordinator
def list_drafts(coordinator: Coordinator) -> None:
    """One's own, the newest change first."""
    table = Table("draft", "name", "revision", "changed", "new version of", box=None, pad_edge=False)
    for one in coordinator.drafts.all():
        table.add_row(one.id, printable(one.name), str(one.revision), rfc3339(int(one.changed)), (one.supersedes or "")[:_SHOWN])
    Console(markup=False).print(table)


@draft.command()
@click.argument("which", metavar="DRAFT")
@at_coordinator
def show(coordinator: Coordinator, which: str) -> None:
    """Print it as it was saved."""
    click.echo(coordinator.drafts.find(which).text, nl=False)


@draft.command()
@click.argument("which", metavar="DRAFT")
@at_coordinator
def check(coordinator: Coordinator, which: str) -> None:
    """List every fault, with what to do, as the coordinator finds them."""
    found = coordinator.drafts.faults(coordinator.drafts.find(which).id)
    if found:
        raise BadStudy([Fault(one.place, one.problem, one.remedy) for one in found])
    click.echo("No faults.")


@draft.command()
@click.argument("which", metavar="DRAFT")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@at_coordinator
def pull(coordinator: Coordinator, which: str, folder: Path) -> None:
    """Write it into FOLDER, as study.toml with its code."""
    found = coordinator.drafts.find(which)
    click.echo(f"{write_draft(found, folder)} is written. Save it with: aimer2 study draft save {folder}/study.toml --draft {found.id}")


@draft.command()
@click.argument("which", metavar="DRAFT")
@at_coordinator
def submit(coordinator: Coordinator, which: str) -> None:
    """Submit it as it stands: from then on it cannot be changed, and the draft is gone, unless it was changed meanwhile."""
    found = coordinator.drafts.find(which)
    with tempfile.TemporaryDirectory(prefix="aimer2-") as place:
        study = read_study(write_draft(found, Path(place)))
        refuse_faults(study, Path(place), CLOCK)
        run = coordinator.submit(study, Path(place), supersedes=found.supersedes)
    click.echo(f"Submitted {study.name}, digest {run.digest}. Next: aimer2 study watch {run.digest[:_SHOWN]}")
    try:
        coordinator.drafts.discard(found.id, revision=found.revision)
    except Conflict:
        click.echo(f"The draft was changed meanwhile, so it is kept: {found.id} holds what was not submitted.")


@draft.command()
@click.argument("which", metavar="DRAFT")
@at_coordinator
def discard(coordinator: Coordinator, which: str) -> None:
    """Delete it."""
    found = coordinator.drafts.find(which)
    coordinator.drafts.discard(found.id, revision=found.revision)
    click.echo(f"{found.id} is gone.")
