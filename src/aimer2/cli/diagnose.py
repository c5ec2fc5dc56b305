"""`aimer2 study diagnose`: how the sites of a study differ, and which method that speaks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from aimer2.cli.login import CLOCK
from aimer2.cli.simulated_data import over_data, study_and_tables
from aimer2.client.diagnose import diagnose as run
from aimer2.client.logins import connect
from aimer2.client.watch import Watch
from aimer2.core.errors import BadInput
from aimer2.core.study import read_study
from aimer2.study.check import refuse_faults
from aimer2.study.diagnosis import ROUNDS, trial


@click.command("diagnose")
@over_data
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True, help="Of the trial.")
@click.option("--submit", is_flag=True, help="Offer the trial to the study's hospitals, instead of running it here; each approves it as any study.")
@click.option("--coordinator", "url", metavar="URL", envvar="AIMER2_URL", help="With --submit: which one, where you are logged in at several.")
@click.option("--json", "machine", is_flag=True, help="For programs: the diagnosis as JSON on standard output.")
def diagnose(*, file: Path, more_sites: Sequence[str], rounds: int, submit: bool, url: str | None, machine: bool, **given: Any) -> None:
    """Measure how the sites differ in a trial of a few rounds, and recommend a method; over files on this machine, as `aimer2 simulate`."""
    if submit:
        if more_sites or any(value for value in given.values()):
            raise BadInput("With --submit the data are the hospitals' own: give no data here.")
        _submit(file, rounds, url, machine)
        return
    study, tables = study_and_tables(file, more_sites, **given)
    with Watch(Console(stderr=True), asked=sorted(tables)) as view:
        found = run(study, tables, folder=file.parent, rounds=rounds, on_event=view.add)
    if machine:
        click.echo(json.dumps(found.document(), indent=1))
    else:
        Console().print(found)


def _submit(file: Path, rounds: int, url: str | None, machine: bool) -> None:
    study = trial(read_study(file), rounds)
    refuse_faults(study, file.parent, CLOCK)
    summary = connect(url, CLOCK).submit(study, file.parent).summary()
    if machine:
        click.echo(summary.model_dump_json(indent=1))
    else:
        click.echo(f"Submitted {summary.name}, digest {summary.digest}\nWhen it has finished: aimer2 study results {summary.digest[:16]}")
