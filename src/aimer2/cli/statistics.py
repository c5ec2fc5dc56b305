"""`aimer2 statistics`: a statistical question in one line, asked of files on this machine or of a coordinator's hospitals."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from aimer2.charts.files import ENDINGS
from aimer2.cli.login import CLOCK
from aimer2.cli.made_up_sites import Reading, read_sites
from aimer2.cli.simulated_data import named_files
from aimer2.client.figures import printable
from aimer2.client.logins import connect
from aimer2.client.pictures import numbered
from aimer2.client.questions import Asked, Terms, answered
from aimer2.client.simulate import simulate
from aimer2.client.tables import Tables
from aimer2.core.errors import BadInput
from aimer2.secure_aggregation.roster import MINIMUM
from aimer2.statistics import catalogue
from aimer2.study.check import refuse_faults


@click.command("statistics", context_settings={"show_default": True})
@click.argument("method", type=click.Choice(catalogue.names()))
@click.option("--formula", required=True, help='For example: \'Surv(time, died) ~ age + C(sex, "f", "m")\'.')
@click.option("--dataset", default="data", help="The name that each hospital has given its data set.")
@click.option("--option", "options", metavar="NAME=VALUE", multiple=True, help="Of the method; FROM:TO:STEP is a list of numbers, TO among them.")
@click.option("--category", "categories", metavar="COLUMN=A,B,…", multiple=True, help="A column's categories, the first being the reference.")
@click.option("--sites", metavar="NAME=FILE", multiple=True, help="Ask files on this machine (CSV or Parquet), one for each site, not hospitals.")
@click.argument("more_sites", metavar="[NAME=FILE]...", nargs=-1)
@click.option("--patient", metavar="COLUMN", help="With --sites: the column of patients' ids; without it each row is a patient.")
@click.option("--rounds", type=click.IntRange(1, 1000), help="At most so many, if not as many as METHOD takes for most data.")
@click.option("--purpose", default=Terms().purpose, help="What the answer is for.")
@click.option("--ethics", envvar="AIMER2_ETHICS", help="Reference of the ethics approval. Hospitals are told.")
@click.option("--investigator", envvar="AIMER2_INVESTIGATOR", help="Who answers for the question. Hospitals are told.")
@click.option("--ask", "asked_sites", metavar="SITE,…", help="Only these hospitals.")
@click.option("--minimum-patients", type=click.IntRange(1), default=10, help="A hospital with fewer is left out.")
@click.option("--why-not-secure", default="", help="Ask without secure aggregation, and say why.")
@click.option("--coordinator", "url", metavar="URL", envvar="AIMER2_URL", help="Which one, where you are logged in at several.")
@click.option("--plot", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write the picture, as .svg, .png or .json.")
@click.option("--json", "machine", is_flag=True, help="For programs: the answers as JSON.")
def statistics(
    *,
    sites: Sequence[str],
    more_sites: Sequence[str],
    patient: str | None,
    options: Sequence[str],
    categories: Sequence[str],
    url: str | None,
    machine: bool,
    plot: Path | None,
    **given: Any,
) -> None:
    """Ask a statistical question: METHOD is one of docs/statistics.md.

    Of hospitals, where you are logged in at their coordinator; those whose rules approve such questions answer at once. With --sites, of files on
    this machine.
    """
    if plot is not None and plot.suffix not in ENDINGS:
        raise BadInput(f"--plot {plot}: end the name in {', '.join(ENDINGS)}.")
    here = named_files((*sites, *more_sites))
    asked = Asked(
        method=given["method"],
        formula=given["formula"],
        dataset=given["dataset"],
        options=dict(map(_option, options)),
        columns=[_category(text) for text in categories],
        rounds=given["rounds"],
        terms=_terms(given, len(here)),
    )
    study = asked.study()
    refuse_faults(study, Path(), CLOCK)
    if here:
        tables = simulate(study, read_sites(Reading(study, None, patient), here)).tables
    else:
        tables = answered(connect(url, CLOCK).submit(study))
    _print(tables, machine)
    if plot is not None:
        _plot(tables, plot)


def _plot(tables: Tables, path: Path) -> None:
    """Raises NotFound where the answer has no picture."""
    pictures = tables.plots() or (tables.plot(),)
    for picture, file in zip(pictures, numbered(path, len(pictures)), strict=True):
        picture.save(file)
        click.echo(f"Wrote {file}: {printable(picture.chart.title)}", err=True)


def _print(tables: Tables, machine: bool) -> None:
    if machine:
        click.echo(json.dumps([table.model_dump(mode="json") for table in tables], indent=1, ensure_ascii=False))
    else:
        Console().print(tables)


def _terms(given: dict[str, Any], files: int) -> Terms:
    """Raises BadInput where hospitals would not be told who asks."""
    why, minimum = given["why_not_secure"], MINIMUM
    if files:
        why = why or ("" if files >= MINIMUM else f"a simulation of {files} site(s), and secure aggregation needs {MINIMUM}")
        minimum = min(files, MINIMUM)
    elif not given["ethics"] or not given["investigator"]:
        raise BadInput("Hospitals are told who asks and under which ethics approval.", remedy="Give --investigator and --ethics.")
    return Terms(
        purpose=given["purpose"],
        ethics=given["ethics"] or "none: files on this machine",
        principal_investigator=given["investigator"] or "nobody else is asked",
        sites=tuple(given["asked_sites"].split(",")) if given["asked_sites"] else (),
        minimum_sites=minimum,
        minimum_patients=given["minimum_patients"],
        why_not_secure=why,
    )


def _option(text: str) -> tuple[str, Any]:
    """A TOML value, a list of numbers as FROM:TO:STEP, or else the text itself. Raises BadInput."""
    name, sign, value = text.partition("=")
    if not sign:
        raise BadInput(f"--option {text}: give NAME=VALUE.")
    parts = value.split(":")
    try:
        if len(parts) == 3:
            first, last, step = map(float, parts)
            return name, tuple(float(one) for one in first + step * np.arange(int((last - first) / step + 1e-9) + 1))
        found = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, ZeroDivisionError, OverflowError):
        return name, value
    return name, tuple(found) if isinstance(found, list) else found


def _category(text: str) -> dict[str, Any]:
    """Raises BadInput."""
    name, sign, levels = text.partition("=")
    if not sign:
        raise BadInput(f"--category {text}: give COLUMN=A,B.")
    return {"name": name, "kind": "category", "categories": tuple(levels.split(","))}
