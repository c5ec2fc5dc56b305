"""`aimer2 simulate`: a study over files on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from aimer2.blobs.memory import MemoryStore
from aimer2.cli.simulated_data import over_data, study_and_tables
from aimer2.client.report import report
from aimer2.client.simulate import simulate as run_simulation
from aimer2.client.watch import Watch
from aimer2.core.tree import Tree
from aimer2.messages.tensors import write_tree

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("simulate")
@over_data
@click.option("--workers", type=click.IntRange(min=1), help="How many processes share the sites' work; none: one per core. It changes no bit.")
@click.option(
    "--vectorised", is_flag=True, help="Train many sites' PyTorch models in one computation: faster where they are small; it changes the last bits."
)
@click.option("--save-model", type=_FILE, help="Write the final model here, in safetensors format.")
@click.option("--json", "machine", is_flag=True, help="For programs: the result as JSON on standard output.")
def simulate(
    *, file: Path, more_sites: Sequence[str], workers: int | None, vectorised: bool, save_model: Path | None, machine: bool, **given: Any
) -> None:
    """Run a study over files on this machine, without a network: the same steps as between hospitals, with the same result.

    Without any data it runs over made-up patients, to try its method and its code.
    """
    study, tables = study_and_tables(file, more_sites, **given)
    with Watch(Console(stderr=machine), asked=sorted(tables)) as view:
        simulation = run_simulation(study, tables, folder=file.parent, on_event=view.add, workers=workers, vectorised=vectorised)
    if machine:
        click.echo(json.dumps(simulation.result, indent=1))
    else:
        Console().print(report(simulation.result))
    if save_model is not None:
        _save(simulation.model, save_model)


def _save(model: Tree, path: Path) -> None:
    """Complete, or not there at all."""
    blobs = MemoryStore()
    writer = blobs.create()
    write_tree(model, writer)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(blobs.open(writer.commit()).view())
    os.replace(draft, path)
