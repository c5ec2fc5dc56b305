"""What studies have left at this hospital alone: its own reports, and models of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from aimer2.charts.chart import Axis, Chart, Series
from aimer2.core.errors import NotFound
from aimer2.core.said import mark
from aimer2.site import models
from aimer2.site.console.door import Page, Visit
from aimer2.site.reports import write_report
from aimer2.site.store import KnownStudy

_LOG_BYTES = 200_000
_MOST_CHARTS = 6


def show_reports(visit: Visit) -> Response:
    store = visit.console.decisions.store
    found = [(known, len(store.rounds(known.digest)), store.spent(known.digest)) for known in reversed(store.studies())]
    return visit.page("reports.html", current="/reports", found=[one for one in found if one[1]])


def _known(visit: Visit) -> KnownStudy:
    known = visit.console.decisions.store.study(visit.name("digest"))
    if known is None:
        raise NotFound("There is no such study here.")
    return known


def show_report(visit: Visit) -> Response:
    known, decisions = _known(visit), visit.console.decisions
    rounds = decisions.store.rounds(known.digest)
    return visit.page(
        "report.html",
        current="/reports",
        known=known,
        rounds=rounds,
        last=next((one for one in reversed(rounds) if one["figures"]), None),
        charts=list(_charts(visit, rounds)),
        history=decisions.store.decisions(known.digest),
        cpu_seconds=decisions.store.spent(known.digest),
        written=visit.console.folder.report(known.digest).is_file(),
        log=visit.console.folder.log(known.digest).is_file(),
    )


def _charts(visit: Visit, rounds: Sequence[dict[str, Any]]) -> Sequence[Chart]:
    """One for each figure that was measured in more than one round."""
    points: dict[str, list[tuple[float, float]]] = {}
    for one in rounds:
        for figure in one["figures"]:
            if one["stage"] == "train" and figure.get("value") is not None:
                points.setdefault(figure["name"], []).append((float(one["round"]), float(figure["value"])))
    told = visit.text(mark("On this hospital's own held-out patients, after each round."))
    axis = Axis(title=visit.text(mark("Round")))
    named = [(name, line) for name, line in points.items() if len(line) > 1][:_MOST_CHARTS]
    return [Chart(title=name, description=told, x=axis, y=Axis(title=name), series=(_line(line),)) for name, line in named]


def _line(points: Sequence[tuple[float, float]]) -> Series:
    return Series(mark="line", x=tuple(x for x, _ in points), y=tuple(y for _, y in points))


def write(visit: Visit) -> Response:
    known = _known(visit)
    write_report(visit.console.decisions, known.digest)
    return visit.go(f"/reports/{known.digest}", "report-written")


def download_report(visit: Visit) -> Response:
    path = visit.console.folder.report(_known(visit).digest)
    if not path.is_file():
        raise NotFound("No report of this study has been written yet.")
    return _file(path.read_bytes(), path.name, "application/json")


def show_log(visit: Visit) -> Response:
    known = _known(visit)
    path = visit.console.folder.log(known.digest)
    if not path.is_file():
        raise NotFound("Nothing of this study has run here.")
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_BYTES))
        text = file.read(_LOG_BYTES).decode(errors="replace")
    return visit.page("log.html", current="/reports", known=known, log=text)


def show_models(visit: Visit) -> Response:
    return visit.page("models.html", current="/models", cards=models.cards(visit.console.folder))


def show_model(visit: Visit) -> Response:
    card = _card(visit)
    figures = {figure.name: figure for figure in card.figures}
    compared = [(name, [figures.get(f"{whose}{name}") for whose in ("", "personal ", "local ")]) for name in figures if f"local {name}" in figures]
    return visit.page("model.html", current="/models", card=card, compared=compared)


def _card(visit: Visit) -> models.Card:
    card = next((card for card in models.cards(visit.console.folder) if card.digest == visit.name("digest")), None)
    if card is None:
        raise NotFound("There is no model of this study here.")
    return card


def export_model(visit: Visit) -> Response:
    """The weights, as a file for the person who asks; from there on they are that person's care."""
    card, decisions = _card(visit), visit.console.decisions
    content = bytes(models.weights(decisions.folder, card).view())
    name = f"{card.digest[:12]}.safetensors"
    models.record_export(decisions, card, name, by=visit.person.name)
    return _file(content, name, "application/octet-stream")


def delete_model(visit: Visit) -> Response:
    models.delete(visit.console.decisions, _card(visit), by=visit.person.name)
    return visit.go("/models", "deleted")


def _file(content: bytes, name: str, media_type: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(content, 200, headers, media_type)


PAGES = (
    Page("GET", "/reports", "see", show_reports),
    Page("GET", "/reports/{digest}", "see", show_report),
    Page("POST", "/reports/{digest}", "see", write),
    Page("GET", "/reports/{digest}/file", "see", download_report),
    Page("GET", "/reports/{digest}/log", "see patients", show_log),
    Page("GET", "/models", "see", show_models),
    Page("GET", "/models/{digest}", "see", show_model),
    Page("POST", "/models/{digest}/export", "hand out models", export_model),
    Page("POST", "/models/{digest}/delete", "hand out models", delete_model),
)
