"""`aimer2 site model`: the models of this hospital's own that studies have left."""

from __future__ import annotations

import csv
import importlib
import json
import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from aimer2.cli.site_options import SHOWN, by_person, in_folder, open_decisions
from aimer2.core.clock import rfc3339
from aimer2.core.errors import BadInput
from aimer2.core.task import FigureDocument
from aimer2.site import models
from aimer2.site.folder import existing

_FILE = click.Path(path_type=Path, dir_okay=False)
_DATA = click.Path(path_type=Path, exists=True)


@click.group()
def model() -> None:
    """The models of this site's own that personal studies have left. They never left the site."""


@model.command("list")
@in_folder
def list_models(folder: Path | None) -> None:
    """The kept models, the newest first."""
    table = Table("Digest", "Study", "Target", "Finished", "Which", box=None)
    for card in models.cards(existing(folder)):
        which = card.kept.removeprefix("kept: ").partition(",")[0]
        table.add_row(card.digest[:SHOWN], card.study.name, card.study.cohort.target.name, rfc3339(card.finished), which)
    Console().print(table)


@model.command()
@click.argument("digest")
@click.option("--json", "machine", is_flag=True, help="For programs: the whole card.")
@in_folder
def show(digest: str, machine: bool, folder: Path | None) -> None:
    """How good each of the three models is on this site's held-out patients, and which was kept."""
    card = models.find(existing(folder), digest)
    if machine:
        click.echo(card.model_dump_json(indent=1))
        return
    click.echo(f"{card.study.name}, {card.digest[:SHOWN]}, finished {rfc3339(card.finished)}\n{card.study.question}\n{card.kept}\n")
    figures = {figure.name: figure for figure in card.figures}
    table = Table("On held-out patients", "common", "personal", "trained alone", "n", box=None)
    for name in (name for name in figures if f"local {name}" in figures):
        found = [figures.get(f"{whose}{name}") for whose in ("", "personal ", "local ")]
        table.add_row(name, *map(_value, found), str(next((one.n for one in found if one), "")))
    Console().print(table)
    click.echo(f"\nReads: {', '.join(card.study.cohort.inputs)}\nWeights: SHA-256 {card.model.sha256}")


def _value(figure: FigureDocument | None) -> str:
    return "" if figure is None or figure.value is None else f"{figure.value:.3f}"


@model.command()
@click.argument("digest")
@click.argument("file", type=_DATA)
@click.option("--dataset", help="The data set by whose mapping the file is read.  [default: the study's]")
@click.option("--output", type=_FILE, help="Write to this CSV file.  [default: standard output]")
@in_folder
def predict(digest: str, file: Path, dataset: str | None, output: Path | None, folder: Path | None) -> None:
    """Scores of the kept model for the rows of FILE (CSV or Parquet; of images an index of files, npz, or one image), which needs no target."""
    place = existing(folder)
    # Loaded by name: it takes pandas and the study's framework, which the other commands need not.
    names, scores = importlib.import_module("aimer2.site.prediction").predict(place, models.find(place, digest), file, dataset=dataset)
    with nullcontext(sys.stdout) if output is None else open(output, "w", encoding="utf-8", newline="") as stream:
        written = csv.writer(stream, lineterminator="\n")
        written.writerow(["row", *names])
        written.writerows([number, *_cells(row)] for number, row in enumerate(scores.tolist(), 1))


def _cells(row: Sequence[float]) -> list[str]:
    return ["" if math.isnan(score) else f"{score:.6g}" for score in row]


@model.command()
@click.argument("digest")
@click.argument("target", type=_FILE)
@by_person
@in_folder
def export(digest: str, target: Path, by: str, folder: Path | None) -> None:
    """Write the weights to TARGET, a safetensors file, and its card beside it; this is recorded.

    A model of few patients may tell something of them: treat the file as you treat their data.
    """
    if target.suffix != ".safetensors":
        raise BadInput("The file's name ends with .safetensors.")
    decisions = open_decisions(existing(folder))
    card = models.find(decisions.folder, digest)
    models.export(decisions, card, target, by=by)
    target.with_suffix(".json").write_text(json.dumps(card.model_dump(mode="json"), indent=1), encoding="utf-8")
    click.echo(f"{target} and {target.with_suffix('.json').name}")


@model.command()
@click.argument("digest")
@by_person
@in_folder
def delete(digest: str, by: str, folder: Path | None) -> None:
    """Delete a kept model, for good."""
    decisions = open_decisions(existing(folder))
    card = models.find(decisions.folder, digest)
    models.delete(decisions, card, by=by)
    click.echo(f"The model of {card.study.name} ({card.digest[:SHOWN]}) is deleted.")
