"""`aimer2 site console`, and `aimer2 site user`: who may log in there."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
import uvloop
from rich.console import Console as Terminal
from rich.table import Table

from aimer2.audit.log import AuditLog
from aimer2.cli.site_options import CLOCK, by_person, in_folder
from aimer2.identity.keys import SigningKey
from aimer2.site.console.accounts import Accounts
from aimer2.site.console.console import Console
from aimer2.site.console.permissions import ROLES
from aimer2.site.console.server import serve
from aimer2.site.folder import SiteFolder, existing
from aimer2.site.sandbox import die_with_parent
from aimer2.site.settings import read_settings


@click.command()
@click.option("--parent", type=int, hidden=True, help="End as soon as this process has ended, which started this one.")
@in_folder
def console(folder: Path | None, parent: int | None) -> None:
    """Run this site's console, for a browser on this machine, until it is stopped."""
    if parent is not None:
        die_with_parent(parent)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    made = Console(existing(folder), CLOCK)

    def ready() -> None:
        click.echo(f"The console is at {made.place.address}")
        if (secret := made.accounts.first_link()) is not None:
            click.echo("Nobody has an account yet. This link makes the first one; it is good once, for a day:")
            click.echo(f"  {made.place.address}/welcome/{secret}")
        sys.stdout.flush()

    uvloop.run(serve(made, ready))


@click.group()
def user() -> None:
    """Who may log in at this site's console."""


def _accounts(folder: SiteFolder) -> Accounts:
    return Accounts(folder.console, AuditLog(folder.audit, SigningKey.load(folder.key), CLOCK), CLOCK)


def _tell(folder: SiteFolder, login: str, secret: str) -> None:
    address = read_settings(folder.settings).console.address
    click.echo(f"Hand this link to {login}. It is good once, for a day:\n  {address}/welcome/{secret}")


@user.command()
@click.argument("login")
@click.option("--name", required=True, help="The person's full name, which decisions bear.")
@click.option("--role", "roles", type=click.Choice(ROLES), multiple=True, required=True, help="May be given more than once.")
@by_person
@in_folder
def add(login: str, name: str, roles: tuple[str, ...], by: str, folder: Path | None) -> None:
    """Make an account, and print the link by which the person chooses a password."""
    place = existing(folder)
    _tell(place, login, _accounts(place).add(login, name, roles, by=by))


@user.command()
@click.argument("login")
@by_person
@in_folder
def link(login: str, by: str, folder: Path | None) -> None:
    """Print a new link by which the person of LOGIN chooses a password, for example a forgotten one."""
    place = existing(folder)
    _tell(place, login, _accounts(place).link(login, by=by))


@user.command("list")
@in_folder
def list_users(folder: Path | None) -> None:
    """The accounts and their roles."""
    table = Table("Login", "Name", "Roles", "", box=None)
    for person in _accounts(existing(folder)).people():
        table.add_row(person.login, person.name, ", ".join(person.roles), "" if person.active else "has not chosen a password yet")
    Terminal().print(table)


@user.command()
@click.argument("login")
@by_person
@in_folder
def remove(login: str, by: str, folder: Path | None) -> None:
    """Close an account, and end its sessions."""
    _accounts(existing(folder)).remove(login, by=by)
    click.echo(f"{login} may no longer log in.")
