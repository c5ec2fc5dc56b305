"""Studies that are still being written: edited as text with all their faults, submitted from here where that needs no framework, or discarded."""

from __future__ import annotations

import asyncio
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Literal

from starlette.responses import RedirectResponse, Response

from aimer2.blobs.folder import FolderStore
from aimer2.core.clock import SystemClock
from aimer2.core.errors import AimerError, BadInput, BadStudy, Conflict, Fault, NotFound, TooLarge
from aimer2.core.said import say
from aimer2.core.study import Study, study_text
from aimer2.dashboard.api import route
from aimer2.dashboard.visit import Visit
from aimer2.messages.package import Package
from aimer2.messages.package import digest as digest_of
from aimer2.study.cohort import design_width
from aimer2.study.pack import pack
from aimer2.study.template import new_study
from aimer2.web.answers import LARGEST_FORM, read_form

LARGEST = 6 * (2 << 20) + LARGEST_FORM
"""A form's bytes: of the text and of the files the API takes a MiB each, of which a form writes a byte as ``%C3``, a line's end as ``%0D%0A``."""
SECONDS = 60.0
_MOST_PARAMETERS = 1 << 20
"""Of a model that is built here: 8 MiB in float64."""


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
        files[name] = _text_of(name, code.body)
    text = {"name": package.study.name, "text": study_text(package.study), "files": files, "supersedes": digest}
    saved = await visit.do("POST", "/v1/drafts", text)
    return RedirectResponse(f"/drafts/{saved['id']}", 303)


def _text_of(name: str, code: bytes) -> str:
    try:
        return code.decode()
    except UnicodeDecodeError:
        remedy = "Submit the new version from the files on your own machine: aimer2 study submit FILE --supersedes STUDY."
        raise BadInput(say("{name} is not text in UTF-8, and a draft holds nothing else.", name=name), remedy=remedy) from None


async def draft(visit: Visit) -> Response:
    found = await visit.get(route("/v1/drafts/{}", visit.part("draft")))
    return await _shown(visit, found)


async def _shown(
    visit: Visit, found: Mapping[str, Any], problem: AimerError | None = None, code: Sequence[tuple[str, str]] | None = None
) -> Response:
    """``problem``: why it could not be saved or submitted; what was typed is shown again, of it ``code``: names and texts."""
    faults: Sequence[Any] = (await visit.get(route("/v1/drafts/{}/faults", visit.part("draft"))))["faults"]
    status = 200 if problem is None else problem.status
    if isinstance(problem, BadStudy):
        faults, problem = problem.faults, None
    by_command = await asyncio.to_thread(_needs_command, found["text"])
    shown = {
        "draft": found,
        "code": sorted(found["files"].items()) if code is None else code,
        "faults": faults,
        "problem": problem,
        "by_command": by_command,
    }
    return visit.page("draft.html", current="/drafts", status=status, **shown)


async def save(visit: Visit) -> Response:
    try:
        form = await read_form(visit.request, SECONDS, most=LARGEST)
    except TooLarge:
        remedy = "Go back in your browser, where what you typed still stands, and leave out what the study does not need."
        raise TooLarge("A draft has at most 1 MiB of text and 1 MiB of code.", remedy=remedy) from None
    before = await visit.get(route("/v1/drafts/{}", visit.part("draft")))
    try:
        revision = int(form.get("revision", ""))
    except ValueError:
        raise BadInput("This is not a form of these pages.") from None
    typed = {"name": form.get("name", "").strip(), "text": _lines(form.get("text", "")), "revision": revision}
    code = _code(form)
    try:
        files = _files(code, known=len(before["files"]))
        await visit.do("PUT", route("/v1/drafts/{}", visit.part("draft")), typed | {"files": files, "supersedes": before["supersedes"]})
    except AimerError as error:
        return await _shown(visit, {**before, **typed}, error, code)
    return RedirectResponse(f"/drafts/{visit.part('draft')}", 303)


