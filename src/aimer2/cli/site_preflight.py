"""`aimer2 site preflight`: whether this hospital's data fit a study, before anybody approves it."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aimer2.cli.site_options import account, in_folder, open_decisions
from aimer2.core.errors import BadData
from aimer2.site.folder import existing
from aimer2.site.preflight import check_here
from aimer2.site.settings import read_settings


@click.command()
@click.argument("study")
@click.option("--dataset", help="Which data set, where it bears another name here.")
@click.option("--by", help="Your name, for the audit log.  [default: the name of your account]")
@in_folder
def preflight(study: str, dataset: str | None, by: str | None, folder: Path | None) -> None:
    """Check a study's data contract on your own data, as its first round would. Nothing leaves this site."""
    place = existing(folder)
    checks = check_here(open_decisions(place), read_settings(place.settings), study, by=by or account(), dataset=dataset)
    table = Table("", "Check", "Finding", box=None)
    for check in checks:
        mark = "[green]✓" if check.passed else "[red]✗" if check.blocking else "[yellow]!"
        table.add_row(mark, check.name, Text(check.finding))
    Console().print(table)
    if any(check.blocking and not check.passed for check in checks):
        raise BadData("This hospital's data do not meet what the study asks for.")
