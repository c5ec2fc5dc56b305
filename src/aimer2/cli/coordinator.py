"""`aimer2 coordinator`: make one, run it, invite sites, add people, back it up."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Column, Table

from aimer2.audit.kinds import Kind
from aimer2.cli.collector import collect_rarely
from aimer2.cli.coordinator_folder import CLOCK, note, open_database, operator
from aimer2.cli.coordinator_user import user
from aimer2.coordinator.backup import back_up, restore
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.freezing import freeze_now, frozen_details
from aimer2.coordinator.server import log_to_stderr
from aimer2.coordinator.server import run as run_server
from aimer2.coordinator.settings import Folder, Settings
from aimer2.coordinator.setup import OwnCertificate, initialise, inviter
from aimer2.coordinator.store import members
from aimer2.coordinator.store.freezes import add_thaw
from aimer2.coordinator.store.migrate import migrate
from aimer2.core.clock import minute, rfc3339
from aimer2.core.errors import BadInput
from aimer2.core.task import SITE_ID
from aimer2.dashboard.app import Dashboard
from aimer2.identity.certificates import fingerprint
from aimer2.identity.keys import PublicKey
from aimer2.site.description import described
from aimer2.site.sandbox import die_with_parent

_ENDED_BY_SIGNAL = 0


@click.group("coordinator")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="AIMER2_COORDINATOR",
    default=Path("coordinator"),
    show_default=True,
    help="Where the coordinator's files lie.",
)
@click.pass_context
def coordinator(context: click.Context, folder: Path) -> None:
    """Run the coordinator that offers studies to sites and conducts them."""
    context.obj = Folder(folder)


@coordinator.command()
@click.option("--name", default="AIMER2 coordinator", show_default=True, help="Shown to sites and researchers.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0: on every one.")
@click.option("--port", default=8443, show_default=True, type=click.IntRange(1, 65535))
@click.option("--url", help="How sites reach it.  [default: https://HOST:PORT]")
@click.option("--database", help="postgresql+psycopg://…  [default: SQLite in the folder]")
@click.option("--certificate", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Your own TLS certificate (PEM, with its chain).")
@click.option("--key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The certificate's private key (PEM).")
@click.pass_obj
def init(folder: Folder, /, *, host: str, port: int, url: str | None, database: str | None, name: str, **tls: Path | None) -> None:
    """Make a coordinator: keys, certificate, settings, database."""
    certificate, key = tls["certificate"], tls["key"]
    if (certificate is None) != (key is None):
        raise BadInput("Give both --certificate and --key, or neither.")
    own = OwnCertificate(certificate, key) if certificate is not None and key is not None else None
    address = url or f"https://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    given = {"database": database} if database else {}
    initialise(folder, Settings(name=name, host=host, port=port, url=address.rstrip("/"), **given), CLOCK, own)
    where = f"aimer2 coordinator --folder {folder.path}"
    click.echo(f"The coordinator lies in {folder.path.resolve()}; its settings are in coordinator.toml. Next:\n")
    click.echo(f"  {where} user add YOUR-NAME --role researcher\n  {where} run\n  {where} invite SITE")


@coordinator.command()
@click.option("--ready-file", type=click.Path(path_type=Path, dir_okay=False), help="Written with the address once the port is open.")
@click.option("--parent", type=int, hidden=True, help="End as soon as this process has ended, which started this one.")
@click.pass_obj
def run(folder: Folder, ready_file: Path | None, parent: int | None) -> None:
    """Serve until it is told to end (SIGTERM, Ctrl-C)."""
    if parent is not None:
        die_with_parent(parent)
    log_to_stderr()
    settings = folder.read_settings()
    print_of_certificate = fingerprint(folder.resolve(settings.certificate).read_bytes())

    def ready(started: Coordinator) -> None:
        click.echo(f"{settings.name} at {settings.url}")
        click.echo(f"Its key          {started.key.public.fingerprint}  ({started.key.public.text})")
        click.echo(f"Its certificate  {print_of_certificate}")
        sys.stdout.flush()
        if ready_file is not None:
            draft = ready_file.with_name(f"{ready_file.name}.draft")
            draft.write_text(settings.url)
            os.replace(draft, ready_file)

    collect_rarely()
    run_server(folder, ready, lambda api: Dashboard(api, described))
    # Threads of the server may still hold a request that nobody waits for; everything is stored and closed.
    os._exit(_ENDED_BY_SIGNAL)


@coordinator.command()
@click.argument("site")
@click.pass_obj
def invite(folder: Folder, site: str) -> None:
    """Print an invitation with which one site enrols once."""
    if not SITE_ID.fullmatch(site):
        raise BadInput("A site's name has lower-case letters, digits and '-', at most 63 characters.")
    settings, database = open_database(folder)
    invitation = inviter(folder, settings, CLOCK).invite(database, site, operator())
    note(folder, Kind.INVITATION_MADE, site=site, expires=rfc3339(invitation.expires))
    click.echo(invitation.to_text())
    click.echo(f"Good once, for the site {site}, until {rfc3339(invitation.expires)}. Hand it over like a password.", err=True)


@coordinator.command()
@click.pass_obj
def sites(folder: Folder) -> None:
    """List the sites that have enrolled, with the fingerprints to compare by telephone."""
    _, database = open_database(folder)
    moments = (Column(name, no_wrap=True, min_width=16) for name in ("enrolled (UTC)", "last contact"))
    table = Table("site", *moments, "state", "key", box=None, pad_edge=False)
    for row in database.read_now(members.read_sites):
        seen = "never" if row.last_contact is None else minute(row.last_contact)
        state = "revoked" if row.revoked else "enrolled"
        table.add_row(row.site, minute(row.enrolled), seen, state, PublicKey.from_text(row.key).fingerprint)
    Console().print(table if table.row_count else "No site has enrolled yet. Next: aimer2 coordinator invite SITE")


@coordinator.command()
@click.argument("site")
@click.option("--reason", default="", help="Why; it is recorded, and members see it.")
@click.pass_obj
def revoke(folder: Folder, site: str, reason: str) -> None:
    """Make a site's key invalid, at once; a new invitation lets it come back."""
    _, database = open_database(folder)
    database.write_now(members.revoke_site, site, CLOCK.now(), operator(), reason)
    note(folder, Kind.SITE_REVOKED, site=site, reason=reason)
    click.echo(f"{site} is revoked: its key and its tokens are refused.")


