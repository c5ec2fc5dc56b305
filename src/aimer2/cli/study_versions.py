"""`aimer2 study versions` and `archive`: what comes after a submission, and after the end."""

from __future__ import annotations

import click

from aimer2.cli.login import at_coordinator
from aimer2.client.coordinator import Coordinator
from aimer2.client.figures import printable
from aimer2.core.clock import rfc3339
from aimer2.study.difference import changed_fields

_SHOWN = 16


@click.command()
@click.argument("study", metavar="STUDY")
@at_coordinator
def versions(coordinator: Coordinator, study: str) -> None:
    """Every version of a study, from the first, and what has changed from each to the next."""
    before = None
    for one in coordinator.versions(coordinator.study(study).digest):
        package = coordinator.package(one.digest)
        approved = sum(site.decision == "approve" for site in one.sites)
        click.echo(f"version {one.version}  {one.digest[:_SHOWN]}  {one.state}, {approved} of {len(one.sites)} sites approved")
        click.echo(f"  submitted {rfc3339(int(one.submitted))} by {printable(one.submitted_by)}; ethics {printable(one.ethics)}")
        if before is not None:
            for line in changed_fields(before, package):
                click.echo(f"  {printable(line)}")
        before = package


@click.command()
@click.argument("study", metavar="STUDY")
@click.option("--undo", is_flag=True, help="Put it back into the lists.")
@at_coordinator
def archive(coordinator: Coordinator, study: str, undo: bool) -> None:
    """Take a study that has ended out of the lists; its record, model and decisions stay."""
    found = coordinator.study(study)
    coordinator.archive(found.digest, archived=not undo)
    click.echo(f"{found.digest[:_SHOWN]} is {'in the lists again' if undo else 'archived; `aimer2 study list --archived` shows it'}.")
