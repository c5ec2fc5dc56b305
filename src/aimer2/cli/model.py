"""`aimer2 model`: the versions that studies have left, at the coordinator and in folders of one's own."""

from __future__ import annotations

import csv
import importlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aimer2.cli.login import CLOCK
from aimer2.cli.partly_lazy import PartlyLazy
from aimer2.client.coordinator import Coordinator
from aimer2.client.figures import printable
from aimer2.client.logins import connect
from aimer2.core.clock import rfc3339
from aimer2.core.errors import BadInput
from aimer2.core.task import FigureDocument
from aimer2.identity.keys import PublicKey
from aimer2.messages.record import ModelSummary
from aimer2.repository.card import as_html, as_markdown
from aimer2.repository.card import card as card_of
from aimer2.repository.compare import compare as compare_versions
from aimer2.repository.verify import verify as verify_version
from aimer2.repository.version import Version, open_version, read_version
from aimer2.study.weights import RECORD

_SHOWN = 16
_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_DATA = click.Path(path_type=Path, exists=True)

_url = click.option("--coordinator", "url", metavar="URL", envvar="AIMER2_URL", help="Which one, where you are logged in at several.")
_key = click.option("--key", metavar="KEY", help="The coordinator's signing key, as you know it.  [default: the one at the log-in, or of the pull]")
_reason = click.option("--reason", required=True, help="Why; it stands in the record.")


def _as_json(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="For a machine.")(command)


@click.group(cls=PartlyLazy, lazy={"evaluate": "aimer2.cli.model_evaluate:evaluate"})
def model() -> None:
    """What studies have left: versions of models. MODEL: a folder that was pulled; or a name (its newest version), NAME@NUMBER, or a study's
    digest at the coordinator."""


@model.command("list")
@_url
@_as_json
def list_models(url: str | None, as_json: bool) -> None:
    """The versions that you may see: of your own studies, and those that are released."""
    found = connect(url, CLOCK).models()
    if as_json:
        click.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=1))
        return
    table = Table("model", "stage", "study", "finished", "method", "sites", "ε", "first figure", box=None, pad_edge=False)
    for one in found:
        epsilon = "" if one.epsilon is None else f"{one.epsilon:g}"
        table.add_row(
            f"{one.name}@{one.number}", one.stage, one.study[:_SHOWN], rfc3339(one.finished), one.method, str(one.sites), epsilon, _first(one)
        )
    Console().print(table)


@model.command()
@click.argument("which", metavar="MODEL")
@_url
@_key
@click.option("--html", "page", type=_FILE, help="Write it as a page for a screen and for paper.")
@click.option("--markdown", type=_FILE, help="Write it as Markdown.")
def show(which: str, url: str | None, key: str | None, page: Path | None, markdown: Path | None) -> None:
    """The model card: what it is for, what it reads, how good it is, what protects the patients, where it ends."""
    made = card_of(_version(which, url, key))
    for path, text in ((page, as_html), (markdown, as_markdown)):
        if path is not None:
            path.write_text(text(made), "utf-8")
            click.echo(f"{path} is written.")
    if page or markdown:
        return
    console = Console()
    console.print(Text(printable(made.title), "bold"))
    console.print(Text(printable(made.lead)))
    for section in made.sections:
        console.print(Text(f"\n{printable(section.title)}", "bold"))
        for name, text_ in section.facts:
            console.print(Text(f"  {name}: {printable(text_)}"), soft_wrap=True)
        if section.head:
            table = Table(*section.head, box=None)
            for row in section.rows:
                table.add_row(*(Text(printable(cell)) for cell in row))
            console.print(table)
        for remark in section.remarks:
            console.print(Text(f"  {printable(remark)}"))


@model.command()
@click.argument("which", metavar="MODEL")
@click.argument("folder", type=_FOLDER)
@_url
def pull(which: str, folder: Path, url: str | None) -> None:
    """Bring a version home: its weights and its record into FOLDER. What the coordinator has signed is checked on the way."""
    version = connect(url, CLOCK).pull(which, folder)
    click.echo(f"{folder}: {version.study.name}, {version.stage}, {version.model.size:,} bytes of weights. Next:\n\n  aimer2 model verify {folder}")


@model.command()
@click.argument("folder", type=_FOLDER)
@_key
@_as_json
def verify(folder: Path, key: str | None, as_json: bool) -> None:
    """Check a pulled version offline: signatures, the sites' approvals, digests, lineage, weights."""
    version = _version(str(folder), None, key)
    findings = verify_version(version)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for finding in findings:
            table.add_row("holds" if finding.holds else "FAILS", finding.what, Text(printable(finding.told)))
        Console().print(table)
        click.echo(f"\nThe coordinator's key: {version.key.fingerprint}\nCompare it with what its operator tells you.")
    if not all(finding.holds for finding in findings):
        sys.exit(4)


