"""The data contract of a study, checked on this hospital's own data before anybody has decided: the very checks of its first round.

Trusted code alone, in a worker confined like the study's; code that the study brings is not even there. Nothing leaves.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from aimer2.audit.entries import Json
from aimer2.audit.kinds import Kind
from aimer2.core.errors import NotFound, OutOfResources
from aimer2.core.said import say
from aimer2.core.task import Check, Task
from aimer2.site import snapshots
from aimer2.site.decisions import Decisions
from aimer2.site.outgoing import handed_over
from aimer2.site.settings import Settings
from aimer2.site.workers import Opening, Worker, WorkerDied, of_death

CPU_SECONDS = 300


def check_here(decisions: Decisions, settings: Settings, prefix: str, *, by: str, dataset: str | None = None) -> tuple[Check, ...]:
    """Every check with its finding. ``dataset``: which one, where it bears another name here. Recorded in the audit log.

    Raises NotFound where the study was not fetched or the data set is not known, NotAvailable where the machine does not confine, and what the
    worker reports.
    """
    known = decisions.find(prefix)
    if known.package is None:
        raise NotFound("The study has not been fetched yet.", remedy="Let the agent run: `aimer2 site run`.")
    name = dataset or known.package.study.cohort.dataset
    if name not in snapshots.names(decisions.folder):
        raise NotFound(
            say("There is no data set '{name}' here.", name=name), remedy="Add it with `aimer2 site dataset add`, or name one with --dataset."
        )
    snapshot = snapshots.current(decisions.folder, name, settings.retention, decisions.clock.now())
    place = decisions.folder.path / "preflights" / known.digest
    _lay_out(place, decisions.folder.study(known.digest) / "files" / "study.json")
    task = Task(id="preflight", study=known.digest, site=decisions.site, stage="preflight", round_number=1)
    opening = Opening(decisions.site, place, snapshot.path, snapshot.sha256, CPU_SECONDS, settings.worker, settings.disclosure)
    try:
        checks = asyncio.run(_ask(opening, task))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    details: dict[str, Json] = {"dataset": name, "snapshot": snapshot.sha256, "unmet": [check.name for check in checks if not check.passed]}
    decisions.audit.append(Kind.STUDY_CHECKED, actor=by, study=known.digest, details=details)
    return checks


def _lay_out(place: Path, study: Path) -> None:
    """A folder of its own: the study may be running at this moment."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "files").mkdir(parents=True, mode=0o700)
    os.chmod(place.parent, 0o700)
    shutil.copy(study, place / "files")


async def _ask(opening: Opening, task: Task) -> tuple[Check, ...]:
    try:
        async with asyncio.timeout(CPU_SECONDS):
            worker = await Worker.start(opening)
            try:
                reply, files = await worker.ask({"task": task.model_dump(mode="json"), "received": [], "memory": []})
            finally:
                await worker.end()
    except WorkerDied as death:
        raise of_death(death) from None
    except TimeoutError:
        raise OutOfResources("The checks took longer than this site allows.") from None
    return handed_over(reply, files).checks
