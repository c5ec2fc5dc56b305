"""`aimer2 study feasibility`: how many patients there are, before a study is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from aimer2.cli.login import CLOCK, at_coordinator
from aimer2.client.coordinator import Coordinator
from aimer2.client.feasibility import feasibility as question
from aimer2.client.questions import Terms, answered
from aimer2.core.errors import BadInput
from aimer2.secure_aggregation.roster import MINIMUM
from aimer2.study.check import refuse_faults


@click.command("feasibility", context_settings={"show_default": True})
@click.option("--where", "criteria", metavar="CRITERION", multiple=True, required=True, help="'age >= 60' or 'sex = f'; several: one by one.")
@click.option("--dataset", required=True, help="The name that each hospital has given its data set.")
@click.option("--category", "categories", metavar="COLUMN=A,B,…", multiple=True, help="The categories of a column that is no number.")
@click.option("--to-nearest", type=click.IntRange(5, 1000), default=10, help="Each hospital rounds to this, and says none where there are fewer.")
@click.option("--ethics", envvar="AIMER2_ETHICS", required=True, help="Reference of the ethics approval, or why none is needed. Hospitals are told.")
@click.option("--investigator", envvar="AIMER2_INVESTIGATOR", required=True, help="Who answers for the question. Hospitals are told.")
@click.option("--why", default="Feasibility: whether there are enough patients for a study that is not written yet", help="Hospitals are told.")
@click.option("--ask", "asked_sites", metavar="SITE,…", help="Only these hospitals.")
@at_coordinator
def feasibility(
    coordinator: Coordinator,
    criteria: Sequence[str],
    dataset: str,
    categories: Sequence[str],
    to_nearest: int,
    **given: str | None,
) -> None:
    """Ask how many patients of all hospitals meet the criteria, in rounded numbers and over all of them only.

    Each hospital approves the question like a study, or a rule of its own does (`methods = ["feasibility"]`); it counts towards what the hospital
    answers, and is compared with earlier questions.
    """
    terms = Terms(
        purpose=given["why"] or "",
        ethics=given["ethics"] or "",
        principal_investigator=given["investigator"] or "",
        sites=tuple(given["asked_sites"].split(",")) if given["asked_sites"] else (),
        minimum_sites=MINIMUM,
    )
    levels = dict(map(_levels, categories))
    study = question(criteria, dataset=dataset, categories=levels, to_nearest=to_nearest, terms=terms)
    refuse_faults(study, Path(), CLOCK)
    Console().print(answered(coordinator.submit(study)))


def _levels(text: str) -> tuple[str, list[str]]:
    """Raises BadInput."""
    name, sign, levels = text.partition("=")
    if not sign:
        raise BadInput(f"--category {text}: give COLUMN=A,B.")
    return name, levels.split(",")
