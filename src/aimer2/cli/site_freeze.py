"""`aimer2 site freeze` and `thaw`: the hospital's own emergency stop."""

from __future__ import annotations

from pathlib import Path

import click

from aimer2.cli.site_options import by_person, in_folder, open_decisions
from aimer2.site.folder import existing
from aimer2.site.freeze import order


@click.command("freeze")
@click.argument("reason")
@by_person
@in_folder
def freeze(reason: str, by: str, folder: Path | None) -> None:
    """Stop everything of every study here at once, until `thaw`: every worker is killed, every task refused. The reason stays here."""
    order(open_decisions(existing(folder)), "freeze", by=by, reason=reason)
    click.echo("Frozen: no worker runs, every task is refused. The coordinator learns that this site is frozen, not why.")


@click.command("thaw")
@click.argument("reason")
@by_person
@in_folder
def thaw(reason: str, by: str, folder: Path | None) -> None:
    """Lift the freeze; approvals that are in force count again."""
    order(open_decisions(existing(folder)), "thaw", by=by, reason=reason)
    click.echo("Thawed.")
