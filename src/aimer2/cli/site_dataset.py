"""`aimer2 site dataset`: the hospital's data sets."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from aimer2.audit.log import AuditLog
from aimer2.cli.site_options import CLOCK, account, in_folder
from aimer2.core.errors import BadInput
from aimer2.identity.keys import SigningKey
from aimer2.site import snapshots
from aimer2.site.folder import SiteFolder, existing
from aimer2.site.settings import read_settings

if TYPE_CHECKING:
    from aimer2.connectors.table import DataDescription
    from aimer2.site.datasets import Datasets

_EXISTING = click.Path(path_type=Path, exists=True, resolve_path=True)


def _datasets(folder: SiteFolder) -> Datasets:
    # Loaded by name: reading clinical sources takes pandas, which the agent must not hold.
    kind = importlib.import_module("aimer2.site.datasets").Datasets
    audit_log = AuditLog(folder.audit, SigningKey.load(folder.key), CLOCK)
    made: Datasets = kind(folder, audit_log, CLOCK, read_settings(folder.settings).retention, account())
    return made


@click.group()
def dataset() -> None:
    """The data sets of this site. Nothing of them leaves it by these commands."""


@dataset.command()
@click.argument("name")
@click.option("--csv", "csv_file", type=_EXISTING, help="A file of delimited text.")
@click.option("--parquet", "parquet_file", type=_EXISTING, help="A Parquet file, or a folder of them.")
@click.option("--images", "index", type=_EXISTING, help="A table, CSV or Parquet, that names an image file in each row.")
@click.option("--image-folder", type=_EXISTING, help="Where the files of --images lie.  [default: beside the table]")
@click.option("--npz", "archive", type=_EXISTING, help="Arrays of images and of labels in a numpy archive.")
@click.option("--parts", help="Of the archive: beginnings of names to join, separated by commas, as in train,val,test.")
@click.option("--patient", help="The column with the patient's id; without it each row is a patient.")
@click.option("--mapping", type=_EXISTING, help="What the columns mean (TOML); without it one is suggested from a CSV file.")
@click.option("--opt-out", type=_EXISTING, help="Ids of patients who do not take part, one a line.")
@click.option("--names", help="Column names, separated by commas, of a CSV file without a header line.")
@click.option("--delimiter", help="Of the CSV file.  [default: ,]")
@in_folder
def add(name: str, csv_file: Path | None, folder: Path | None, **given: Any) -> None:
    """Make a data set known, and take its first snapshot."""
    kind, source = _source({"csv": csv_file, "parquet": given["parquet_file"], "images": given["index"], "npz": given["archive"]}, given)
    datasets = _datasets(existing(folder))
    module = importlib.import_module("aimer2.site.datasets")
    settings = module.DatasetSettings(name=name, kind=kind, source=source, opt_out=given["opt_out"])
    datasets.add(settings, _mapping(module, datasets.folder, csv_file, given))
    _refresh(datasets, name)
    if given["mapping"] is None:
        click.echo(f"Its mapping was suggested from the file. Read and complete it: {datasets.folder.dataset(name) / 'mapping.toml'}")


def _source(files: Mapping[str, Path | None], given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Its kind and settings. Raises BadInput unless there is one, or for an option of another kind."""
    named = {kind: file for kind, file in files.items() if file is not None}
    if len(named) != 1:
        raise BadInput("Give one of --csv, --parquet, --images and --npz.")
    ((kind, path),) = named.items()
    text, source = ("csv", "images"), {"path": str(path)}
    options = (("names", text), ("delimiter", text), ("image_folder", ("images",)), ("parts", ("npz",)))
    for option, kinds in options:
        if given[option] and kind not in kinds:
            raise BadInput(f"--{option.replace('_', '-')} is not for --{kind}.")
    listed = {option: given[option].split(",") for option in ("names", "parts") if given[option]}
    folder = {"folder": str(given["image_folder"])} if given["image_folder"] else {}
    delimiter = {"delimiter": given["delimiter"]} if given["delimiter"] else {}
    return kind, {**source, **listed, **delimiter, **folder}


def _mapping(module: Any, folder: SiteFolder, csv_file: Path | None, given: dict[str, Any]) -> str:
    if given["mapping"] is None:
        if csv_file is None or given["names"]:
            raise BadInput("This source needs --mapping.")
        suggested: str = module.suggest_mapping(csv_file, given["patient"], read_settings(folder.settings).disclosure.minimum_cell)
        return suggested
    text: str = given["mapping"].read_text(encoding="utf-8")
    return f"patient = {json.dumps(given['patient'])}\n{text}" if given["patient"] else text


def _refresh(datasets: Datasets, name: str) -> None:
    made = datasets.refresh(name)
    click.echo(f"{name}: {made.patients} patients, {made.rows} rows; {made.opted_out} rows of patients who opted out were left out.")


@dataset.command()
@click.argument("name")
@in_folder
def refresh(name: str, folder: Path | None) -> None:
    """Read the source anew into a snapshot; the next task computes on it."""
    _refresh(_datasets(existing(folder)), name)


@dataset.command("list")
@in_folder
def list_datasets(folder: Path | None) -> None:
    """The data sets with exact counts, for your own eyes."""
    place = existing(folder)
    datasets = _datasets(place)
    for name in snapshots.names(place):
        described = datasets.describe(name)
        table = Table("Column", "Kind", "Unit", "Missing", "Values", box=None, title=f"{name}: {described.patients} patients, {described.rows} rows")
        for column in described.columns:
            counts = ", ".join(f"{label} {count}" for label, count in column.categories.items())
            values = counts or " … ".join(f"{q:g}" for q in column.quantiles) or column.form
            table.add_row(column.name, column.kind, column.unit or "", column.missing, values)
        Console().print(table)


@dataset.command()
@click.argument("name")
@click.option(
    "--digest", metavar="SHA256", help="Of the description that you have looked at: it is published without a question, and nothing else is."
)
@click.option("--take-back", is_flag=True, help="The consortium sees it no longer, once the agent has told the coordinator.")
@in_folder
def publish(name: str, digest: str | None, take_back: bool, folder: Path | None) -> None:
    """Print what may be told of a data set (rounded counts), and let the consortium see exactly that; this is recorded in the audit log."""
    datasets = _datasets(existing(folder))
    if take_back:
        told = datasets.take_back(name)
        click.echo(f"{name} is taken back here. The coordinator is told as soon as {'it is reached' if told else 'the agent runs and reaches it'}.")
        return
    description = datasets.describe_for_others(name)
    click.echo(description.model_dump_json(indent=1))
    told = datasets.publish(name, digest or _looked_at(description))
    click.echo(f"Published. The coordinator is told as soon as {'it is reached' if told else 'the agent runs and reaches it'}.", err=True)


def _looked_at(description: DataDescription) -> str:
    """Its digest, when a person says so. Raises BadInput where nobody can be asked."""
    if not sys.stdin.isatty():
        raise BadInput(
            "Nothing was published: there is nobody to ask.", remedy=f"Look at what is printed; to publish it: --digest {description.digest}"
        )
    if not click.confirm("May the consortium see this, in your name?", err=True):
        click.echo("Nothing was published.", err=True)
        raise click.exceptions.Exit(1)
    return description.digest
