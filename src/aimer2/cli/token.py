"""`aimer2 token`: tokens for scripts, which stand in for a person's log-in."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aimer2.cli.login import at_coordinator
from aimer2.client.coordinator import Coordinator
from aimer2.client.figures import printable
from aimer2.core.clock import rfc3339


@click.group()
def token() -> None:
    """Tokens for scripts: each with an end, limited to a role, revocable. A script takes one from AIMER2_TOKEN."""


@token.command()
@click.argument("name")
@click.option("--role", help="Limit it to what this role may; never more than your own.  [default: your own]")
@click.option("--days", type=click.IntRange(1, 366), default=90, show_default=True, help="How long it is good.")
@at_coordinator
def create(coordinator: Coordinator, name: str, role: str | None, days: int) -> None:
    """Make a token; it is printed this once, alone on standard output."""
    made = coordinator.people.create_token(name, role=role, days=days)
    click.echo(made.token)
    click.echo(f"Good until {rfc3339(int(made.status.expires))}. It is not shown again; `aimer2 token revoke {name}` ends it.", err=True)


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
@at_coordinator
def list_tokens(coordinator: Coordinator, as_json: bool) -> None:
    """Your tokens that are good, never their secrets."""
    found = coordinator.people.tokens()
    if as_json:
        click.echo(json.dumps([each.model_dump(mode="json") for each in found], indent=1))
        return
    table = Table("name", "role", "made", "last used", "good until", "id", box=None, pad_edge=False)
    for each in found:
        used = rfc3339(int(each.used)) if each.used > each.made else "never"
        table.add_row(Text(printable(each.name)), each.role or "yours", rfc3339(int(each.made)), used, rfc3339(int(each.expires)), each.id)
    Console().print(table if found else "You have no tokens.")


@token.command()
@click.argument("name")
@at_coordinator
def revoke(coordinator: Coordinator, name: str) -> None:
    """End a token, by its name or id, at once."""
    click.echo(f"The token {printable(coordinator.people.revoke_token(name).name)} is refused from now on.")
