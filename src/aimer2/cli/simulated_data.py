"""The data that `aimer2 simulate`, `aimer2 study leave-one-out` and `diagnose` run over: files of sites, one file divided, or made-up patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from aimer2.cli.made_up_patients import made_up_patients
from aimer2.cli.made_up_sites import Division, Reading, divide, read_sites
from aimer2.connectors.table import Table
from aimer2.core.errors import BadInput
from aimer2.core.study import Study, read_study
from aimer2.core.task import SITE_ID

_FILE = click.Path(path_type=Path, dir_okay=False)

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--sites", metavar="NAME=FILE", multiple=True, help="A site and its data, CSV or Parquet; further ones may follow without --sites."),
    click.option("--data", type=click.Path(path_type=Path), help="One file of data, to be divided among made-up sites."),
    click.option("--by", metavar="COLUMN", help="Divide: one site per value of this column."),
    click.option("--iid", metavar="N", type=click.IntRange(1), help="Divide at random among N sites."),
    click.option("--dirichlet", metavar="N:ALPHA", help="Divide so that the shares of the classes differ; the more, the smaller ALPHA."),
    click.option("--quantity", metavar="N:ALPHA", help="Divide so that the sizes differ; the more, the smaller ALPHA."),
    click.option("--patient", metavar="COLUMN", help="The column of patients' ids; without it each row is a patient."),
    click.option("--mapping", type=_FILE, help="What the columns mean, as for a site's data set; without it they are named as in the study."),
    click.option("--seed", type=click.IntRange(0), help="Of every draw, the division too.  [default: the study's]"),
)


def over_data(command: Command) -> Command:
    """The study's file, and the options that say over whose data it runs; a seed among them."""
    for add in reversed((click.argument("file", type=_FILE), click.argument("more_sites", metavar="[NAME=FILE]...", nargs=-1), *_OPTIONS)):
        command = add(command)
    return command


def study_and_tables(
    file: Path,
    more_sites: Sequence[str],
    *,
    sites: Sequence[str],
    data: Path | None,
    patient: str | None,
    mapping: Path | None,
    seed: int | None,
    **divisions: Any,
) -> tuple[Study, Mapping[str, Table]]:
    """The study, with the seed asked for, and the sites' data."""
    study = read_study(file)
    if seed is not None:
        study = study.model_copy(update={"seed": seed})
    return study, _tables(study, (*sites, *more_sites), data, Reading(study, mapping, patient), divisions)


def _tables(study: Study, sites: Sequence[str], data: Path | None, reading: Reading, divisions: Mapping[str, Any]) -> Mapping[str, Table]:
    given = [(kind, value) for kind, value in divisions.items() if value is not None]
    if sites and data is not None:
        remedy = "For example: --data patients.csv --iid 4, or --sites north=north.csv south=south.csv"
        raise BadInput("Whose data? Give either --sites or --data.", remedy=remedy)
    if given and data is None:
        raise BadInput("--by, --iid, --dirichlet and --quantity divide one file: give it with --data.")
    if sites:
        return read_sites(reading, named_files(sites))
    if data is None:
        click.echo("No data are given: these patients are made up, and the figures mean nothing.", err=True)
        return made_up_patients(study)
    if len(given) != 1:
        raise BadInput("How shall the data be divided? Give one of --by, --iid, --dirichlet, --quantity.")
    return divide(reading, data, _division(*given[0]), study.seed)


def named_files(sites: Sequence[str]) -> Mapping[str, Path]:
    """NAME=FILE, each name once. Raises BadInput."""
    named = {}
    for text in sites:
        name, sign, path = text.partition("=")
        if not sign or not SITE_ID.fullmatch(name):
            raise BadInput(f"--sites {text}: give NAME=FILE; a name has lower-case letters, digits and '-'.")
        if name in named:
            raise BadInput(f"--sites {text}: there is a site {name} already.")
        named[name] = Path(path)
    return named


def _division(kind: str, value: Any) -> Division:
    if kind == "by":
        return Division("by", column=value)
    if kind == "iid":
        return Division("iid", count=value)
    count, _, alpha = str(value).partition(":")
    try:
        return Division("dirichlet" if kind == "dirichlet" else "quantity", count=int(count), alpha=float(alpha))
    except ValueError:
        raise BadInput(f"--{kind} {value}: give N:ALPHA, for example 4:0.5.") from None
