"""A rehearsal: every site that has approved checks whether its data fit the study, and nothing is computed."""

from __future__ import annotations

import asyncio
import secrets

from pydantic import Field

from aimer2.coordinator.queue import StudyQueue
from aimer2.core.errors import Conflict
from aimer2.core.task import Answer, Check, Document, Reply, SiteId, Task, Telling

SILENCE_SECONDS = 30.0


class SiteChecks(Telling):
    """What one site found."""

    site: SiteId
    outcome: str = Field(description="answer, refusal, failure, or silent")
    checks: tuple[Check, ...] = ()
    code: str = ""
    reason: str = ""


class Rehearsal(Document):
    sites: tuple[SiteChecks, ...]


async def rehearse(queue: StudyQueue, silence_seconds: float = SILENCE_SECONDS) -> Rehearsal:
    """Asks all sites that have approved; ends when all have replied or nobody has for ``silence_seconds``. Raises Conflict where none has."""
    sites = await queue.sites()
    if not sites:
        raise Conflict("No site has approved the study yet.")
    name = f"{queue.study[:16]}-rehearsal-{secrets.token_hex(4)}"
    tasks = [Task(id=f"{name}-{site}", study=queue.study, site=site, stage="preflight", round_number=0) for site in sites]
    await queue.put(tasks)
    replies: dict[str, Reply] = {}
    waiting = queue.replies(tasks)
    try:
        while len(replies) < len(tasks):
            reply = await asyncio.wait_for(anext(waiting), silence_seconds)
            replies[reply.site] = reply
    except TimeoutError:
        pass
    finally:
        await queue.withdraw([task for task in tasks if task.site not in replies])
    return Rehearsal(sites=tuple(_checks(site, replies) for site in sites))


def _checks(site: str, replies: dict[str, Reply]) -> SiteChecks:
    reply = replies.get(site)
    if reply is None:
        return SiteChecks(site=site, outcome="silent")
    if isinstance(reply, Answer):
        return SiteChecks(site=site, outcome="answer", checks=reply.checks)
    return SiteChecks(site=site, outcome=reply.kind, code=reply.code, reason=reply.reason)
