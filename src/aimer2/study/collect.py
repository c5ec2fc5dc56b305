"""One round's replies: who answered, who would not, who could not, who was late."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import final

from aimer2.core import tree
from aimer2.core.clock import Clock
from aimer2.core.errors import AimerError, BadUpdate
from aimer2.core.protocols import BlobStore, Engine
from aimer2.core.task import Answer, BlobRef, Failure, Refusal, Reply, SiteId, Task
from aimer2.core.update import Update
from aimer2.messages.tensors import read_tree
from aimer2.study.events import Absence, Event, ReplyReceived, RoundStalled, Traffic
from aimer2.study.quorum import Groups, Patience


@final
@dataclass(slots=True)
class Collected:
    """What came back so far."""

    asked: tuple[SiteId, ...]
    answers: dict[SiteId, Answer] = field(default_factory=dict)
    updates: dict[SiteId, Update] = field(default_factory=dict)
    absent: dict[SiteId, Absence] = field(default_factory=dict)
    away: tuple[Absence, ...] = ()
    """Who could not be asked."""
    hopeless: bool = False
    """Whether the round ended because too few answers could still come."""
    blobs: set[BlobRef] = field(default_factory=set)
    """All that this round has put into the store."""
    traffic: dict[SiteId, int] = field(default_factory=dict)
    """Bytes that each site was sent."""
    without: set[SiteId] = field(default_factory=set)
    """Who broke the protocol of a sum in secret, and is not asked again until the study is resumed."""

    @property
    def silent(self) -> tuple[SiteId, ...]:
        return tuple(site for site in self.asked if site not in self.answers and site not in self.absent)

    @property
    def replied(self) -> int:
        return len(self.answers) + len(self.absent)

    @property
    def in_order(self) -> list[Update]:
        """Updates in the order of the sites, whatever the order in which they came."""
        return [self.updates[site] for site in sorted(self.updates)]

    def absences(self) -> tuple[Absence, ...]:
        why = "the round ended before its answer came: too few others could answer" if self.hopeless else "no answer by the deadline"
        late = {site: Absence(site=site, outcome="late", reason=why) for site in self.silent}
        return tuple(sorted([*self.away, *self.absent.values(), *late.values()], key=lambda absence: absence.site))

    def drop(self, site: SiteId, code: str, reason: str) -> None:
        """The site has answered, but its answer cannot be used."""
        del self.updates[site], self.answers[site]
        self.absent[site] = Absence(site=site, outcome="failed", code=code, reason=reason)


def traffic_of(collected: Collected) -> dict[SiteId, Traffic]:
    """Of each site that was asked: what it was sent, and the bytes of its answer if that counted."""
    counted = {site: sum(ref.size for ref in answer.sums.values()) for site, answer in collected.answers.items()}
    return {site: Traffic(sent=collected.traffic.get(site, 0), received=counted.get(site, 0)) for site in sorted(collected.asked)}


async def collect(
    engine: Engine,
    tasks: Mapping[SiteId, Task],
    collected: Collected,
    patience: Patience,
    blobs: BlobStore,
    clock: Clock,
    over: Callable[[Collected], bool] = lambda _: False,
) -> AsyncIterator[Event]:
    """Fills ``collected`` until every site has replied, or the deadline has passed and enough have answered; the late are asked no more.

    ``over``: asked after each reply whether the others are not needed.

    After the deadline with too few answers it says so once and keeps waiting: what sites have computed is not thrown away.
    """
    began = clock.monotonic()
    replies = engine.ask(tasks)
    waiting = asyncio.ensure_future(anext(replies, None))
    stalled, done_with, hope = False, False, possible(collected, patience)
    first = next(iter(tasks.values()))
    try:
        while not done_with and collected.replied < len(collected.asked) and hope:
            left = began + patience.deadline_seconds - clock.monotonic()
            if left <= 0 and patience.enough(collected.answers) and not waiting.done():
                break
            if left <= 0 and not stalled and not waiting.done():
                stalled = True
                yield _stalled(first, collected, patience, clock)
            # one turn of the loop, in which a reply that is here already comes: to wait for it with a deadline costs more than to take it
            await asyncio.sleep(0)
            if not waiting.done():
                await asyncio.wait({waiting}, timeout=left if left > 0 else None)
            if not waiting.done():
                continue
            reply = waiting.result()
            if reply is None:
                break
            waiting = asyncio.ensure_future(anext(replies, None))
            event = _take(reply, collected, blobs, first, clock, began)
            hope = event.outcome == "answer" or possible(collected, patience)
            yield event
            done_with = over(collected)
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if isinstance(replies, AsyncGenerator):
            await replies.aclose()
    collected.hopeless = not possible(collected, patience)
    await engine.withdraw([tasks[site] for site in collected.silent])
    drop_odd_ones(collected, patience.groups)


def possible(collected: Collected, patience: Patience) -> bool:
    """Whether enough answers can still come."""
    return patience.enough([site for site in collected.asked if site not in collected.absent])


def _stalled(task: Task, collected: Collected, patience: Patience, clock: Clock) -> RoundStalled:
    return RoundStalled(
        time=clock.now(),
        stage=task.stage,
        round_number=task.round_number,
        answered=tuple(sorted(collected.answers)),
        waiting_for=collected.silent,
        needed=patience.needed,
    )


def _take(reply: Reply, collected: Collected, blobs: BlobStore, task: Task, clock: Clock, began: float) -> ReplyReceived:
    if isinstance(reply, Answer):
        collected.blobs.update(reply.sums.values())
        try:
            collected.updates[reply.site] = Update({name: read_tree(blobs.open(ref), lazy=True) for name, ref in reply.sums.items()})
            collected.answers[reply.site] = reply
        except AimerError as error:
            reply = Failure(task=reply.task, attempt=reply.attempt, site=reply.site, code=error.code, reason=error.sentence)
    if not isinstance(reply, Answer):
        outcome = "failed" if isinstance(reply, Failure) else "refused"
        collected.absent[reply.site] = Absence(site=reply.site, outcome=outcome, code=reply.code, reason=reply.reason, signed=_signed(reply))
    return ReplyReceived(
        time=clock.now(),
        stage=task.stage,
        round_number=task.round_number,
        site=reply.site,
        outcome=reply.kind,
        code="" if isinstance(reply, Answer) else reply.code,
        reason="" if isinstance(reply, Answer) else reply.reason,
        checks=reply.checks if isinstance(reply, Answer) else (),
        seconds=clock.monotonic() - began,
        signed=_signed(reply),
    )


def _signed(reply: Reply) -> str:
    return reply.signed if isinstance(reply, Refusal) else ""


def drop_odd_ones(collected: Collected, groups: Groups | None = None) -> None:
    """Sites whose update has not the shapes that most (of their group) have count as failed: one odd site must not stop the others."""
    forms = {site: _form(update) for site, update in collected.updates.items()}
    if len(set(forms.values())) <= 1:
        return
    for members in (collected.updates.keys(),) if groups is None else groups.members:
        here = {site: forms[site] for site in sorted(forms) if site in members}
        common = Counter(here.values()).most_common(1)
        for site in [site for site, form in here.items() if form != common[0][0]]:
            collected.drop(site, BadUpdate.code, "its update has other names or shapes than the other sites'")


def drop_infinite_ones(collected: Collected) -> bool:
    """Sites whose update has a number that is not finite count as failed; whether there were any. Reads every update."""
    infinite = [site for site, update in collected.updates.items() if not all(tree.is_finite(leaves) for leaves in update.sums.values())]
    for site in infinite:
        collected.drop(site, BadUpdate.code, "its update has values that are not finite")
    return bool(infinite)


def _form(update: Update) -> tuple[tuple[str, str, tuple[int, ...], str], ...]:
    return tuple(
        (name, leaf, tuple(array.shape), array.dtype.str) for name in sorted(update.sums) for leaf, array in sorted(update.sums[name].items())
    )
