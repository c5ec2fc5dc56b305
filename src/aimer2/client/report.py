"""The result of a study as a page for people: who took part, who did not and why, the figures, the terms, the lineage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aimer2.client.figures import Figures, number, printable, size_of
from aimer2.client.tables import Tables
from aimer2.core.task import ITERATED, FigureDocument


def report(result: Mapping[str, Any]) -> Group:
    """``result``: the record as `Coordinator.result` or a simulation gives it."""
    return Group(*_parts(result))


def _parts(result: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text(printable(result["name"]), "bold")
    yield Text(printable(result["question"]))
    yield _facts(result)
    model, patients = ("Final model", "the patients held out") if "evaluation" not in result else _measured(result["evaluation"])
    yield from _section("Sites", _sites(result))
    yield from _section("Rounds", _rounds(result))
    if "tables" in result:
        yield from _section("Answers", Tables.of(result))
    if "diagnosis" in result:
        yield from _section("How the sites differ", diagnosed(result["diagnosis"]))
    if result["figures"]:
        yield from _section(f"{model} on {patients} at all sites", _figures(result["figures"]))
    for site, figures in result["released"].items():
        yield from _section(f"{model} at {site}, released by the site", _figures(figures))
    yield from _section("Privacy", Text(printable(result["privacy"]["statement"])))
    if result["privacy"]["differential_privacy"]:
        yield Padding(_differential_privacy(result["privacy"]["differential_privacy"]), (0, 0, 0, 2))
    yield from _section("Lineage", _lineage(result))


def _measured(evaluation: Mapping[str, Any]) -> tuple[str, str]:
    """The model of an evaluation, and on whom it was measured."""
    patients = "all patients" if evaluation["held_out"] == 1 else f"the {evaluation['held_out']:.0%} of patients held out"
    return f"Model of the study {evaluation['of'][:16]}…", patients


def diagnosed(diagnosis: Mapping[str, Any]) -> Group:
    """What a trial has measured, and the method that it speaks for."""
    grid = _grid()
    for name, value in diagnosis["measured"].items():
        grid.add_row(Text(printable(name)), number(value))
    said = diagnosis["recommendation"]
    changes = ", ".join(f"{place} = {json.dumps(value)}" for place, value in said["changes"].items())
    recommended = Text(printable(f"Recommended: {changes}"), "bold")
    return Group(grid, Text(), recommended, *(Text(printable(f"because {reason}")) for reason in said["reasons"]))


def _section(title: str, content: RenderableType) -> Iterator[RenderableType]:
    yield Text(f"\n{title}", "bold")
    yield Padding(content, (0, 0, 0, 2))


def _facts(result: Mapping[str, Any]) -> Table:
    method = result["method"]
    parameters = "".join(f", {name} = {value}" for name, value in method["parameters"].items())
    grid = _grid()
    grid.add_row("study", result["study"])
    grid.add_row("led by", Text(printable(result["principal_investigator"])))
    grid.add_row("ethics", Text(printable(result["ethics"])))
    grid.add_row("method", Text(printable(f"{method['name']} version {method['version']}, {method['rounds']} rounds{parameters}")))
    if "bytes_sent" in result:
        told = f"{size_of(result['bytes_received'])} received of all sites together, {size_of(result['bytes_sent'])} sent to them"
        grid.add_row("bytes", told)
    grid.add_row("time", f"{result['started']} to {result['finished']}")
    return grid


def _differential_privacy(stated: Mapping[str, Any]) -> Table:
    grid = _grid()
    asked = "" if stated["epsilon_asked"] is None else f"; the study asked for {stated['epsilon_asked']:g}"
    grid.add_row("ε", f"{stated['epsilon']:g} at δ = {stated['delta']:g}{asked} ({stated['epsilon_by_renyi']:g} by Rényi)")
    grid.add_row("for", Text(printable(f"one {stated['unit']}; {stated['neighbouring']}; {stated['word']}")))
    if "questions" in stated:
        grid.add_row("answers", Text(printable(stated["mechanism"])))
        noise = f"{stated['noise_multiplier']:g} × the longest part of a patient, in {stated['sums']} sums of {stated['questions']} questions"
        grid.add_row("noise", Text(printable(noise)))
        return _not_covered(grid, stated)
    grid.add_row("training", Text(printable(stated["mechanism"])))
    steps = f" × {stated['local_steps']} steps" if stated["level"] == "record" else ""
    noise = f"{stated['noise_multiplier']:g} × clip norm {stated['clip_norm']:g}, {stated['rounds']} rounds{steps}"
    grid.add_row("noise", Text(printable(noise)))
    if stated["level"] == "site":
        grid.add_row("of a patient", f"ε = {stated['epsilon_of_a_patient']:g}")
        grid.add_row("noise of", Text(printable(stated["noise_of"])))
    else:
        grid.add_row("sampling", Text(printable(stated["sampling"])))
    if stated["figures"]:
        times = f"standard deviation {stated['figures']['noise']:g}, told {stated['figures']['times']} time(s)"
        grid.add_row("figures", Text(printable(f"{stated['figures']['mechanism']}, {times}")))
    return _not_covered(grid, stated)


def _not_covered(grid: Table, stated: Mapping[str, Any]) -> Table:
    for place, text in enumerate(stated["not_covered"]):
        grid.add_row("not covered" if place == 0 else "", Text(printable(text)))
    return grid


def _absence(told: Mapping[str, Any]) -> str:
    outcome = told["outcome"] + (" (signed at the site)" if told.get("signed") else "")
    return f"{told['stage']} {told['round']}: {outcome}{': ' if told['reason'] else ''}{told['reason']}"


def _sites(result: Mapping[str, Any]) -> Table:
    counted = ("final",) if "evaluation" in result else ITERATED
    training = sum(item["stage"] in counted for item in result["rounds"])
    table = Table("site", "rounds that count", "received", "sent", "absences, with the reason", box=None, pad_edge=False)
    for site, part in result["sites"].items():
        absences = [_absence(told) for told in part["absences"]]
        why = "\n".join(map(printable, absences)) or ("" if part["rounds"] else "took no part")
        # a record from before has no bytes of single sites
        traffic = [size_of(part[name]) if name in part else "" for name in ("bytes_received", "bytes_sent")]
        table.add_row(site, f"{part['rounds']} of {training}", *traffic, Text(why))
    return table


def _rounds(result: Mapping[str, Any]) -> Table:
    """Every round in which somebody was missing, and the others counted: who took part in which round is in the record itself."""
    table = Table("stage", "rounds", "took part", "seconds", box=None, pad_edge=False)
    for stage, first, last, sites, seconds in _stretches(result):
        table.add_row(stage, str(first) if first == last else f"{first} to {last}", ", ".join(sites) or "nobody", f"{seconds:.1f}")
    return table


def _stretches(result: Mapping[str, Any]) -> Iterator[tuple[str, int, int, list[str], float]]:
    """Consecutive rounds of one stage with the same sites, as one line."""
    stretch: list[Mapping[str, Any]] = []
    for item in [*result["rounds"], None]:
        if stretch and (item is None or (item["stage"], item["took_part"]) != (stretch[0]["stage"], stretch[0]["took_part"])):
            seconds = sum(part["seconds"] for part in stretch)
            yield stretch[0]["stage"], stretch[0]["round"], stretch[-1]["round"], list(stretch[0]["took_part"]), seconds
            stretch = []
        if item is not None:
            stretch.append(item)


def _grid() -> Table:
    """Two columns; a digest is broken, never cut, on a narrow screen."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    return grid


def _figures(documents: list[Mapping[str, Any]]) -> Table:
    return Figures(FigureDocument(**document) for document in documents).__rich__()


def _lineage(result: Mapping[str, Any]) -> Table:
    lineage = result["lineage"]
    grid = _grid()
    if "evaluation" in result:
        grid.add_row("model measured", lineage["initial"])
        return grid
    if "analyses" not in result:
        grid.add_row("untrained weights", lineage["initial"])
    for name, sha256 in lineage["code"].items():
        grid.add_row(Text(printable(name)), sha256)
    if "analyses" not in result:
        grid.add_row("models in between", str(max(0, len(lineage["models"]) - 1)))
    grid.add_row("answers" if "analyses" in result else "final model", result["model"]["sha256"])
    return grid
