"""Pictures as inline SVG: nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby

from aimer2.core.said import Said, say
from aimer2.site.leak.findings import Cell, Findings, Membership, Picture
from aimer2.site.leak.words import attack_of, of_attempt, of_level, of_membership, short

_COLOURS = {"alone": "#b3261e", "masked": "#8a8f98", "sum": "#1f6f54", "noisy": "#8a5a00", "noisy-sum": "#2f5fa8"}
_SIDE = 32
_PIXEL = 6
_IMAGE = 224


def rebuilt(findings: Findings, tell: Callable[[Said], str] = str) -> str:
    """Bars: which share of the records was rebuilt, by what an update is made of and through whose eyes."""
    rows, top = [], 0
    for level in findings.levels:
        rows.append(_text(0, top + 14, tell(say("Updates of {level}", level=of_level(level))), "bold"))
        for place, attempt in enumerate(level.attempts):
            y = top + 24 + 22 * place
            width = 300 * attempt.rebuilt / max(attempt.tried, 1)
            rows.append(_text(0, y + 13, tell(short(attempt.view))))
            rows.append(f'<rect x="190" y="{y}" width="300" height="16" fill="#eceef1"/>')
            rows.append(f'<rect x="190" y="{y}" width="{width:.1f}" height="16" fill="{_COLOURS[attempt.view]}"/>')
            rows.append(_text(500, y + 13, tell(of_attempt(attempt))))
        top += 44 + 22 * len(level.attempts)
    return _svg(660, top, tell(say("Records rebuilt almost exactly")), rows)


def bytes_picture(content: str, title: str) -> str:
    """One grey square for each byte."""
    found = bytes.fromhex(content)[: _SIDE * _SIDE]
    size = f'width="{_PIXEL}" height="{_PIXEL}"'
    squares = [
        f'<rect x="{place % _SIDE * _PIXEL}" y="{place // _SIDE * _PIXEL}" {size} fill="rgb({value},{value},{value})"/>'
        for place, value in enumerate(found)
    ]
    lines = -(-len(found) // _SIDE)
    return _svg(_SIDE * _PIXEL, lines * _PIXEL, title, squares)


def image(picture: Picture, content: str, title: str) -> str:
    """One of its images, a square for each pixel, or a stretch for pixels of one colour beside each other."""
    values, size = bytes.fromhex(content), max(1, _IMAGE // max(picture.height, picture.width))
    colours = [values[place : place + picture.channels] for place in range(0, len(values), picture.channels)]
    parts = []
    for row in range(picture.height):
        at = 0
        for colour, alike in groupby(colours[row * picture.width : (row + 1) * picture.width]):
            wide = len(list(alike))
            red, green, blue = colour if len(colour) == 3 else (colour[0],) * 3
            fill = f'fill="rgb({red},{green},{blue})"'
            parts.append(f'<rect x="{at * size}" y="{row * size}" width="{wide * size}" height="{size}" {fill}/>')
            at += wide
    return _svg(picture.width * size, picture.height * size, title, parts)


def patient(cells: Sequence[Cell], tell: Callable[[Said], str] = str) -> str:
    """The record (ring), what was rebuilt without protection (dot), the nearest that came of the sum (cross), between the hospital's extremes."""
    rows = []
    for place, cell in enumerate(cells):
        y = 16 + 26 * place
        rows.append(_text(0, y + 4, cell.feature[:28]))
        rows.append(f'<line x1="220" x2="620" y1="{y}" y2="{y}" stroke="#c9cdd3"/>')
        if cell.protected is not None:
            x = _along(cell, cell.protected)
            cross = f"M{x - 5:.1f} {y - 5}L{x + 5:.1f} {y + 5}M{x - 5:.1f} {y + 5}L{x + 5:.1f} {y - 5}"
            rows.append(f'<path d="{cross}" stroke="{_COLOURS["sum"]}" stroke-width="2"/>')
        rows.append(f'<circle cx="{_along(cell, cell.alone):.1f}" cy="{y}" r="4" fill="{_COLOURS["alone"]}"/>')
        rows.append(f'<circle cx="{_along(cell, cell.real):.1f}" cy="{y}" r="7" fill="none" stroke="#1b1c1e" stroke-width="1.5"/>')
    return _svg(640, 26 * len(cells) + 8, tell(say("A patient, and what was rebuilt")), rows)


def traced(results: Sequence[Membership], tell: Callable[[Said], str] = str) -> str:
    """The chance to tell a member from another, with its interval; the line is guessing."""
    rows = [f'<line x1="{_chance(0.5)}" x2="{_chance(0.5)}" y1="0" y2="{22 * len(results) + 4}" stroke="#8a8f98" stroke-dasharray="3 3"/>']
    for place, found in enumerate(results):
        y = 14 + 22 * place
        colour = _COLOURS[found.view]
        rows.append(_text(0, y + 4, f"{tell(short(found.view))}: {tell(attack_of(found))}"))
        rows.append(f'<line x1="{_chance(found.low):.1f}" x2="{_chance(found.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>')
        rows.append(f'<circle cx="{_chance(found.auc):.1f}" cy="{y}" r="4" fill="{colour}"/>')
        rows.append(_text(690, y + 4, tell(of_membership(found))))
    return _svg(830, 22 * len(results) + 6, tell(say("Who was trained on")), rows)


def _along(cell: Cell, value: float) -> float:
    width = cell.high - cell.low
    share = 0.5 if width <= 0 else (value - cell.low) / width
    return 220 + 400 * min(1.03, max(-0.03, share))


def _chance(value: float) -> float:
    """From 0.3 to 1."""
    return 420 + 250 * (min(1.0, max(0.3, value)) - 0.3) / 0.7


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" font-weight="{weight}">{escape(text)}</text>'


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    # On paper of its own: the page around it may be dark.
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="picture" {size} fill="#1b1c1e" font-size="13" role="img">'
    paper = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return f"{head}<title>{escape(title)}</title>{paper}{''.join(parts)}</svg>"
