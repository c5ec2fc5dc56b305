"""`aimer2 study leave-one-out`: what a hospital that takes no part can expect of the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from aimer2.cli.simulated_data import over_data, study_and_tables
from aimer2.client.leave_one_out import leave_one_out as run


@click.command("leave-one-out")
@over_data
@click.option("--json", "machine", is_flag=True, help="For programs: the result as JSON on standard output.")
def leave_one_out(*, file: Path, more_sites: Sequence[str], machine: bool, **given: Any) -> None:
    """Train without each hospital in turn, and measure the model on all its patients; over files on this machine, as `aimer2 simulate`."""
    study, tables = study_and_tables(file, more_sites, **given)
    found = run(study, tables, folder=file.parent, on_site=lambda site: click.echo(f"without {site} …", err=True))
    if machine:
        click.echo(json.dumps(found.document(), indent=1))
    else:
        Console().print(found)
