"""`aimer2 site freeze` and `thaw`: the hospital's own emergency stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aimer2.cli.site_options import by_person, in_folder, open_decisions
from aimer2.site import freeze as freezing
from aimer2.site.control import ask_agent
from aimer2.site.folder import existing


@click.command("freeze")
@click.argument("reason")
@by_person
@in_folder
def freeze(reason: str, by: str, folder: Path | None) -> None:
    """Stop everything of every study here at once, until `thaw`: every worker is killed, every task refused. The reason stays here."""
    _tell("freeze", reason, by, folder)
    click.echo("Frozen: no worker runs, every task is refused. The coordinator learns that this site is frozen, not why.")


@click.command("thaw")
@click.argument("reason")
@by_person
@in_folder
def thaw(reason: str, by: str, folder: Path | None) -> None:
    """Lift the freeze; approvals that are in force count again."""
    _tell("thaw", reason, by, folder)
    click.echo("Thawed.")


def _tell(command: str, reason: str, by: str, folder: Path | None) -> None:
    place = existing(folder)
    asked: dict[str, Any] = {"by": by, "reason": reason}
    if ask_agent(place, {"command": command, **asked}) is None:
        known = {"freeze": freezing.freeze, "thaw": freezing.thaw}
        known[command](open_decisions(place), **asked)
