"""The coordinator's way to a sum without seeing an update: the phases of secure aggregation around a round. The mirror of `secure_update`.

An epoch is set up in two phases ("keys", "shares") and serves several rounds; a round has three ("update", "agree", "reveal"). Whatever was
decided (whose keys, whose shares, whose updates) is kept before a site hears of it, so a coordinator that is killed at any instant goes on
with the same sites. A round that cannot be opened is lost, nothing is learnt, and another attempt has fresh keys.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from aimer2.core.clock import Clock
from aimer2.core.errors import AimerError, BadUpdate
from aimer2.core.protocols import BlobStore, Engine
from aimer2.core.task import Answer, BlobRef, Phase, SiteId, Task
from aimer2.core.update import Update
from aimer2.messages.tensors import read_tree
from aimer2.secure_aggregation.coordinator import Epoch, Opened, Round
from aimer2.secure_aggregation.layout import Layout
from aimer2.secure_aggregation.masking import Unmasked, unmask
from aimer2.secure_aggregation.messages import EpochTerms, RoundTerms, parsed
from aimer2.secure_aggregation.quantisation import limit
from aimer2.secure_aggregation.roster import Roster
from aimer2.study.collect import Collected, Patience, collect
from aimer2.study.events import Absence, Event, ReplyReceived, Secrecy
from aimer2.study.secure_update import MaskedUpdate, Request, layout_in
from aimer2.study.summing import Asked, RoundLost, Total

MOST_ROUNDS = 32
"""Rounds that one set-up serves at most."""

MOST_ROUNDS_WITHOUT = 8
"""Rounds until a site that can be asked, but missed the set-up, gets another one: so long its patients are not in the sums."""

_SHARES = 640
"""Shares that one site deals at most in a set-up: more sites, fewer rounds, so that what it sends stays small."""

_SET_UP_SECONDS, _OPENING_SECONDS = 60.0, 10.0
"""How long those phases wait for all, once enough have answered: they cost a site milliseconds."""

_HEADROOM = 4.0
"""The next round's range of a leaf, as a multiple of the sum of the sites' largest magnitudes in this one."""

_TINY = 1e-100
"""A range below this is none: what is always 0 is summed with all its bits."""

_SMALL = 1024
"""Elements up to which a leaf has no range: exact at four times the bytes, which is little, and a few numbers can grow by any factor."""

Save = Callable[[], Awaitable[None]]


@final
@dataclass(slots=True)
class _Open:
    """A round whose survivors are fixed."""

    round: Round
    layout: Layout
    opened: Opened | None = None


@final
@dataclass(slots=True)
class _Heard:
    """What the sites said in one phase."""

    said: dict[SiteId, str] = field(default_factory=dict)
    absent: dict[SiteId, Absence] = field(default_factory=dict)


@final
class SecureSum:
    """One study's secure aggregation; ``save`` makes what is kept durable."""

    def __init__(self, roster: Roster, engine: Engine, blobs: BlobStore, clock: Clock, save: Save) -> None:
        self._roster = roster
        self._engine = engine
        self._blobs = blobs
        self._clock = clock
        self._save = save
        self.kept: Mapping[str, Any] = {}
        self._epoch: Epoch | None = None
        self._open: _Open | None = None
        self._is_continued = False

    @property
    def needed(self) -> int:
        return self._roster.least

    def resume(self, kept: Mapping[str, Any]) -> None:
        self.kept = kept
        self._epoch = self._open = None
        # What was asked before this process began was asked under these keys: for that round they stay.
        self._is_continued = "epoch" in kept

    def close(self) -> None:
        self.resume({})

    def lose(self) -> None:
        self.resume({"ranges": self.kept.get("ranges", {})})

    async def collect(self, asked: Asked, collected: Collected) -> AsyncIterator[Event]:
        """An answer is counted only once its update can be opened with the others."""
        if "round" in self.kept:
            self._reopen(collected)
        else:
            async for event in self._set_up(asked):
                yield event
            self._leave_out(collected)
            async for event in self._updates(asked, collected):
                yield event
            if len(collected.answers) < asked.patience.needed:
                return
            await self._fix(asked, collected)
            if self._open is None:
                return
        async for event in self._opening(asked):
            yield event

    def total(self, collected: Collected) -> Total:
        """Holds the sum, and reads the masked updates once."""
        assert self._open is not None and self._open.opened is not None
        round_, layout, opened = self._open.round, self._open.layout, self._open.opened
        uploads = [collected.updates[site].sums for site in round_.uploads]
        found = unmask(uploads, layout, round_.context, opened.own, opened.plus, opened.minus)
        ranges = _ranges(layout, found, self.kept["ranges"])
        settled = sorted({*self.kept["settled"], *round_.uploads})
        self.kept = {name: value for name, value in self.kept.items() if name != "round"} | {"ranges": ranges, "settled": settled}
        self._open, self._is_continued = None, False
        return Total(Update(found.sums), Secrecy(saturated=found.saturated, error=_error(layout, found, len(uploads))))

    def mend(self, collected: Collected) -> bool:
        """Nobody can tell whose update it was."""
        return False

    # set-up

    async def _set_up(self, asked: Asked) -> AsyncIterator[Event]:
        """The epoch that serves this round: the present one, unless a site has come that was not there when it was set up."""
        first = next(iter(asked.tasks.values()))
        if "epoch" in self.kept and self._epoch is None:
            self._epoch = Epoch.resume(self._roster, self._document("epoch"))
        epoch = self._epoch
        serves = epoch is not None and (epoch.terms.stage, epoch.terms.attempt) == (first.stage, first.attempt)
        if epoch is None or not serves or first.round_number not in epoch.terms or self._is_due(epoch, asked, first.round_number):
            rounds = max(1, min(MOST_ROUNDS, asked.rounds_left, _SHARES // (2 * len(self._roster.members))))
            terms = EpochTerms(stage=first.stage, attempt=first.attempt, first_round=first.round_number, rounds=rounds)
            epoch = self._epoch = Epoch(self._roster, terms)
            self.kept = {"ranges": self.kept.get("ranges", {}), "asked": sorted(asked.tasks), "settled": [], "absent": {}}
        if not epoch.has_keys:
            async for event in self._decide(epoch, asked, "keys", dict.fromkeys(asked.tasks, ""), epoch.collect_keys):
                yield event
        if not epoch.members:
            async for event in self._decide(epoch, asked, "shares", epoch.key_messages(), epoch.collect_shares):
                yield event

    def _is_due(self, epoch: Epoch, asked: Asked, round_number: int) -> bool:
        """Whether a site waits for a set-up: one that has come since, or one that missed it."""
        if self._is_continued or not epoch.members:
            return False
        has_come = not asked.tasks.keys() <= set(self.kept["asked"])
        has_missed_it = not asked.tasks.keys() <= set(epoch.members)
        return has_come or (has_missed_it and round_number >= epoch.terms.first_round + MOST_ROUNDS_WITHOUT)

    async def _decide(
        self, epoch: Epoch, asked: Asked, phase: Phase, content: Mapping[SiteId, str], take: Callable[[Mapping[SiteId, str]], Any]
    ) -> AsyncIterator[Event]:
        """One phase of the set-up; what came of it is kept before anybody hears of it."""
        requests = {site: Request(epoch=epoch.terms, content=text) for site, text in content.items() if site in asked.tasks}
        heard = _Heard()
        async for event in self._phase(phase, asked, requests, Patience(self.needed, _within(asked, _SET_UP_SECONDS)), heard):
            yield event
        try:
            take(heard.said)
        except AimerError as error:
            raise RoundLost(_told(error, heard)) from None
        absent = {site: one.model_dump() for site, one in heard.absent.items()}
        dropped = {site: Absence(site=site, outcome="failed", code=BadUpdate.code, reason=why).model_dump() for site, why in epoch.dropped.items()}
        self._keep("epoch", epoch.document())
        self.kept = {**self.kept, "absent": {**self.kept["absent"], **absent, **dropped}}
        await self._save()

    def _leave_out(self, collected: Collected) -> None:
        """Who has no part in the set-up has none in its rounds."""
        assert self._epoch is not None
        for site in collected.asked:
            if site not in self._epoch.members:
                told = self.kept["absent"].get(site)
                collected.absent[site] = Absence(**told) if told else Absence(site=site, outcome="late", reason="it was away from the set-up")

    # a round

    async def _updates(self, asked: Asked, collected: Collected) -> AsyncIterator[Event]:
        assert self._epoch is not None
        members = [site for site in self._epoch.members if site in asked.tasks]
        shares = self._epoch.share_messages([site for site in members if site not in self.kept["settled"]])
        requests = {site: Request(epoch=self._epoch.terms, content=shares.get(site, ""), ranges=self.kept["ranges"]) for site in members}
        tasks = {site: asked.tasks[site].model_copy(update={"message": request.model_dump_json()}) for site, request in requests.items()}
        async for event in collect(self._engine, tasks, collected, asked.patience, self._blobs, self._clock):
            yield event

    async def _fix(self, asked: Asked, collected: Collected) -> None:
        """The survivors: from here on the round is the sum of their updates, or lost. With fewer than are wanted nothing is opened."""
        assert self._epoch is not None
        messages = _messages(collected)
        layout = _common_layout(messages, collected)
        inputs = {name: ref.sha256 for name, ref in next(iter(asked.tasks.values())).inputs.items()}
        number = next(iter(asked.tasks.values())).round_number
        round_ = self._epoch.start(RoundTerms(round_number=number, inputs=inputs, layout=layout.digest()))
        signed = {site: messages[site].signed for site in collected.answers}
        uploads = {site: {name: ref.sha256 for name, ref in answer.sums.items()} for site, answer in collected.answers.items()}
        try:
            round_.collect_updates(signed, uploads)
        except AimerError as error:
            raise RoundLost(f"{error.sentence} {_reasons(round_.dropped)}", round_.dropped) from None
        for site, why in round_.dropped.items():
            collected.drop(site, BadUpdate.code, why)
        if len(collected.answers) < asked.patience.needed:
            return
        self._open = _Open(round_, layout)
        answers = {site: answer.model_dump(mode="json") for site, answer in collected.answers.items()}
        absent = [absence.model_dump(mode="json") for absence in collected.absences()]
        self._keep("round", {"round": round_.document(), "layout": layout.document(), "answers": answers, "absent": absent})
        await self._save()

    def _reopen(self, collected: Collected) -> None:
        """The round whose survivors were fixed before this process began."""
        document = self._document("round")
        if self._epoch is None:
            self._epoch = Epoch.resume(self._roster, self._document("epoch"))
        self._open = _Open(Round.resume(self._epoch, document["round"]), Layout.of_document(document["layout"]))
        for site, told in document["answers"].items():
            answer = collected.answers[site] = Answer.model_validate(told)
            collected.blobs.update(answer.sums.values())
            collected.updates[site] = Update({name: read_tree(self._blobs.open(ref), lazy=True) for name, ref in answer.sums.items()})
        collected.absent.update({told["site"]: Absence(**told) for told in document["absent"] if told["site"] in collected.asked})

    async def _opening(self, asked: Asked) -> AsyncIterator[Event]:
        """All survivors sign the set; those who signed reveal. As soon as enough have, a short while is given to the others."""
        assert self._open is not None
        round_ = self._open.round
        patience = Patience(self._roster.threshold, _within(asked, _OPENING_SECONDS))
        heard: dict[Phase, _Heard] = {"agree": _Heard(), "reveal": _Heard()}
        async for event in self._phase("agree", asked, self._requests(round_.survivor_messages()), patience, heard["agree"]):
            yield event
        try:
            messages = round_.collect_agreements(heard["agree"].said)
            async for event in self._phase("reveal", asked, self._requests(messages), patience, heard["reveal"]):
                yield event
            self._open.opened = round_.collect_reveals(heard["reveal"].said)
        except AimerError as error:
            told = _told(error, heard["reveal"] if heard["reveal"].said else heard["agree"])
            raise RoundLost(told, round_.dropped) from None

    def _requests(self, messages: Mapping[SiteId, str]) -> dict[SiteId, Request]:
        assert self._open is not None
        round_ = self._open.round
        return {site: Request(epoch=round_.epoch.terms, round=round_.terms, content=text) for site, text in messages.items()}

    async def _phase(self, phase: Phase, asked: Asked, requests: Mapping[SiteId, Request], patience: Patience, heard: _Heard) -> AsyncIterator[Event]:
        """One phase without data. That a site has answered is no event: it has not trained, it has only spoken."""
        tasks = {site: _spoken(asked.tasks[site], phase, request) for site, request in requests.items() if site in asked.tasks}
        collected = Collected(tuple(tasks))
        async for event in collect(self._engine, tasks, collected, patience, self._blobs, self._clock):
            if not (isinstance(event, ReplyReceived) and event.outcome == "answer"):
                yield event
        heard.said.update({site: answer.message for site, answer in collected.answers.items()})
        heard.absent.update({absence.site: absence for absence in collected.absences()})

    # what is kept

    def _keep(self, name: str, document: Mapping[str, Any]) -> None:
        writer = self._blobs.create()
        writer.write(json.dumps(document).encode())
        self.kept = {**self.kept, name: writer.commit().model_dump()}

    def _document(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(bytes(self._blobs.open(BlobRef(**self.kept[name])).view()))
        return document


def _spoken(task: Task, phase: Phase, request: Request) -> Task:
    return task.model_copy(update={"id": f"{task.id}-{phase}", "phase": phase, "inputs": {}, "message": request.model_dump_json()})


def _within(asked: Asked, seconds: float) -> float:
    return min(asked.patience.deadline_seconds, seconds)


def _messages(collected: Collected) -> dict[SiteId, MaskedUpdate]:
    """What the answers say; one that says nothing of the kind is dropped."""
    messages = {}
    for site, answer in sorted(collected.answers.items()):
        try:
            messages[site] = parsed(answer.message, MaskedUpdate)
            layout_in(messages[site])
        except AimerError as error:
            collected.drop(site, error.code, error.sentence)
    return {site: message for site, message in messages.items() if site in collected.answers}


def _common_layout(messages: Mapping[SiteId, MaskedUpdate], collected: Collected) -> Layout:
    """The layout that most sites have; who has another is dropped, as its words cannot be added to the others'."""
    if not messages:
        raise RoundLost("No site handed in a masked update.")
    layouts = {site: layout_in(message) for site, message in messages.items()}
    digests = {site: layout.digest() for site, layout in layouts.items()}
    common, _ = Counter(digests[site] for site in sorted(digests)).most_common(1)[0]
    for site, digest in digests.items():
        if digest != common:
            collected.drop(site, BadUpdate.code, "its update has other names, shapes or ranges than the other sites'")
    return next(layouts[site] for site, digest in digests.items() if digest == common)


def _ranges(layout: Layout, found: Unmasked, before: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Of the next round; a range shrinks by half at most."""
    ranges: dict[str, dict[str, float]] = {}
    for leaf in layout.leaves:
        largest = found.largest.get(leaf.sum, {}).get(leaf.name, 0.0)
        known = max(_HEADROOM * largest, before.get(leaf.sum, {}).get(leaf.name, 0.0) / 2)
        if leaf.size > _SMALL and known > _TINY:
            ranges.setdefault(leaf.sum, {})[leaf.name] = known
    return ranges


def _error(layout: Layout, found: Unmasked, sites: int) -> float:
    """The most that rounding can have moved a coordinate of the sum, relative to the sum of the sites' largest magnitudes of that leaf."""
    worst = 0.0
    for leaf in layout.leaves:
        largest = found.largest.get(leaf.sum, {}).get(leaf.name, 0.0)
        if leaf.range is not None and largest > 0:
            step = leaf.range / limit(leaf.bits, layout.sites)
            worst = max(worst, sites * step / 2 / largest)
    return worst


def _reasons(dropped: Mapping[SiteId, str]) -> str:
    return "; ".join(f"{site}: {why}" for site, why in sorted(dropped.items()))


def _told(error: AimerError, heard: _Heard) -> str:
    reasons = _reasons({site: absence.reason or absence.outcome for site, absence in heard.absent.items()})
    return f"{error.sentence} {reasons}".strip()
