"""The one loop of every study: ask the sites, add what comes back, step, remember, again.

Training, statistics and evaluation are the same loop over different algorithms. It holds no transport (the engine does), no storage (blobs and
checkpoints do) and no method; it can be killed at any instant and goes on from its last checkpoint with the same bits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar, final

import numpy as np

from aimer2.core import tree
from aimer2.core.clock import Clock
from aimer2.core.errors import AimerError, BadData, BadUpdate, NotApproved
from aimer2.core.protocols import BlobStore, Engine
from aimer2.core.said import Said, joined, mark, phrase, say
from aimer2.core.task import ITERATED, BlobRef, FigureDocument, SiteId, Task, task_id
from aimer2.core.tree import Tree
from aimer2.core.update import Update
from aimer2.messages.package import Package
from aimer2.study.checkpoint import Checkpoints, StoredTree, blobs_of, finite, load_state, refs_of, save_state, store
from aimer2.study.collect import Collected, traffic_of
from aimer2.study.compressing import Opening
from aimer2.study.downlink import Sent, bytes_of, offers
from aimer2.study.events import (
    Absence,
    Event,
    RoundFinished,
    RoundRepeated,
    RoundStarted,
    Secrecy,
    StageStarted,
    StudyFinished,
    StudyPaused,
    StudyStarted,
)
from aimer2.study.noisy_sum import NoisySum
from aimer2.study.plan import Part, Plan, plan_of
from aimer2.study.position import Position
from aimer2.study.quorum import Patience
from aimer2.study.result import build_result
from aimer2.study.secure_sum import SecureSum
from aimer2.study.summing import Asked, InTheClear, RoundLost, Summing

SMALL = 1 << 16
"""Elements up to which an array is worked on where the loop is."""

ATTEMPTS = 3
"""How often a round that was lost is tried in a row before the study pauses."""

Given = ParamSpec("Given")
Made = TypeVar("Made")


@final
@dataclass(frozen=True, slots=True)
class Advance:
    """What a round's sum gave: the next state, stored, and what is told of it."""

    state: Mapping[str, Any]
    model: BlobRef | None = None
    figures: tuple[FigureDocument, ...] = ()
    secrecy: Secrecy | None = None


async def conduct(package: Package, digest: str, engine: Engine, blobs: BlobStore, checkpoints: Checkpoints, *, clock: Clock) -> AsyncIterator[Event]:
    """Conducts the study to its end, from its checkpoint where there is one; the last event is StudyFinished or StudyPaused.

    A pause (too few sites can answer, or their sum is not finite) loses nothing: conducting again asks the same round anew. Whoever listens
    keeps each event before it asks for the next: the result is made of the kept ones.
    """
    plan = plan_of(package, digest, blobs)
    loop = Loop(plan, engine, blobs, checkpoints, clock)
    async for event in loop.run():
        yield event
    if loop.model is not None:
        # Aside: to account for differential privacy takes a second.
        tables = plan.tables(StoredTree(loop.model, blobs))
        made = partial(build_result, package, digest, loop.model, await checkpoints.events(), tables=tables, moments=loop.moments)
        result = await asyncio.to_thread(made)
        yield StudyFinished(time=clock.now(), result=result)


async def _untold(position: Position, checkpoints: Checkpoints) -> list[Event]:
    """The last round's event, where the process died between keeping its outcome and telling it."""
    if position.last is None:
        return []
    event = RoundFinished(**position.last)
    return [] if event in await checkpoints.events() else [event]


