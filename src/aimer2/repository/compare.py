"""Two versions beside each other: what was measured, and where the studies differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from aimer2.core.task import FigureDocument
from aimer2.repository.card import measured_at
from aimer2.repository.version import Version


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """``figures``: by name, of each version, None where it has none. ``evaluations``: likewise, of what studies of their own have measured, by where
    and figure; of several on the same patients the newest. ``differences``: by place in the study, what each says."""

    figures: Mapping[str, tuple[FigureDocument | None, FigureDocument | None]]
    differences: Mapping[str, tuple[Any, Any]]
    evaluations: Mapping[str, tuple[FigureDocument | None, FigureDocument | None]]


def compare(first: Version, second: Version) -> Comparison:
    """Figures are each study's own, on the patients that its sites held out: two studies of the same sites held out the same patients."""
    figures = [{figure["name"]: FigureDocument(**figure) for figure in version.result["figures"]} for version in (first, second)]
    evaluated = [_evaluated(version) for version in (first, second)]
    said = [dict(_flat(version.study.model_dump(mode="json", exclude={"name", "question", "purpose"}))) for version in (first, second)]
    said[0]["sites that took part"], said[1]["sites that took part"] = measured_at(first.result), measured_at(second.result)
    places = dict.fromkeys([*said[0], *said[1]])
    return Comparison(
        figures=_paired(*figures),
        evaluations=_paired(*evaluated),
        differences={place: (said[0].get(place), said[1].get(place)) for place in places if said[0].get(place) != said[1].get(place)},
    )


def _paired(
    first: Mapping[str, FigureDocument], second: Mapping[str, FigureDocument]
) -> dict[str, tuple[FigureDocument | None, FigureDocument | None]]:
    return {name: (first.get(name), second.get(name)) for name in dict.fromkeys([*first, *second])}


def _evaluated(version: Version) -> dict[str, FigureDocument]:
    found: dict[str, FigureDocument] = {}
    for result in version.evaluations:
        about = result["evaluation"]
        who = "all patients" if about["held_out"] == 1 else f"{about['held_out']:.0%} held out"
        where = f"{', '.join(measured_at(result))}: {about['dataset']}, {who}"
        found |= {f"{figure['name']} ({where})": FigureDocument(**figure) for figure in result["figures"]}
    return found


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a document, by its place."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{place}.{name}" if place else name)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for number, inner in enumerate(value, 1):
            yield from _flat(inner, f"{place}[{inner.get('name', number) if isinstance(inner, Mapping) else number}]")
    else:
        yield place, value
