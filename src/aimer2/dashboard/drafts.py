"""Studies that are still being written: edited as text with all their faults, submitted from here where that needs no framework, or discarded."""

from __future__ import annotations

import asyncio
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.responses import RedirectResponse, Response

from aimer2.blobs.folder import FolderStore
from aimer2.core.clock import SystemClock
from aimer2.core.errors import AimerError, BadInput, BadStudy, Conflict, Fault
from aimer2.core.study import Study, study_text
from aimer2.dashboard.api import route
from aimer2.dashboard.visit import Visit
from aimer2.messages.package import Package
from aimer2.messages.package import digest as digest_of
from aimer2.study.pack import pack
from aimer2.study.template import new_study
from aimer2.web.answers import read_form

LARGEST = 1 << 20
_MOST_FILES = 50


async def drafts(visit: Visit) -> Response:
    return visit.page("drafts.html", current="/drafts", drafts=await visit.get("/v1/drafts"))


async def begin(visit: Visit) -> Response:
    """A new one, from a whole study with comments."""
    name = (await read_form(visit.request)).get("name", "").strip()
    saved = await visit.do("POST", "/v1/drafts", {"name": name, "text": new_study(name, SystemClock())})
    return RedirectResponse(f"/drafts/{saved['id']}", 303)


async def next_version(visit: Visit) -> Response:
    """A draft of what is to take a submitted study's place, with its text and its code as they are."""
    digest = visit.part("digest")
    package = Package.model_validate(await visit.get(route("/v1/studies/{}/package", digest)))
    files = {}
    for name, ref in package.files.items():
        code = await visit.api.ask(visit.request, "GET", route("/v1/blobs/{}", ref.sha256))
        files[name] = code.body.decode("utf-8", "replace")
    text = {"name": package.study.name, "text": study_text(package.study), "files": files, "supersedes": digest}
    saved = await visit.do("POST", "/v1/drafts", text)
    return RedirectResponse(f"/drafts/{saved['id']}", 303)


async def draft(visit: Visit) -> Response:
    found = await visit.get(route("/v1/drafts/{}", visit.part("draft")))
    return await _shown(visit, found)


async def _shown(visit: Visit, found: Mapping[str, Any], problem: AimerError | None = None) -> Response:
    """``problem``: why it could not be saved or submitted; what was typed is shown again."""
    faults: Sequence[Any] = (await visit.get(route("/v1/drafts/{}/faults", visit.part("draft"))))["faults"]
    status = 200 if problem is None else problem.status
    if isinstance(problem, BadStudy):
        faults, problem = problem.faults, None
    by_command = _needs_command(found["text"])
    return visit.page("draft.html", current="/drafts", status=status, draft=found, faults=faults, problem=problem, by_command=by_command)


async def save(visit: Visit) -> Response:
    form = await read_form(visit.request, most=LARGEST)
    before = await visit.get(route("/v1/drafts/{}", visit.part("draft")))
    try:
        revision = int(form.get("revision", ""))
    except ValueError:
        raise BadInput("This is not a form of these pages.") from None
    typed = {"name": form.get("name", "").strip(), "text": _lines(form.get("text", "")), "files": _files(form), "revision": revision}
    try:
        await visit.do("PUT", route("/v1/drafts/{}", visit.part("draft")), typed | {"supersedes": before["supersedes"]})
    except AimerError as error:
        return await _shown(visit, {**before, **typed}, error)
    return RedirectResponse(f"/drafts/{visit.part('draft')}", 303)


def _files(form: Mapping[str, str]) -> dict[str, str]:
    """Each with the name that it has got; one whose name was emptied is left out."""
    named = ((form.get(f"file-{number}", "").strip(), form.get(f"code-{number}", "")) for number in range(_MOST_FILES + 1))
    return {name: _lines(text) for name, text in named if name}


def _lines(text: str) -> str:
    """Browsers send lines as terminals of old ended them; code has a digest, so its lines end as they were written."""
    return text.replace("\r\n", "\n")


async def discard(visit: Visit) -> Response:
    await visit.do("DELETE", route("/v1/drafts/{}", visit.part("draft")))
    return RedirectResponse("/drafts", 303)


async def submit(visit: Visit) -> Response:
    """Offers the study as the draft stands, to all whom it names. The draft is gone afterwards."""
    form = await read_form(visit.request)
    found = await visit.get(route("/v1/drafts/{}", visit.part("draft")))
    try:
        if form.get("revision") != str(found["revision"]):
            raise Conflict("The draft was changed since you looked at it.", remedy="Read what it says now, then submit it.")
        digest = await _submit(visit, found, form.get("csrf", ""))
    except AimerError as error:
        return await _shown(visit, found, error)
    await visit.do("DELETE", route("/v1/drafts/{}", visit.part("draft")))
    return RedirectResponse(f"/studies/{digest}", 303)


async def _submit(visit: Visit, found: Mapping[str, Any], csrf: str) -> str:
    """Raises BadStudy with every fault, and what the coordinator raises."""
    told = (await visit.get(route("/v1/drafts/{}/faults", visit.part("draft"))))["faults"]
    if told:
        raise BadStudy([Fault(**fault) for fault in told])
    if _needs_command(found["text"]):
        raise BadInput("The untrained model of this study is built where its framework is.", remedy="Submit it by the command that the page shows.")
    study = Study(**tomllib.loads(found["text"]))
    enrolled = {site["site"]: site["key"] for site in await visit.get("/v1/sites") if not site["revoked"]}
    roster = {site: enrolled[site] for site in study.sites.names or enrolled}
    with tempfile.TemporaryDirectory(prefix="aimer2-") as place:
        blobs = FolderStore(Path(place))
        made = await asyncio.to_thread(pack, study, Path(place), roster, blobs)
        package = made.model_copy(update={"supersedes": found["supersedes"]})
        content = bytes(blobs.open(package.initial).view())
    await visit.api.put(visit.request, route("/v1/blobs/{}", package.initial.sha256), content, csrf=csrf)
    await visit.do("POST", "/v1/studies", package.model_dump(mode="json"))
    return digest_of(package)


def _needs_command(text: str) -> bool:
    """Whether the untrained model takes a framework, code of the study, or a file of weights: nothing of these is opened at a coordinator."""
    try:
        study = Study(**tomllib.loads(text))
    except (ValueError, RecursionError, BadStudy):
        return False
    model = study.model
    light = model.framework == "numpy" and model.code is None and model.weights is None and study.cohort.image is None
    return not (study.analyses or light)