@coordinator.command()
@click.argument("reason")
@click.pass_obj
def freeze(folder: Folder, reason: str) -> None:
    """Stop everything at once, at every site, until `thaw`: for an incident. Works whether the coordinator runs or not."""
    _, database = open_database(folder)
    migrate(database)
    paused = freeze_now(database, operator(), _said(reason), CLOCK.now())
    note(folder, Kind.FROZEN, **frozen_details(reason, paused))
    click.echo(f"Frozen: {len(paused)} running studies are paused, no site gets a task, nothing starts. `aimer2 coordinator thaw REASON` lifts it.")


@coordinator.command()
@click.argument("reason")
@click.pass_obj
def thaw(folder: Folder, reason: str) -> None:
    """Lift the freeze. Paused studies wait until somebody resumes each of them."""
    _, database = open_database(folder)
    database.write_now(add_thaw, operator(), _said(reason), CLOCK.now())
    note(folder, Kind.THAWED, reason=reason)
    click.echo("Thawed. Paused studies go on with `aimer2 study resume`.")


def _said(reason: str) -> str:
    """Raises BadInput for no reason at all."""
    if not 3 <= len(reason.strip()) <= 500:
        raise BadInput("Say why, in 3 to 500 characters: every site and researcher reads it.")
    return reason.strip()


@coordinator.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def backup(folder: Folder, file: Path) -> None:
    """Write everything into one tar file, while the coordinator runs or not. It holds private keys."""
    count = back_up(folder, file)
    note(folder, Kind.BACKUP_MADE, files=count)
    click.echo(f"{count} files are in {file}. It holds private keys: keep it like them.")


@coordinator.command("restore")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.pass_obj
def restore_backup(folder: Folder, file: Path) -> None:
    """Unpack a backup into the (empty) folder, and check every file of it."""
    count = restore(file, folder)
    note(folder, Kind.BACKUP_RESTORED, files=count)
    click.echo(f"{count} files were restored into {folder.path} and checked. Start it with `run`.")


coordinator.add_command(user)
