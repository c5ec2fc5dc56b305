"""The first page, the list of studies, the sites, and what was spent: all from one short answer of the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from aimer2.charts.chart import Axis, Chart, Series
from aimer2.core.errors import NotFound
from aimer2.core.said import mark
from aimer2.dashboard.api import route
from aimer2.dashboard.visit import Visit

STATES = ("offered", "running", "paused", "finished", "stopped", "archived")
_MOST_WAITING = 25
_MOST_BARS = 30

SPENT = mark("ε spent by studies")
_TOLD_OF = {"free_disk_gib": mark("free disk, GiB"), "protections": mark("protections"), "version": mark("version"), "frozen": mark("frozen")}
"""What a site says of itself, by its key."""


async def overview(visit: Visit) -> Response:
    found = await read(visit)
    studies = found["studies"]
    waiting = [study for study in studies if study["state"] in ("offered", "paused")]
    return visit.page(
        "overview.html",
        current="/",
        overview=found,
        freeze=await visit.get("/v1/freeze") if visit.may("see-freeze") else None,
        counts=[(name, sum(study["state"] == name for study in studies)) for name in STATES[:-1]],
        sites_online=sum(site["online"] for site in found["sites"]),
        running=[study for study in studies if study["state"] == "running"][:_MOST_WAITING],
        waiting=waiting[:_MOST_WAITING],
        more_waiting=len(waiting) > _MOST_WAITING,
        absent=[site for site in found["sites"] if not site["online"] and not site["revoked"]][:_MOST_WAITING],
    )


async def studies(visit: Visit) -> Response:
    """``state`` and ``words`` of the query choose."""
    state, words = visit.asked("state"), visit.asked("words").strip().lower()
    found = (await read(visit))["studies"]
    shown = {state} if state else {name for name in STATES if name != "archived"}
    chosen = [study for study in found if study["state"] in shown and (words in study["name"] or study["digest"].startswith(words))]
    return visit.page("studies.html", current="/studies", studies=chosen[::-1], states=STATES, chosen=state, words=words)


async def sites(visit: Visit) -> Response:
    found = await read(visit)
    for site in found["sites"]:
        said = [study["decisions"].get(site["site"]) for study in found["studies"]]
        site["taken"], site["refused"] = said.count("approve"), said.count("refuse")
    return visit.page("sites.html", current="/sites", sites=found["sites"])


async def site(visit: Visit) -> Response:
    """Health, what it says of itself, what its people have published of its data, and what it has decided."""
    name = visit.part("site")
    found = await read(visit)
    line = next((one for one in found["sites"] if one["site"] == name), None)
    status = next((one for one in await visit.get("/v1/sites") if one["site"] == name), None)
    if line is None or status is None:
        raise NotFound("There is no such site.")
    asked = [study for study in found["studies"][::-1] if name in study["decisions"]]
    published = await visit.get(route("/v1/sites/{}/descriptions", name))
    told = [(visit.language.text(_TOLD_OF.get(key, key.replace("_", " "))), _said(value)) for key, value in status["status"].items() if key != "time"]
    return visit.page("site.html", current="/sites", site=line, key=status["key"], told=told, studies=asked, published=published)


async def privacy(visit: Visit) -> Response:
    """What each study has asked for, what the sites' ledgers have charged to it so far, and what the finished ones state in their signed results."""
    found = (await read(visit))["studies"][::-1]
    stated = {model["study"]: model["epsilon"] for model in await visit.get("/v1/models")} if visit.may("see-models") else {}
    charged: dict[str, list[dict[str, Any]]] = {}
    for one in await visit.get("/v1/spending"):
        charged.setdefault(one["study"], []).append(one)
    for study in found:
        study["stated"], study["charged"] = stated.get(study["digest"]), charged.get(study["digest"], [])
        study["spent"] = max((one["epsilon"] for one in study["charged"]), default=study["stated"])
    bars = [study for study in found if study["spent"] is not None][:_MOST_BARS]
    return visit.page("privacy.html", current="/privacy", studies=found, chart=_spent(visit, bars) if bars else None)


async def read(visit: Visit) -> dict[str, Any]:
    """The overview, with how many sites have approved each study and for whom it waits."""
    found: dict[str, Any] = await visit.get("/v1/overview")
    for study in found["studies"]:
        said = study["decisions"]
        study["approved"] = sum(decision == "approve" for decision in said.values())
        study["state"] = "archived" if study["archived"] else study["state"]
        study["waits_for"] = [name for name, decision in said.items() if decision == "waiting"]
    return found


def _spent(visit: Visit, studies: list[dict[str, Any]]) -> Chart:
    title = visit.language.text(SPENT)
    names = tuple(f"{study['name']} {study['digest'][:6]}" for study in studies)
    places = tuple(float(place) for place in range(len(studies)))
    values = tuple(study["spent"] for study in studies)
    return Chart(
        title=title,
        description=f"{title}: {', '.join(f'{name} {value:.3g}' for name, value in zip(names, values, strict=True))}",
        x=Axis(title="ε", low=0.0),
        y=Axis(scale="names", names=names),
        series=(Series(mark="intervals", x=values, y=places, low=tuple(0.0 for _ in values), high=values),),
    )


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_said(inner)}" for name, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
