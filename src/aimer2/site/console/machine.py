"""What agent and workers take of this machine, live; and the doctor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from aimer2.site.console.door import Page, Visit
from aimer2.site.console.requests import event
from aimer2.site.consumption import Consumption, disk_of, measure
from aimer2.site.doctor import examine
from aimer2.site.freeze import freeze_of, order

_EVERY_SECONDS = 2.0
_LONGEST_SECONDS = 3600.0
"""A page that is open for longer asks anew, and then its person must still be logged in."""


def show(visit: Visit) -> Response:
    folder, store = visit.console.folder, visit.console.decisions.store
    known = store.studies()
    titles = {study.digest: study.package.study.name for study in known if study.package}
    kept = [(study, disk_of(folder.study(study.digest)), store.spent(study.digest)) for study in reversed(known)]
    limits, frozen = visit.console.settings.worker, freeze_of(visit.console.decisions)
    given = {"now": measure(folder), "rates": {}, "titles": titles, "kept": kept, "limits": limits, "frozen": frozen}
    return visit.page("machine.html", current="/machine", **given)


def stream(visit: Visit) -> Response:
    console, language = visit.console, visit.console.answers.language(visit.request)
    titles = {study.digest: study.package.study.name for study in console.decisions.store.studies() if study.package}

    async def events() -> AsyncIterator[str]:
        before: Consumption | None = None
        for _ in range(int(_LONGEST_SECONDS / _EVERY_SECONDS)):
            now = await run_in_threadpool(measure, console.folder)
            part = console.answers.pages.fragment("parts_of_machine.html", "consumption", language, now, _rates(before, now), titles)
            yield event("consumption", part)
            before = now
            await asyncio.sleep(_EVERY_SECONDS)
        yield event("end", "reload")

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _rates(before: Consumption | None, now: Consumption) -> dict[int, float]:
    """Processors that each process has used since."""
    known = {} if before is None else {one.pid: one.cpu_seconds for one in before.processes}
    return {one.pid: max(0.0, one.cpu_seconds - known[one.pid]) / _EVERY_SECONDS for one in now.processes if one.pid in known}


def show_doctor(visit: Visit) -> Response:
    findings = list(examine(visit.console.folder, visit.console.clock))
    return visit.page("doctor.html", current="/machine", findings=findings)


def freeze(visit: Visit) -> Response:
    order(visit.console.decisions, "freeze", by=visit.person.name, reason=visit.field("reason"))
    return visit.go("/machine", "frozen")


def thaw(visit: Visit) -> Response:
    order(visit.console.decisions, "thaw", by=visit.person.name, reason=visit.field("reason"))
    return visit.go("/machine", "thawed")


PAGES = (
    Page("GET", "/machine", "see", show),
    Page("GET", "/machine/live", "see", stream),
    Page("GET", "/machine/doctor", "see", show_doctor),
    Page("POST", "/machine/freeze", "withdraw", freeze),
    Page("POST", "/machine/thaw", "decide", thaw),
)
