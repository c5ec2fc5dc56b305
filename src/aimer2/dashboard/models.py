"""Pages about the models that studies have left: versions, cards, lineage, stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from aimer2.core.said import mark
from aimer2.dashboard.api import route
from aimer2.dashboard.studies import download
from aimer2.dashboard.visit import Visit
from aimer2.identity.keys import PublicKey
from aimer2.messages.record import StudyRecord
from aimer2.repository.card import Card, as_html, as_markdown, card
from aimer2.repository.verify import verify
from aimer2.repository.version import Version, open_version
from aimer2.web.answers import read_form
from aimer2.web.pages import tell
from aimer2.web.translation import Language

NEXT_STAGES: Mapping[str, Sequence[str]] = {"candidate": ("validated", "retired"), "validated": ("released", "retired"), "released": ("retired",)}

UNTRAINED = mark("untrained")
ROUNDS = mark("rounds: %(number)s")
SITES = mark("sites: %(number)s")
FROM_ANOTHER = mark("begun from version %(number)s")
LINEAGE = mark("How this version came about")


async def models(visit: Visit) -> Response:
    by_name: dict[str, list[dict[str, Any]]] = {}
    for model in await visit.get("/v1/models"):
        by_name.setdefault(model["name"], []).append(model)
    return visit.page("models.html", current="/models", by_name=sorted(by_name.items()))


async def model(visit: Visit) -> Response:
    found, version = await _model(visit), await _version(visit)
    begun = [one for one in await visit.get("/v1/models") if one["model"]["sha256"] == version.record.package.initial.sha256]
    return visit.page(
        "model.html",
        current="/models",
        model=found,
        card=card(version).told(partial(tell, visit.language)),
        findings=verify(version),
        next_stages=NEXT_STAGES.get(found["stage"], ()),
        lineage=lineage(version, found, begun[0] if begun else None, visit.language),
    )


async def card_page(visit: Visit) -> Response:
    version = await _version(visit)
    return download(as_html(_card(version, visit.language), visit.language.tag), "text/html", f"card-{version.digest[:16]}.html")


async def card_text(visit: Visit) -> Response:
    version = await _version(visit)
    return download(as_markdown(_card(version, visit.language)), "text/markdown", f"card-{version.digest[:16]}.md")


def _card(version: Version, language: Language) -> Card:
    return card(version).told(lambda text: language.told(text)[0])


async def move(visit: Visit) -> Response:
    form = await read_form(visit.request)
    asked = {"stage": form.get("stage", ""), "reason": form.get("reason", "")}
    await visit.do("POST", route("/v1/models/{}/stage", visit.part("digest")), asked)
    return RedirectResponse(f"/models/{visit.part('digest')}", 303)


def lineage(version: Version, model: Mapping[str, Any], begun: Mapping[str, Any] | None, language: Language) -> Markup:
    """A picture: from what the training began, over its rounds, to this version, with digests that can be compared."""
    models = version.result["lineage"]["models"]
    sites = sum(part["rounds"] > 0 for part in version.result["sites"].values())
    first = language.text(UNTRAINED) if begun is None else language.text(FROM_ANOTHER) % {"number": begun["number"]}
    boxes = [
        (first, version.record.package.initial.sha256[:12]),
        (f"{version.study.method.name}", f"{language.text(ROUNDS) % {'number': len(models)}}, {language.text(SITES) % {'number': sites}}"),
        (f"{model['name']} {model['number']}", version.model.sha256[:12]),
    ]
    wide, gap, high = 196, 34, 64
    parts = []
    for place, (title, text) in enumerate(boxes):
        x = 4 + place * (wide + gap)
        if place:
            parts.append(Markup('<path class="arrow" d="M{} 36h{}m-7-5l7 5l-7 5"/>').format(x - gap + 2, gap - 6))
        here = " here" if place == len(boxes) - 1 else ""
        parts.append(Markup('<rect class="box{}" x="{}" y="4" width="{}" height="{}" rx="8"/>').format(here, x, wide, high))
        parts.append(Markup('<text class="title" x="{}" y="30">{}</text><text x="{}" y="52">{}</text>').format(x + 14, title[:24], x + 14, text[:28]))
    label = f"{language.text(LINEAGE)}: {' → '.join(f'{title} ({text})' for title, text in boxes)}"
    frame = '<svg xmlns="http://www.w3.org/2000/svg" class="picture lineage" viewBox="0 0 {} 72" role="img" aria-label="{}">{}</svg>'
    return Markup(frame).format(len(boxes) * (wide + gap) - gap + 8, label, Markup("").join(parts))


async def _model(visit: Visit) -> dict[str, Any]:
    found: dict[str, Any] = await visit.get(route("/v1/models/{}", visit.part("digest")))
    return found


async def _version(visit: Visit) -> Version:
    """The record, opened with the coordinator's key."""
    key = PublicKey.from_text((await visit.get("/v1/coordinator"))["key"])
    return open_version(StudyRecord.model_validate(await visit.get(route("/v1/studies/{}/record", visit.part("digest")))), key)
