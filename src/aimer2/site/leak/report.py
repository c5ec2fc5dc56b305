"""The report of a rehearsal: one HTML page that loads nothing. It holds patients' values, so it stays at the site."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from typing import final

from aimer2 import __version__
from aimer2.attacks.inversion import CLOSE
from aimer2.core.clock import rfc3339
from aimer2.core.said import Said
from aimer2.core.study import Study
from aimer2.site.leak import pictures
from aimer2.site.leak.findings import TITLES, Example, Findings, Picture, View
from aimer2.site.leak.words import LIMITS, VAGUE, of_attempt, of_level, short, summary

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1b1c1e;background:#fff;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;margin:.8rem 0}
th,td{text-align:left;padding:.25rem .9rem .25rem 0;border-bottom:1px solid #dfe2e6;vertical-align:top}
.keep{border:2px solid #b3261e;padding:.6rem 1rem}.now{background:#fff4d6}
svg{max-width:100%;height:auto;font:13px system-ui,sans-serif}figure{display:inline-block;vertical-align:top;margin:.5rem 1.2rem .5rem 0}
figcaption{font-size:.85rem;max-width:13rem}
"""
# Nothing of the page may load, run or send anything, whatever a study's code has put into its findings.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_SHOWN_COLUMNS = 40


@final
@dataclass(frozen=True, slots=True)
class Subject:
    """What was rehearsed, where, on which data, by whom, when (seconds since 1970)."""

    study: Study
    digest: str
    site: str
    dataset: str
    snapshot: str
    by: str
    time: float


def page(findings: Findings, subject: Subject) -> str:
    """The whole page."""
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}"><title>Rehearsal</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(_parts(findings, subject))}</body></html>\n'


def _parts(findings: Findings, subject: Subject) -> Iterator[str]:
    yield f"<h1>What would the coordinator learn? {escape(subject.study.name)}</h1>"
    yield '<p class="keep"><b>This page shows values of real patients of this hospital. It stays here: do not send it to anybody outside.</b></p>'
    yield f"<p>{escape(subject.study.question)}</p>"
    yield _facts(findings, subject)
    yield "<h2>In plain words</h2>" + _list(summary(findings))
    yield "<h2>Records rebuilt from an update</h2>"
    yield (
        "<p>A record counts as rebuilt where its features are hit to a tenth of a standard deviation, on the average over them. An update of few "
        "records is what a study sends that takes small steps, or of a hospital with few patients.</p>"
    )
    yield _table(findings) + pictures.rebuilt(findings)
    if findings.example is not None:
        yield from _example(findings.example)
    yield from _noise(findings)
    if findings.tracing.results:
        yield "<h2>Was this patient among those trained on?</h2>"
        yield (
            f"<p>{findings.tracing.worlds} trainings of {findings.tracing.rounds} rounds, each on other {findings.tracing.members} of your records. "
            "The chance that a patient who was trained on scores higher than one who was not, with 95 % intervals. The dashed line is guessing.</p>"
        )
        yield pictures.traced(findings.tracing.results)
    yield from _told(findings)
    yield "<h2>What this does not show</h2>" + _list([*LIMITS, *findings.notes])


def _facts(findings: Findings, subject: Subject) -> str:
    rows = {
        "Study": subject.digest,
        "Hospital": subject.site,
        "Data set": f"{subject.dataset}, snapshot {subject.snapshot[:16]}, {findings.rows} training rows",
        "Model": f"{subject.study.model.name or subject.study.model.code}, {findings.parameters} parameters, {findings.features} features",
        "Rehearsed": f"{rfc3339(subject.time)} by {subject.by}, AIMER2 {__version__}, {findings.seconds:.0f} processor seconds",
    }
    return "<table>" + "".join(f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows.items()) + "</table>"


def _table(findings: Findings) -> str:
    views: list[View] = [attempt.view for attempt in findings.levels[0].attempts] if findings.levels else []
    now = findings.under_the_terms

    def mark(view: View) -> str:
        return ' class="now"' if view == now else ""

    head = "".join(f'<th title="{escape(TITLES[view])}"{mark(view)}>{escape(str(short(view)))}</th>' for view in views)
    rows = []
    for level in findings.levels:
        cells = "".join(f"<td{mark(one.view)}>{escape(str(of_attempt(one)))}</td>" for one in level.attempts)
        rows.append(f"<tr><th>{escape(str(of_level(level)))}</th>{cells}</tr>")
    return f"<table><tr><th>each update is made of</th>{head}</tr>{''.join(rows)}</table><p>Shaded: what this study's own terms give.</p>"


def _example(example: Example) -> Iterator[str]:
    yield f"<h2>One of your patients, rebuilt from an update of {of_records(example.records)}</h2>"
    if example.protected_error is not None and example.protected_error < CLOSE:
        yield "<p><b>This patient comes out of the sum as well: secure aggregation alone does not hide this record.</b></p>"
    if example.picture is not None:
        yield from _image(example, example.picture)
    if not example.cells:
        return
    yield (
        '<p>Ring: the record. <b style="color:#b3261e">Dot</b>: what the coordinator rebuilds without protection. '
        '<b style="color:#1f6f54">Cross</b>: the nearest it gets from the sum. The line goes from the smallest to the largest value here.</p>'
    )
    yield pictures.patient(example.cells)
    rows = "".join(
        f"<tr><td>{escape(cell.feature)}</td><td>{cell.real:.6g}</td><td>{cell.alone:.6g}</td><td>{_or_nothing(cell.protected)}</td></tr>"
        for cell in example.cells
    )
    yield f"<table><tr><th>feature</th><th>real</th><th>without protection</th><th>from the sum</th></tr>{rows}</table>"


def _image(example: Example, picture: Picture) -> Iterator[str]:
    if example.error >= CLOSE:
        yield f"<p>{escape(str(VAGUE))}</p>"
    shown = {"The patient's image, as the model sees it": picture.real, "Rebuilt without protection": picture.alone}
    if picture.protected is not None:
        shown["The nearest that comes of the sum"] = picture.protected
    for title, content in shown.items():
        yield f"<figure>{pictures.image(picture, content, title)}<figcaption>{title}</figcaption></figure>"


def of_records(count: int) -> str:
    return "one record" if count == 1 else f"{count} records"


def _noise(findings: Findings) -> Iterator[str]:
    words = findings.words
    if words is None:
        return
    yield "<h2>What arrives at the coordinator</h2><p>The first bytes of your update, a square for each: darker is smaller.</p>"
    shown = {
        "In the clear": words.clear,
        "Under masks, as with secure aggregation": words.masked,
        "The same update, masked for another round": words.again,
    }
    for title, content in shown.items():
        yield f"<figure>{pictures.bytes_picture(content, title)}<figcaption>{title}</figcaption></figure>"


def _told(findings: Findings) -> Iterator[str]:
    if not findings.told:
        return
    yield "<h2>Read without any attack</h2><p>Before the first round, sums for the standardisation leave the site. In the clear they say exactly:</p>"
    rows = "".join(
        f"<tr><td>{escape(told.column)}</td><td>{told.count}</td><td>{told.mean:.6g}</td><td>{told.deviation:.6g}</td></tr>"
        for told in findings.told[:_SHOWN_COLUMNS]
    )
    yield f"<table><tr><th>column</th><th>values</th><th>mean</th><th>standard deviation</th></tr>{rows}</table>"
    yield "<p>With secure aggregation the coordinator has these of all hospitals together.</p>"


def _list(lines: Iterable[Said | str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(str(line))}</li>" for line in lines) + "</ul>"


def _or_nothing(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.6g}"
