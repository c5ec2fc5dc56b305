"""`aimer2 consortium`: its members, whom it invites, what they have agreed on."""

from __future__ import annotations

import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aimer2.cli.login import at_coordinator
from aimer2.client.coordinator import Coordinator
from aimer2.client.figures import printable
from aimer2.core.clock import rfc3339
from aimer2.identity.keys import PublicKey

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group()
def consortium() -> None:
    """The members of the consortium, invitations and agreements, at the coordinator where you are logged in."""


@consortium.command()
@at_coordinator
def members(coordinator: Coordinator) -> None:
    """List the hospitals, present and past."""
    table = Table("site", "enrolled", "invited by", "left", "agreements", "key", box=None, pad_edge=False)
    for each in coordinator.consortium.members():
        left = "" if each.left is None else f"{rfc3339(int(each.left))} ({each.left_reason or 'no reason given'}, {each.left_by})"
        told = (Text(printable(text)) for text in (each.invited_by, left))
        table.add_row(each.site, rfc3339(int(each.enrolled)), *told, str(len(each.agreements)), PublicKey.from_text(each.key).fingerprint)
    Console().print(table)


@consortium.command()
@at_coordinator
def invitations(coordinator: Coordinator) -> None:
    """List who was invited by whom, and what has become of it."""
    table = Table("id", "site", "state", "invited by", "made", "good until", box=None, pad_edge=False)
    for each in coordinator.consortium.invitations():
        table.add_row(each.id, each.site, each.state, Text(printable(each.made_by)), rfc3339(int(each.made)), rfc3339(int(each.expires)))
    Console().print(table)


@consortium.command()
@click.argument("site")
@at_coordinator
def invite(coordinator: Coordinator, site: str) -> None:
    """Invite a hospital to enrol as SITE, once; the invitation is printed this once."""
    made = coordinator.consortium.invite(site)
    click.echo(made.text)
    click.echo(f"Good once, for the site {site}, until {rfc3339(int(made.status.expires))}. Hand it over like a password.", err=True)


@consortium.command()
@click.argument("invitation")
@at_coordinator
def uninvite(coordinator: Coordinator, invitation: str) -> None:
    """Take an open invitation back, by its id, at once."""
    click.echo(f"The invitation of {coordinator.consortium.revoke_invitation(invitation).site} is refused from now on.")


@consortium.command("off-board")
@click.argument("site")
@click.option("--reason", required=True, help="Why; it is recorded, and members see it.")
@at_coordinator
def off_board(coordinator: Coordinator, site: str, reason: str) -> None:
    """A hospital leaves: its key is refused at once, its open tasks are answered for it. What it did stays recorded."""
    done = coordinator.consortium.off_board(site, reason)
    click.echo(f"{site} has left. Open studies that had it: {', '.join(digest[:16] for digest in done.studies) or 'none'}.")


@consortium.command()
@at_coordinator
def agreements(coordinator: Coordinator) -> None:
    """List what is before the members, and who has accepted it."""
    table = Table("title", "dated", "SHA-256", "accepted by", box=None, pad_edge=False)
    for each in coordinator.consortium.agreements():
        accepted = "; ".join(f"{one.site}: {one.by}, {rfc3339(int(one.accepted))}" for one in each.acceptances)
        table.add_row(Text(printable(each.title)), each.dated, each.digest[:16], Text(printable(accepted)))
    Console().print(table)


@consortium.command("add-agreement")
@click.argument("document", type=_FILE)
@click.option("--title", required=True)
@click.option("--dated", type=click.DateTime(["%Y-%m-%d"]), required=True, help="The document's own date, year-month-day.")
@at_coordinator
def add_agreement(coordinator: Coordinator, document: Path, title: str, dated: datetime.datetime) -> None:
    """Put DOCUMENT before the members; only its SHA-256, title and date are sent."""
    made = coordinator.consortium.add_agreement(document, title=title, dated=dated.date().isoformat())
    click.echo(f"{title} ({made.digest[:16]}) is before the members.")


@consortium.command()
@click.argument("document", type=_FILE)
@click.option("--by", required=True, help="The named person who accepts it for your hospital.")
@at_coordinator
def accept(coordinator: Coordinator, document: Path, by: str) -> None:
    """Record that your hospital has accepted exactly this DOCUMENT. It approves no study: that is decided at the hospital."""
    done = coordinator.consortium.accept(document, by=by)
    click.echo(f"{done.title} ({done.digest[:16]}) is accepted for your hospital by {by}.")
