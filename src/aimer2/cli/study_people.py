"""`aimer2 study people`: who works on a study."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aimer2.cli.login import at_coordinator
from aimer2.client.coordinator import Coordinator
from aimer2.client.figures import printable
from aimer2.core.clock import rfc3339

_PARTS = ("principal-investigator", "researcher", "auditor")


@click.group()
def people() -> None:
    """Who works on a study, and as what."""


@people.command("list")
@click.argument("study")
@at_coordinator
def list_people(coordinator: Coordinator, study: str) -> None:
    """Everybody with a part in the study; first who has submitted it."""
    table = Table("name", "part", "since", "given by", box=None, pad_edge=False)
    for each in coordinator.people.of_study(coordinator.study(study).digest):
        table.add_row(Text(printable(each.user)), each.part, rfc3339(int(each.given)), Text(printable(each.given_by)))
    Console().print(table)


@people.command()
@click.argument("study")
@click.argument("user")
@click.option("--part", type=click.Choice(_PARTS), required=True)
@at_coordinator
def add(coordinator: Coordinator, study: str, user: str, part: str) -> None:
    """Give a person a part: auditors see everything, researchers also check the data, principal investigators conduct the study."""
    coordinator.people.share(coordinator.study(study).digest, user, part)
    click.echo(f"{user} is {part} of this study.")


@people.command()
@click.argument("study")
@click.argument("user")
@at_coordinator
def remove(coordinator: Coordinator, study: str, user: str) -> None:
    """Take a person's part back, at once."""
    coordinator.people.unshare(coordinator.study(study).digest, user)
    click.echo(f"{user} has no part in this study any more.")
