"""`aimer2 model evaluate`: how good a version is on hospitals' patients, by a study of its own that trains nothing."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from aimer2.cli.login import CLOCK
from aimer2.cli.made_up_sites import Reading, read_sites
from aimer2.cli.simulated_data import named_files
from aimer2.client.evaluate import evaluate as run_here
from aimer2.client.logins import connect
from aimer2.client.report import report
from aimer2.client.watch import Watch
from aimer2.core.errors import BadInput, NoResult
from aimer2.repository.evaluation import Terms
from aimer2.repository.version import Version, read_version
from aimer2.study.events import StudyFinished
from aimer2.study.weights import RECORD

_DAYS = 90
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("evaluate")
@click.argument("which", metavar="MODEL")
@click.option("--dataset", help="The name that each hospital has given its data set.  [default: that of the study that made it]")
@click.option("--ask", "asked_sites", metavar="SITE,…", help="Only these hospitals.  [default: all that are enrolled]")
@click.option("--patients", type=click.Choice(["all", "held-out"]), help="Whom to measure it on.  [default: all where no site asked has trained it]")
@click.option("--metrics", metavar="NAME,…", help="[default: those of the study that made it]")
@click.option("--minimum", type=click.IntRange(1), help="So many hospitals must approve.")
@click.option("--minimum-patients", type=click.IntRange(1), help="A hospital with fewer is left out.  [default: as in the study that made it]")
@click.option("--release-per-site", is_flag=True, help="Each hospital's own figures are released, once, and named.")
@click.option("--name", help="Of the study.  [default: that of the study that made it, and -evaluation]")
@click.option("--purpose", help="What the answer is for. Hospitals are told.")
@click.option("--ethics", envvar="AIMER2_ETHICS", help="Reference of the ethics approval, or why none is needed. Hospitals are told.")
@click.option("--investigator", envvar="AIMER2_INVESTIGATOR", help="Who answers for it. Hospitals are told.")
@click.option("--expires", type=click.DateTime(["%Y-%m-%d"]), help=f"After this nothing of it runs.  [default: in {_DAYS} days]")
@click.option("--why-not-secure", default="", help="Without secure aggregation, and why.")
@click.option("--supersedes", metavar="STUDY", help="A new version of this evaluation, whose place it takes; every hospital approves it anew.")
@click.option("--watch", "follow", is_flag=True, help="Stay and show it live.")
@click.option("--coordinator", "url", metavar="URL", envvar="AIMER2_URL", help="Which one, where you are logged in at several.")
@click.option(
    "--sites", metavar="NAME=FILE", multiple=True, help="Measure a pulled MODEL on files on this machine (CSV or Parquet), not at hospitals."
)
@click.argument("more_sites", metavar="[NAME=FILE]...", nargs=-1)
@click.option("--patient", metavar="COLUMN", help="With --sites: the column of patients' ids; without it each row is a patient.")
@click.option("--mapping", type=_FILE, help="With --sites: what the columns mean, as for a site's data set.")
@click.option("--json", "machine", is_flag=True, help="For a machine.")
def evaluate(
    *,
    which: str,
    sites: Sequence[str],
    more_sites: Sequence[str],
    patient: str | None,
    mapping: Path | None,
    machine: bool,
    **given: Any,
) -> None:
    """Measure a version on hospitals' patients. It goes to them as a study of its own: each approves it, and nothing is trained.

    The figures of all together appear with the version: `aimer2 model show`.
    """
    files = named_files((*sites, *more_sites))
    if not files:
        if patient or mapping:
            raise BadInput("--patient and --mapping are of files: give them with --sites.")
        _submit(which, machine, **given)
        return
    version = read_version(Path(which))
    given["ethics"] = given["ethics"] or "none needed: files on this machine"
    given["investigator"] = given["investigator"] or version.study.principal_investigator
    tables = read_sites(Reading(version.study, mapping, patient), files)
    with Watch(Console(stderr=machine), asked=sorted(tables)) as view:
        found = run_here(version, tables, terms=_terms(**given), on_event=view.add)
    if machine:
        click.echo(json.dumps(found.result, indent=1))
    else:
        Console().print(report(found.result))


def _submit(which: str, machine: bool, *, url: str | None, follow: bool, supersedes: str | None, **given: Any) -> None:
    if not given["ethics"] or not given["investigator"]:
        raise BadInput(
            "Hospitals are told on whose word they are asked.", remedy="Give --ethics and --investigator, or AIMER2_ETHICS and AIMER2_INVESTIGATOR."
        )
    coordinator = connect(url, CLOCK)
    model: str | Version = read_version(Path(which)) if (Path(which) / RECORD).is_file() else which
    run = coordinator.evaluate(model, _terms(**given), supersedes=coordinator.study(supersedes).digest if supersedes else None)
    summary = run.summary()
    if machine:
        click.echo(summary.model_dump_json(indent=1))
    else:
        click.echo(f"Submitted {summary.name}, digest {summary.digest}\nAsked: {', '.join(site.site for site in summary.sites)}")
    if not follow:
        click.echo(f"Each approves that digest, or refuses. Next: aimer2 study watch {summary.digest[:16]}", err=machine)
        return
    if not isinstance(run.watch(Console(stderr=machine)), StudyFinished):
        raise NoResult("The evaluation has no result.", remedy=f"`aimer2 study show {summary.digest[:16]}` says why.")
    if not machine:
        run.report()


def _terms(
    *,
    asked_sites: str | None,
    metrics: str | None,
    minimum: int | None,
    investigator: str,
    purpose: str | None,
    expires: datetime.datetime | None,
    **given: Any,
) -> Terms:
    of_submission = ("url", "follow", "supersedes")
    given = {name: value for name, value in given.items() if name not in of_submission}
    return Terms(
        sites=tuple(asked_sites.split(",")) if asked_sites else (),
        metrics=tuple(metrics.split(",")) if metrics else (),
        minimum_sites=minimum,
        principal_investigator=investigator,
        expires=expires.date() if expires else datetime.datetime.fromtimestamp(CLOCK.now(), datetime.UTC).date() + datetime.timedelta(days=_DAYS),
        **(given if purpose is None else given | {"purpose": purpose}),
    )
