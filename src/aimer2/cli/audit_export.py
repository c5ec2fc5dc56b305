"""`aimer2 audit export`: the coordinator's audit log as a file, to be verified offline."""

from __future__ import annotations

from pathlib import Path

import click

from aimer2.cli.login import at_coordinator
from aimer2.client.coordinator import Coordinator


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@at_coordinator
def export(coordinator: Coordinator, file: Path) -> None:
    """Write the coordinator's audit log to FILE, JSON lines as they were signed. For operators and auditors."""
    size = coordinator.save_audit(file)
    key = coordinator.key or coordinator.info().key
    click.echo(f"{file} is written, {size} bytes. Next, with sites' logs beside it where you have them:")
    click.echo(f"  aimer2 audit verify {file} --key {key}")
