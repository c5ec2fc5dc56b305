"""`aimer2 coordinator user`: the accounts of people."""

from __future__ import annotations

import getpass
import secrets
import sys
from typing import TextIO

import click
from rich.console import Console
from rich.table import Table

from aimer2.audit.kinds import Kind
from aimer2.cli.coordinator_folder import CLOCK, note, open_database
from aimer2.coordinator.permissions import ROLES, check_role
from aimer2.coordinator.settings import Folder
from aimer2.coordinator.store import accounts
from aimer2.coordinator.store.accounts import Account
from aimer2.core.errors import BadInput
from aimer2.identity.passwords import hash_password


@click.group()
def user() -> None:
    """Accounts of people."""


@user.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True)
@click.option("--site", help="Of a site administrator or data-protection officer: the hospital.")
@click.option("--password-file", type=click.File("r"), help="'-': from standard input.")
@click.option("--openid-subject", "subject", metavar="SUB", help="Logs in by the OpenID provider, which knows the person by this `sub`.")
@click.pass_obj
def add_user(folder: Folder, name: str, role: str, site: str | None, password_file: TextIO | None, subject: str | None) -> None:
    """Add an account; without --password-file a password is asked for, or made and printed once, unless the person logs in by OpenID."""
    check_role(role, site)
    settings, database = open_database(folder)
    if subject is not None and settings.openid is None:
        raise BadInput("There is no OpenID provider.", remedy="Name one in `[openid]` of coordinator.toml.")
    issuer = settings.openid.issuer if settings.openid is not None and subject is not None else None
    made = False
    if password_file is not None:
        password = password_file.read().strip()
    elif sys.stdin.isatty() and subject is None:
        password = getpass.getpass("Password (empty: one is made): ")
    else:
        password = ""
    if not password and subject is None:
        password, made = secrets.token_urlsafe(16), True
    database.write_now(accounts.add_account, Account(name, role, site, hash_password(password) if password else "", issuer, subject), CLOCK.now())
    note(folder, Kind.USER_ADDED, user=name, role=role, site=site or "")
    click.echo(f"{name} is a {role}{f' of {site}' if site else ''}.")
    if made:
        click.echo(f"Password (shown this once): {password}")


@user.command("list")
@click.pass_obj
def list_users(folder: Folder) -> None:
    """Who has an account, in which role."""
    _, database = open_database(folder)
    table = Table("name", "role", "site", box=None, pad_edge=False)
    for account in database.read_now(accounts.read_accounts).values():
        table.add_row(account.name, account.role, account.site or "")
    Console().print(table)


@user.command("role")
@click.argument("name")
@click.argument("role", type=click.Choice(ROLES))
@click.option("--site", help="Of a site administrator or data-protection officer: the hospital.")
@click.pass_obj
def change_role(folder: Folder, name: str, role: str, site: str | None) -> None:
    """Give an account another role, at once; tokens of scripts that are limited to more than it are refused."""
    check_role(role, site)
    _, database = open_database(folder)
    database.write_now(accounts.change_role, name, role, site)
    note(folder, Kind.USER_CHANGED, user=name, role=role, site=site or "")
    click.echo(f"{name} is a {role}{f' of {site}' if site else ''} now.")


@user.command("logout")
@click.argument("name")
@click.pass_obj
def log_out(folder: Folder, name: str) -> None:
    """End all log-ins of a person and all tokens of his scripts, at once."""
    _, database = open_database(folder)
    ended = database.write_now(accounts.end_sessions, name, ("browser", "login", "service"))
    note(folder, Kind.LOGGED_OUT, user=name, ended=ended)
    click.echo(f"{name}: {ended} log-ins and tokens have ended.")


@user.command("remove")
@click.argument("name")
@click.pass_obj
def remove_user(folder: Folder, name: str) -> None:
    """Close an account, at once: its password and its tokens are refused. Its studies stay, and run on."""
    _, database = open_database(folder)
    database.write_now(accounts.remove_account, name)
    note(folder, Kind.USER_REMOVED, user=name)
    click.echo(f"{name} has no account any more.")