class _Pause(Exception):
    """The study cannot go on now."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@final
class Loop:
    """Conducts a plan; ``model`` is the final model once it has run to its end."""

    def __init__(self, plan: Plan, engine: Engine, blobs: BlobStore, checkpoints: Checkpoints, clock: Clock) -> None:
        self._plan = plan
        self._engine = engine
        self._blobs = blobs
        self._checkpoints = checkpoints
        self._clock = clock
        self.position = Position()
        self._clear: Summing = InTheClear(plan.aggregator, engine, blobs, clock)
        self._summing = self._clear if not plan.secure else self._in_secret(plan, engine, blobs, clock)
        self.model: BlobRef | None = None
        self._collected: Collected | None = None
        self._is_small = all(tree.size(leaf) <= SMALL for part in plan.parts for leaf in part.initial.values())

    def _in_secret(self, plan: Plan, engine: Engine, blobs: BlobStore, clock: Clock) -> Summing:
        secret = SecureSum(plan.secure, plan.aggregator, engine, blobs, clock, self._keep_summing, groups_needed=plan.groups_needed)
        return secret if plan.private is None else NoisySum(secret, plan.private, blobs)

    async def run(self) -> AsyncIterator[Event]:
        """All parts that are left, from the checkpoint where there is one."""
        saved = await self._checkpoints.load()
        brought = {name: ref.model_dump() for name, ref in self._plan.models.items()}
        self.position = Position(**saved) if saved else Position(models=brought)
        if self.position.paused:
            self.position = self.position.resumed()
        self._summing.resume(self.position.summing)
        for event in await _untold(self.position, self._checkpoints):
            yield event
        yield StudyStarted(time=self._clock.now(), sites=tuple(sorted(await self._engine.sites())), resumed=saved is not None)
        try:
            while self.position.part < len(self._plan.parts):
                async for event in self._run_part():
                    yield event
        except _Pause as pause:
            await self._checkpoints.save(replace(self.position, paused=True).document())
            self._forget(self.position, self._collected)  # the next attempt asks for updates anew
            yield StudyPaused(time=self._clock.now(), reason=pause.reason)
            return
        self.model = BlobRef(**self.position.models["model"])

    @property
    def moments(self) -> Tree | None:
        """The sites' common moments, where the study has them."""
        found = self.position.models.get("moments")
        return None if found is None else StoredTree(BlobRef(**found), self._blobs)

    async def _run_part(self) -> AsyncIterator[Event]:
        part = self._plan.parts[self.position.part]
        if self.position.round_number == 0:
            yield StageStarted(time=self._clock.now(), stage=part.stage, rounds=part.rounds)
        state = self._state(part)
        while self.position.round_number < part.rounds and not (part.stage in ITERATED and part.algorithm.finished(state)):
            async for event in self._round(part, state):
                yield event
            state = self._state(part)
        await self._finish(part, state)

    def _state(self, part: Part) -> Any:
        start = part.initial
        if part.stage == "final":
            start = StoredTree(BlobRef(**self.position.models["model"]), self._blobs)
        state = part.algorithm.init(start)
        return load_state(type(state), self.position.state, self._blobs) if self.position.state else state

    async def _round(self, part: Part, state: Any) -> AsyncIterator[Event]:
        """One attempt at the next round; a lost one is tried again."""
        number, began = self.position.round_number + 1, self._clock.monotonic()
        there = sorted(await self._engine.sites())
        begun = self._begun(part)
        present = tuple(site for site in there if site not in self.position.excluded and (begun is None or site in begun))
        selected = tuple(part.algorithm.select(state, present)) if part.stage in ITERATED else present
        known = {*there, *self.position.excluded}
        away = tuple(_away(site) for site in self._plan.roster if site not in known)
        collected = self._collected = Collected(selected, away=away)
        patience = self._patience(part, selected)
        if not patience.enough(selected):
            raise _Pause(self._too_few(patience.lacking(selected, say("can be asked")), collected.away))
        tasks = await self._aside(self._tasks, part, state, number, selected)
        collected.blobs.update(ref for task in tasks.values() for ref in task.blobs)
        before = Sent.of(self.position.sent)
        collected.traffic = {site: bytes_of(task, before) for site, task in tasks.items()}
        yield RoundStarted(
            time=self._clock.now(), stage=part.stage, round_number=number, rounds=part.rounds, attempt=self.position.attempt, sites=selected
        )
        try:
            async for event in self._way(part).collect(Asked(tasks, patience, part.rounds - number + 1), collected):
                yield event
        except RoundLost as lost:
            yield await self._repeat(part, number, lost, collected)
            return
        if (opening := self._opening(part, state)) is not None and not self._plan.secure:
            collected = await self._aside(opening.each, collected)
        self._require(collected, patience)
        yield await self._step(part, state, Sent.by(tasks, collected.answers), collected, patience, began)

    def _opening(self, part: Part, state: Any) -> Opening | None:
        """How the next round's updates are restored; None where they come whole."""
        if self._plan.compression is None or part.stage != "train":
            return None
        return self._plan.compression.opening(self.position.round_number + 1, part.algorithm.broadcast(state)["model"])

    def _way(self, part: Part) -> Summing:
        """The data contract has no sums."""
        return self._clear if part.stage == "preflight" else self._summing

    async def _repeat(self, part: Part, number: int, lost: RoundLost, collected: Collected) -> Event:
        """Asked anew, with fresh keys, of those who kept to the protocol; after some attempts a person must look."""
        if self.position.lost + 1 >= ATTEMPTS:
            told = say("Round {number} could not be added up in {attempts} attempts: {reason}", number=number, attempts=ATTEMPTS, reason=lost.reason)
            raise _Pause(told)
        self._summing.lose()
        excluded = self._without(lost.without)
        previous = self.position
        self.position = replace(previous, attempt=previous.attempt + 1, lost=previous.lost + 1, excluded=excluded, summing=self._summing.kept)
        await self._checkpoints.save(self.position.document())
        self._forget(previous, collected)
        return RoundRepeated(time=self._clock.now(), stage=part.stage, round_number=number, attempt=self.position.attempt, reason=lost.reason)

    def _without(self, sites: Collection[SiteId]) -> dict[SiteId, str]:
        """Who is not asked again, with these."""
        return {**self.position.excluded, **dict.fromkeys(sorted(sites), mark("it has not kept to the protocol of secure aggregation"))}

    async def _keep_summing(self) -> None:
        """What was decided in the middle of a round is kept before a site hears of it."""
        previous = self.position
        self.position = replace(previous, summing=self._summing.kept)
        await self._checkpoints.save(self.position.document())
        self._forget(previous)

    def _require(self, collected: Collected, patience: Patience) -> None:
        if not patience.enough(collected.answers):
            raise _Pause(self._too_few(patience.lacking(collected.answers, say("answered")), collected.absences()))

    def _patience(self, part: Part, selected: tuple[SiteId, ...]) -> Patience:
        """Of the data contract every answer is wanted; a round of a method that asks fewer sites needs no more than it asks."""
        whole = self._plan.patience
        needed = min(whole.needed, len(selected)) if part.stage in ITERATED and selected else whole.needed
        way = self._way(part)
        return Patience(max(needed, way.needed, len(self._begun(part) or ())), whole.deadline_seconds, way.groups)

    def _begun(self, part: Part) -> Collection[SiteId] | None:
        """The sites of the first round of statistical questions; None before it, and in other stages.

        All later rounds are of these, and of all of them: a mean of three hospitals and the distances of two from it are nobody's variance. To
        begin anew without one that is gone would tell its sums, as the difference of two.
        """
        return self.position.counted if part.stage == "analyse" and self.position.counted else None

    def _too_few(self, found: Said, absent: tuple[Absence, ...]) -> Said:
        reasons = {a.site: a.reason or a.outcome for a in absent}
        reasons |= {site: why for site, why in self.position.excluded.items() if site not in reasons}
        each = [say("{site}: {reason}", site=site, reason=phrase(why)) for site, why in reasons.items()]
        return say("{found}. {reasons}", found=found, reasons=joined(each, "; ")) if each else say("{found}.", found=found)

    def _tasks(self, part: Part, state: Any, number: int, selected: tuple[SiteId, ...]) -> dict[SiteId, Task]:
        inputs: dict[str, BlobRef] = {}
        if part.stage != "preflight":
            inputs = {name: store(leaves, self._blobs) for name, leaves in part.algorithm.broadcast(state).items()}
        if part.stage in ("train", "final") and "moments" in self.position.models:
            inputs["moments"] = BlobRef(**self.position.models["moments"])
        packed = offers(self._plan.downlink, inputs, selected, Sent.of(self.position.sent), self._blobs)
        return {
            site: Task(
                id=task_id(self._plan.digest, part.stage, number, site),
                study=self._plan.digest,
                site=site,
                stage=part.stage,
                round_number=number,
                attempt=self.position.attempt,
                inputs=inputs,
                packed=packed[site],
                counted=self.position.counted.get(site, 0),
            )
            for site in selected
        }

    async def _step(self, part: Part, state: Any, sent: Sent, collected: Collected, patience: Patience, began: float) -> Event:
        if part.stage == "preflight":
            self._exclude(collected)
            advance = Advance(self.position.state)
        else:
            advance = await self._advanced(part, state, collected, patience)
        previous, number, traffic = self.position, self.position.round_number + 1, traffic_of(collected)
        event = RoundFinished(
            time=self._clock.now(),
            stage=part.stage,
            round_number=number,
            rounds=part.rounds,
            attempt=previous.attempt,
            seconds=self._clock.monotonic() - began,
            took_part=tuple(sorted(collected.answers)),
            absent=collected.absences(),
            figures=advance.figures,
            released={site: answer.released for site, answer in sorted(collected.answers.items()) if answer.released},
            bytes_received=sum(one.received for one in traffic.values()),
            bytes_sent=sum(one.sent for one in traffic.values()),
            traffic=traffic,
            secrecy=advance.secrecy,
            model=advance.model,
        )
        self.position = replace(
            previous,
            round_number=number,
            state=advance.state,
            last=event.model_dump(mode="json"),
            counted={**previous.counted, **dict.fromkeys(event.took_part, number)} if part.stage in ITERATED else previous.counted,
            excluded=self._without(collected.without),
            summing=self._summing.kept,
            sent=sent.document(),
            lost=0,
        )
        await self._checkpoints.save(self.position.document())
        self._forget(previous, collected)
        return event

    async def _advanced(self, part: Part, state: Any, collected: Collected, patience: Patience) -> Advance:
        """The step with all updates; where their sum is unusable, without those that are not finite: one odd site must not stop the others."""
        try:
            try:
                return await self._aside(self._advance, part, state, collected)
            except BadUpdate:
                if not await asyncio.to_thread(self._summing.mend, collected):
                    raise
            self._require(collected, patience)
            return await self._aside(self._advance, part, state, collected)
        except AimerError as error:
            raise _Pause(say("The sites' sum cannot be used: {sentence}", sentence=error.sentence)) from None

    @np.errstate(all="ignore")
    def _advance(self, part: Part, state: Any, collected: Collected) -> Advance:
        """What is not finite is refused where it is stored."""
        total = self._summing.total(collected)
        figures = self._plan.figures(total.update.sums)
        if part.stage == "final":
            return Advance(save_state(state, self._blobs), None, figures, total.secrecy)
        opening = self._opening(part, state)
        whole = total.update if opening is None else opening.whole(total.update)
        sums = {name: tree.map(finite, leaves) for name, leaves in whole.sums.items() if name != "metrics"}
        try:
            moved = part.algorithm.update(state, Update(sums))
        except LookupError as error:
            raise BadUpdate(f"The sum lacks {error}.") from None
        document = save_state(moved, self._blobs)
        model = document.get("model") if part.stage == "train" else None
        return Advance(document, BlobRef(**model) if model else None, figures, total.secrecy)

    async def _aside(self, work: Callable[Given, Made], *given: Given.args, **named: Given.kwargs) -> Made:
        """In a thread, so that the loop stays free; at once for a small model, where handing over would take longer than the work."""
        if self._is_small:
            return work(*given, **named)
        return await asyncio.to_thread(work, *given, **named)

    def _exclude(self, collected: Collected) -> None:
        """Who does not meet the data contract, or could not say so, is not asked again; who was only late is."""
        for site, answer in sorted(collected.answers.items()):
            failed = [check for check in answer.checks if check.blocking and not check.passed]
            if failed:
                collected.drop(site, BadData.code, "; ".join(check.finding for check in failed))
        excluded = {absence.site: absence.reason or absence.outcome for absence in collected.absent.values()}
        self.position = replace(self.position, excluded=excluded)

    def _forget(self, previous: Position, collected: Collected | None = None) -> None:
        """Deletes what the round and the state before it have left: a study of a thousand rounds needs the room of one."""
        bases = blobs_of(self.position.sent.get("inputs", {})) if self._plan.downlink == "changes" else set()
        kept = self._plan.keep | bases | blobs_of(self.position.state) | blobs_of(self.position.models) | blobs_of(self.position.summing)
        old = refs_of(previous.state) | refs_of(previous.summing)
        if self.position.sent != previous.sent:
            # Within a round they stay: what it hands out may be what the last one did.
            old |= refs_of(previous.sent.get("inputs", {}))
        if collected is not None:
            old |= collected.blobs
        self._blobs.delete(*(ref for ref in old if ref.sha256 not in kept))

    async def _finish(self, part: Part, state: Any) -> None:
        models = dict(self.position.models)
        if part.stage == "moments" or part.stage in ITERATED:
            models["moments" if part.stage == "moments" else "model"] = store(part.algorithm.model(state), self._blobs).model_dump()
        previous = self.position
        self._summing.close()
        if part.stage == "preflight" and previous.ahead is not None:
            self.position = replace(Position(**previous.ahead), excluded=previous.excluded, last=previous.last)
        else:
            self.position = replace(previous, part=previous.part + 1, round_number=0, state={}, models=models, summing={})
        await self._checkpoints.save(self.position.document())
        self._forget(previous)


def _away(site: SiteId) -> Absence:
    return Absence(site=site, outcome="refused", code=NotApproved.code, reason="it has no approval of this study that holds")