def _code(form: Mapping[str, str]) -> list[tuple[str, str]]:
    """Name and text of each file of the form, but for the empty ones at its end."""
    numbers = takewhile(lambda number: f"file-{number}" in form, count())
    code = [(form[f"file-{number}"].strip(), _lines(form.get(f"code-{number}", ""))) for number in numbers]
    while code and not any(code[-1]):
        code.pop()
    return code


def _files(code: Sequence[tuple[str, str]], known: int) -> dict[str, str]:
    """Each with the name that it has got; of the first ``known``, one whose name was emptied is left out. Raises BadInput."""
    names = [name for name, _ in code if name]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(
            say("Two files have the same name: {double}.", double=", ".join(double)),
            remedy="Give each a name of its own, or empty the name of one to drop it.",
        )
    if any(text.strip() and not name for name, text in code[known:]):
        raise BadInput("The new file of code has no name.", remedy="Give it one, or empty its text.")
    return {name: text for name, text in code if name}


def _lines(text: str) -> str:
    """Browsers send lines as terminals of old ended them; code has a digest, so its lines end as they were written."""
    return text.replace("\r\n", "\n")


async def discard(visit: Visit) -> Response:
    found = await visit.get(route("/v1/drafts/{}", visit.part("draft")))
    try:
        await _discard(visit, (await read_form(visit.request)).get("revision", ""))
    except Conflict as error:
        return await _shown(visit, found, error)
    return RedirectResponse("/drafts", 303)


async def _discard(visit: Visit, revision: str) -> None:
    await visit.do("DELETE", route("/v1/drafts/{}?revision={}", visit.part("draft"), revision))


async def submit(visit: Visit) -> Response:
    """Offers the study as the draft stands, to all whom it names. The draft is gone afterwards, unless it was changed meanwhile."""
    form = await read_form(visit.request)
    found = await visit.get(route("/v1/drafts/{}", visit.part("draft")))
    try:
        if form.get("revision") != str(found["revision"]):
            raise Conflict("The draft was changed since you looked at it.", remedy="Read what it says now, then submit it.")
        digest = await _submit(visit, found, form.get("csrf", ""))
    except AimerError as error:
        return await _shown(visit, found, error)
    # What was saved while the study was being submitted is not part of it, and stays.
    with suppress(Conflict, NotFound):
        await _discard(visit, str(found["revision"]))
    return RedirectResponse(f"/studies/{digest}", 303)


async def _submit(visit: Visit, found: Mapping[str, Any], csrf: str) -> str:
    """Raises BadStudy with every fault, and what the coordinator raises."""
    told = (await visit.get(route("/v1/drafts/{}/faults", visit.part("draft"))))["faults"]
    if told:
        raise BadStudy([Fault(fault["place"], fault["problem"], fault["remedy"]) for fault in told])
    if reason := await asyncio.to_thread(_needs_command, found["text"]):
        large = say("The untrained model of this study is large, and is built elsewhere.")
        other = say("The untrained model of this study is built where its framework is.")
        raise BadInput(large if reason == "size" else other, remedy="Submit it by the command that the page shows.")
    study = await asyncio.to_thread(_study, found["text"])
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


def _study(text: str) -> Study:
    return Study(**tomllib.loads(text))


def _needs_command(text: str) -> Literal["", "framework", "size"]:
    """Why the untrained model is not built here: it takes a framework, code of the study or a file of weights, none of which is opened at a
    coordinator; or it has too many parameters. Empty: it is built here, or there is none.
    """
    try:
        study = _study(text)
    except (ValueError, RecursionError, BadStudy):
        return ""
    model = study.model
    if study.analyses:
        return ""
    if model.framework != "numpy" or model.code is not None or model.weights is not None or study.cohort.image is not None:
        return "framework"
    # The numpy models are linear in each output.
    parameters = (design_width(study.cohort) + 1) * study.cohort.target.outputs
    return "size" if parameters > _MOST_PARAMETERS else ""
