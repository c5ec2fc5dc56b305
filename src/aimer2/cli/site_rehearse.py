"""`aimer2 site rehearse`: a study's attacks on this hospital's own data, before anybody approves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aimer2.cli.site_options import SHOWN, account, in_folder, open_decisions
from aimer2.site.folder import existing
from aimer2.site.leak.confined import LEAST_RECORDS, MOST_RECORDS, Asked
from aimer2.site.leak.confined import rehearse as attack
from aimer2.site.leak.findings import Findings
from aimer2.site.leak.words import LIMITS, of_attempt, of_level, short, summary
from aimer2.site.settings import read_settings


@click.command()
@click.argument("study")
@click.option("--dataset", help="Which data set, where it bears another name here.")
@click.option("--html", "report", type=click.Path(path_type=Path, dir_okay=False), help="Write the page here.  [default: in the site's folder]")
@click.option("--records", type=click.IntRange(LEAST_RECORDS, MOST_RECORDS), default=32, show_default=True, help="So many records are attacked.")
@click.option("--with-code", is_flag=True, help="Code that the study brings may run, confined, though nobody has approved it yet.")
@click.option("--by", help="Your name, for the audit log.  [default: the name of your account]")
@in_folder
def rehearse(study: str, folder: Path | None, by: str | None, **given: Any) -> None:
    """Attack your own data under a study's terms, and see what the coordinator could learn. Nothing leaves this site."""
    place = existing(folder)
    decisions, settings = open_decisions(place), read_settings(place.settings)
    console = Console()
    with console.status("Attacking your own data, in a confined process…"):
        done = attack(decisions, settings, study, Asked(by=by or account(), **given))
    console.print(Text(f"{done.subject.study.name}  {done.subject.digest[:SHOWN]}", "bold"))
    for line in summary(done.findings):
        console.print(Text(f"{'  ' * line.depth}• {line}"))
    console.print(_table(done.findings))
    console.print(Text("What this does not show", "bold"))
    for remark in (*map(str, LIMITS), *done.findings.notes):
        console.print(Text(f"• {remark}", "dim"))
    console.print(Text(f"With pictures, and a patient of yours: {done.report}\nThat page holds patients' values. It stays here.", "bold"))


def _table(findings: Findings) -> Table:
    """Records rebuilt; the column of the study's own terms is marked."""
    views = [attempt.view for attempt in findings.levels[0].attempts] if findings.levels else []
    now = findings.under_the_terms
    headings = [f"{short(view)}{' (this study)' if view == now else ''}" for view in views]
    table = Table("Each update is made of", *headings, title="Records rebuilt almost exactly", box=None)
    for level in findings.levels:
        table.add_row(str(of_level(level)), *(str(of_attempt(attempt)) for attempt in level.attempts))
    return table