@model.command()
@click.argument("first", metavar="MODEL")
@click.argument("second", metavar="MODEL")
@_url
@_as_json
def compare(first: str, second: str, url: str | None, as_json: bool) -> None:
    """Two versions beside each other: their figures, and where their studies differ."""
    found = compare_versions(_version(first, url, None), _version(second, url, None))
    if as_json:
        figures, evaluations = (
            {name: [None if one is None else one.model_dump() for one in pair] for name, pair in pairs.items()}
            for pairs in (found.figures, found.evaluations)
        )
        click.echo(json.dumps({"figures": figures, "evaluations": evaluations, "differences": found.differences}, indent=1))
        return
    for head, rows in (
        ("figure", [(name, *map(_figure, pair)) for name, pair in found.figures.items()]),
        ("evaluated", [(name, *map(_figure, pair)) for name, pair in found.evaluations.items()]),
        ("place", [(place, *map(_said, pair)) for place, pair in found.differences.items()]),
    ):
        if head == "evaluated" and not rows:
            continue
        table = Table(head, printable(first), printable(second), box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        Console().print(table)
        click.echo()


@model.command()
@click.argument("which", metavar="MODEL")
@click.option("--to", "stage", type=click.Choice(["validated", "released"]), required=True, help="The stage; each follows from the one before.")
@_reason
@_url
def promote(which: str, stage: Literal["validated", "released"], reason: str, url: str | None) -> None:
    """Move a version on: from candidate to validated, to released, which everybody at the coordinator may take."""
    _move(which, stage, reason, url)


@model.command()
@click.argument("which", metavar="MODEL")
@_reason
@_url
def retire(which: str, reason: str, url: str | None) -> None:
    """Say that a version is not to be used any more; its record stays."""
    _move(which, "retired", reason, url)


@model.command()
@click.argument("folder", type=_FOLDER)
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--to", "form", type=click.Choice(["onnx", "folder"]), required=True, help="A file for any runtime; or weights, config.json and card.")
@_key
def export(folder: Path, target: Path, form: str, key: str | None) -> None:
    """Hand a pulled version on as TARGET."""
    version = _version(str(folder), None, key)
    exporting = importlib.import_module("aimer2.repository.export")
    if form == "folder":
        exporting.export_folder(version, target)
        click.echo(f"{target} is written.")
    else:
        distance = exporting.export_onnx(version, target)
        click.echo(f"{target} is written; run by ONNX Runtime on drawn inputs, no score is more than {distance:.1e} from the original's.")


@model.command()
@click.argument("folder", type=_FOLDER)
@click.argument("file", type=_DATA)
@click.option("--mapping", type=_DATA, help="Which column of FILE is which, as a site's mapping.toml.  [default: the study's names and units]")
@click.option("--output", type=_FILE, help="Write to this CSV file.  [default: standard output]")
@_key
def predict(folder: Path, file: Path, mapping: Path | None, output: Path | None, key: str | None) -> None:
    """Scores of a pulled version for the rows of FILE (CSV or Parquet; of images an index, an archive or one image), which needs no target."""
    # Loaded by name: it takes pandas and the study's framework, which the other commands need not.
    names, scores = importlib.import_module("aimer2.repository.prediction").predict(_version(str(folder), None, key), file, mapping)
    with nullcontext(sys.stdout) if output is None else open(output, "w", encoding="utf-8", newline="") as stream:
        written = csv.writer(stream, lineterminator="\n")
        written.writerow(["row", *names])
        written.writerows([number, *_cells(row)] for number, row in enumerate(scores.tolist(), 1))


def _version(which: str, url: str | None, key: str | None) -> Version:
    """A pulled one where there is such a folder, else the coordinator's."""
    known = None if key is None else PublicKey.from_text(key)
    if (Path(which) / RECORD).is_file():
        return read_version(Path(which), known)
    if Path(which).is_dir():
        raise BadInput(f"{which} is no folder of a pulled model.", remedy="Pull one: aimer2 model pull NAME FOLDER")
    coordinator = connect(url, CLOCK)
    record = coordinator.record(coordinator.find_model(which).study)
    return open_version(record, known or _known_key(coordinator))


def _known_key(coordinator: Coordinator) -> PublicKey:
    return PublicKey.from_text(coordinator.key or coordinator.info().key)


def _move(which: str, stage: Literal["validated", "released", "retired"], reason: str, url: str | None) -> None:
    coordinator = connect(url, CLOCK)
    moved = coordinator.move_model(coordinator.find_model(which).study, stage, reason)
    click.echo(f"{moved.name}@{moved.number} is {moved.stage}.")


def _first(one: ModelSummary) -> str:
    return "" if not one.figures else f"{one.figures[0].name} {_figure(one.figures[0])}"


def _figure(figure: FigureDocument | None) -> str:
    if figure is None:
        return ""
    interval = "" if figure.low is None or figure.high is None else f" ({figure.low:.3f} to {figure.high:.3f})"
    return "undefined" if figure.value is None else f"{figure.value:.3f}{interval}"


def _said(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def _cells(row: Sequence[float]) -> list[str]:
    return ["" if math.isnan(score) else f"{score:.6g}" for score in row]
