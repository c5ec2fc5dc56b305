"""`aimer2 site recover`: after a backup was put back, what had been ended since is ended again."""

from __future__ import annotations

from pathlib import Path

import click

from aimer2.cli.site_options import by_person, in_folder, open_decisions
from aimer2.site import restored
from aimer2.site.folder import agent_lock, existing


@click.command("recover")
@by_person
@in_folder
def recover(by: str, folder: Path | None) -> None:
    """After a backup was put back: withdraw, take keys out and descriptions back, freeze, close accounts, void passwords, as the audit log says.
    Stop the agent first."""
    place = existing(folder)
    with agent_lock(place):
        found = restored.recover(open_decisions(place), by=by)
    for one in found:
        click.echo(one.told)
    click.echo(f"Taken again: {len(found)}. Start the agent: it tells the coordinator." if found else "The state is as new as the audit log.")
