"""The coordinator's side of one group of sites whose updates are added in secret: its set-up, its round, and what of both is kept.

It asks nobody and waits for nobody: `secure_sum` carries its requests to the sites and the answers back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from aimer2.core.errors import AimerError, BadUpdate, NotAvailable, VersionMismatch
from aimer2.core.protocols import BlobStore
from aimer2.core.said import joined, phrase, say
from aimer2.core.task import Answer, BlobRef, Phase, SiteId, Task
from aimer2.core.update import Update
from aimer2.messages.tensors import read_tree
from aimer2.secure_aggregation.coordinator import Epoch, Opened, Round
from aimer2.secure_aggregation.layout import FEW, Layout
from aimer2.secure_aggregation.masking import Unmasked, unmask
from aimer2.secure_aggregation.messages import EpochTerms, RoundTerms, parsed
from aimer2.secure_aggregation.quantisation import limit
from aimer2.secure_aggregation.roster import Roster
from aimer2.study.collect import Collected
from aimer2.study.events import Absence, Secrecy
from aimer2.study.secure_update import MaskedUpdate, Request, layout_in
from aimer2.study.summing import Asked, RoundLost

MOST_ROUNDS = 32
"""Rounds that one set-up serves at most."""

MOST_ROUNDS_WITHOUT = 8
"""Rounds until a site that can be asked, but missed the set-up, gets another one: so long its patients are not in the sums."""

_SHARES = 640
"""Shares that one site deals at most in a set-up: more sites, fewer rounds, so that what it sends stays small."""

_HEADROOM = 4.0
"""The next round's range of a leaf, as a multiple of the sum of the sites' largest magnitudes in this one."""

_TINY = 1e-100
"""A range below this is none: what is always 0 is summed with all its bits."""


@final
@dataclass(slots=True)
class Heard:
    """What the sites said in one phase."""

    said: dict[SiteId, str] = field(default_factory=dict)
    absent: dict[SiteId, Absence] = field(default_factory=dict)

    def of(self, sites: Mapping[SiteId, Any]) -> Heard:
        """What these sites said."""
        return Heard({s: text for s, text in self.said.items() if s in sites}, {s: why for s, why in self.absent.items() if s in sites})


@final
@dataclass(slots=True)
class _Open:
    """A round whose survivors are fixed."""

    round: Round
    layout: Layout
    opened: Opened | None = None


@final
class Group:
    """``kept`` is what must outlive this process; ``lost``: why its sum of the present round cannot be made."""

    def __init__(self, roster: Roster, blobs: BlobStore) -> None:
        self.roster = roster
        self._blobs = blobs
        self.kept: Mapping[str, Any] = {}
        self._epoch: Epoch | None = None
        self._open: _Open | None = None
        self._is_continued = False

    def resume(self, kept: Mapping[str, Any]) -> None:
        self.kept = kept
        self._epoch = self._open = None
        # What was asked before this process began was asked under these keys: for that round they stay.
        self._is_continued = "epoch" in kept

    def lose(self, why: str = "") -> None:
        """The next round begins with fresh keys; of this one nothing more is asked, where the reason is given."""
        self.resume({"ranges": self.kept.get("ranges", {})} | ({"lost": why} if why else {}))

    @property
    def lost(self) -> str:
        return str(self.kept.get("lost", ""))

    @property
    def is_fixed(self) -> bool:
        """Whether its survivors are decided, now or before this process began."""
        return "round" in self.kept

    # set-up

    def begin(self, asked: Asked) -> None:
        """The epoch that serves this round: the present one, unless a site has come that was not there when it was set up. Raises RoundLost."""
        tasks = self.tasks(asked)
        first = next(iter(asked.tasks.values()))
        if "epoch" in self.kept and self._epoch is None:
            self._epoch = self._kept_epoch()
        epoch = self._epoch
        serves = epoch is not None and (epoch.terms.stage, epoch.terms.attempt) == (first.stage, first.attempt)
        if epoch is None or not serves or first.round_number not in epoch.terms or self._is_due(epoch, tasks, first.round_number):
            rounds = max(1, min(MOST_ROUNDS, asked.rounds_left, _SHARES // (2 * len(self.roster.members))))
            terms = EpochTerms(stage=first.stage, attempt=first.attempt, first_round=first.round_number, rounds=rounds)
            self._epoch = Epoch(self.roster, terms)
            self.kept = {"ranges": self.kept.get("ranges", {}), "asked": sorted(tasks), "settled": [], "absent": {}}

    def tasks(self, asked: Asked) -> dict[SiteId, Task]:
        """Those of its sites."""
        return {site: task for site, task in asked.tasks.items() if site in self.roster.members}

    def needs(self, phase: Phase) -> bool:
        """Whether this phase of the set-up is still to come."""
        return not self.epoch.has_keys if phase == "keys" else not self.epoch.members

    def set_up_requests(self, phase: Phase, asked: Asked) -> dict[SiteId, Request]:
        tasks, epoch = self.tasks(asked), self.epoch
        content = dict.fromkeys(tasks, "") if phase == "keys" else epoch.key_messages()
        return {site: Request(epoch=epoch.terms, content=text) for site, text in content.items() if site in tasks}

    def take_set_up(self, phase: Phase, heard: Heard) -> None:
        """What came of a phase of the set-up; to be kept before anybody hears of it. Raises RoundLost."""
        epoch, heard = self.epoch, heard.of(self.roster.members)
        try:
            (epoch.collect_keys if phase == "keys" else epoch.collect_shares)(heard.said)
        except AimerError as error:
            raise RoundLost(_told(error, heard)) from None
        absent = {site: one.model_dump() for site, one in heard.absent.items()}
        dropped = {site: Absence(site=site, outcome="failed", code=BadUpdate.code, reason=why).model_dump() for site, why in epoch.dropped.items()}
        self._keep("epoch", epoch.document())
        self.kept = {**self.kept, "absent": {**self.kept["absent"], **absent, **dropped}}

    def leave_out(self, collected: Collected) -> None:
        """Who has no part in the set-up has none in its rounds."""
        for site in self._asked_in(collected):
            if site not in self.epoch.members:
                told = self.kept["absent"].get(site)
                collected.absent[site] = Absence(**told) if told else Absence(site=site, outcome="late", reason="it was away from the set-up")

    @property
    def epoch(self) -> Epoch:
        assert self._epoch is not None
        return self._epoch

    def _is_due(self, epoch: Epoch, tasks: Mapping[SiteId, Task], round_number: int) -> bool:
        """Whether a site waits for a set-up: one that has come since, or one that missed it."""
        if self._is_continued or not epoch.members:
            return False
        has_come = not tasks.keys() <= set(self.kept["asked"])
        has_missed_it = not tasks.keys() <= set(epoch.members)
        return has_come or (has_missed_it and round_number >= epoch.terms.first_round + MOST_ROUNDS_WITHOUT)

    # a round

    def update_requests(self, asked: Asked) -> dict[SiteId, Request]:
        members = [site for site in self.epoch.members if site in asked.tasks]
        shares = self.epoch.share_messages([site for site in members if site not in self.kept["settled"]])
        return {site: Request(epoch=self.epoch.terms, content=shares.get(site, ""), ranges=self.kept["ranges"]) for site in members}

    def fix(self, asked: Asked, collected: Collected) -> None:
        """The survivors: from `keep` on the round is the sum of their updates, or lost. Raises RoundLost."""
        answers = {site: answer for site, answer in collected.answers.items() if site in self.roster.members}
        messages = _messages(answers, collected)
        layout = _common_layout(messages, collected)
        answers = {site: answer for site, answer in answers.items() if site in collected.answers}
        first = next(iter(asked.tasks.values()))
        inputs = {name: ref.sha256 for name, ref in first.inputs.items()}
        round_ = self.epoch.start(RoundTerms(round_number=first.round_number, inputs=inputs, layout=layout.digest()))
        uploads = {site: {name: ref.sha256 for name, ref in answer.sums.items()} for site, answer in answers.items()}
        try:
            round_.collect_updates({site: messages[site].signed for site in answers}, uploads)
        except AimerError as error:
            raise RoundLost(say("{sentence} {dropped}", sentence=error.sentence, dropped=_reasons(round_.dropped)), round_.dropped) from None
        for site, why in round_.dropped.items():
            collected.drop(site, BadUpdate.code, why)
        self._open = _Open(round_, layout)

    @property
    def form(self) -> tuple[tuple[str, str, tuple[int, ...], str], ...]:
        """Names, shapes and types of the sum, once it is fixed."""
        return tuple((leaf.sum, leaf.name, leaf.shape, leaf.dtype) for leaf in self._opening.layout.leaves)

    def keep(self, collected: Collected) -> None:
        """What was fixed, in what is kept."""
        opening, sites = self._opening, self.roster.members
        answers = {site: answer.model_dump(mode="json") for site, answer in collected.answers.items() if site in sites}
        absent = [absence.model_dump(mode="json") for absence in collected.absences() if absence.site in sites]
        self._keep("round", {"round": opening.round.document(), "layout": opening.layout.document(), "answers": answers, "absent": absent})

    def unfix(self) -> None:
        """Nothing is opened after all: too few are fixed."""
        self._open = None

    def reopen(self, collected: Collected) -> None:
        """The round whose survivors were fixed before this process began. Raises RoundLost."""
        document = self._document("round")
        if self._epoch is None:
            self._epoch = self._kept_epoch()
        self._open = _Open(Round.resume(self._epoch, document["round"]), Layout.of_document(document["layout"]))
        for site, told in document["answers"].items():
            answer = collected.answers[site] = Answer.model_validate(told)
            collected.blobs.update(answer.sums.values())
            collected.updates[site] = Update({name: read_tree(self._blobs.open(ref), lazy=True) for name, ref in answer.sums.items()})
        collected.absent.update({told["site"]: Absence(**told) for told in document["absent"] if told["site"] in collected.asked})

    def agree_requests(self) -> dict[SiteId, Request]:
        return self._requests(self._opening.round.survivor_messages())

    def reveal_requests(self, agreed: Heard) -> dict[SiteId, Request]:
        """Raises RoundLost."""
        round_, agreed = self._opening.round, agreed.of(self.roster.members)
        try:
            return self._requests(round_.collect_agreements(agreed.said))
        except AimerError as error:
            raise RoundLost(_told(error, agreed), round_.dropped) from None

    def has_threshold(self, revealed: Heard) -> bool:
        """Whether so many have revealed as can open its sum."""
        return len(revealed.of(self.roster.members).said) >= self.roster.threshold

    def opens(self, revealed: Heard) -> bool:
        """Whether these shares open its sum; where they do not, more may."""
        opening = self._opening
        blamed = dict(opening.round.dropped)
        try:
            opening.opened = opening.round.collect_reveals(revealed.of(self.roster.members).said)
        except AimerError:
            opening.round.dropped = blamed
        return opening.opened is not None

    def take_reveals(self, agreed: Heard, revealed: Heard) -> None:
        """Raises RoundLost."""
        opening, heard = self._opening, revealed.of(self.roster.members)
        if opening.opened is not None:
            return
        try:
            opening.opened = opening.round.collect_reveals(heard.said)
        except AimerError as error:
            raise RoundLost(_told(error, heard if heard.said else agreed.of(self.roster.members)), opening.round.dropped) from None

    def total(self, collected: Collected) -> tuple[Update, Secrecy]:
        """Holds the sum, and reads the masked updates once."""
        round_, layout, opened = self._opening.round, self._opening.layout, self._opening.opened
        assert opened is not None
        uploads = [collected.updates[site].sums for site in round_.uploads]
        found = unmask(uploads, layout, round_.context, opened.own, opened.plus, opened.minus)
        ranges = _ranges(layout, found, self.kept["ranges"])
        settled = sorted({*self.kept["settled"], *round_.uploads})
        self.kept = {name: value for name, value in self.kept.items() if name != "round"} | {"ranges": ranges, "settled": settled}
        self._open, self._is_continued = None, False
        return Update(found.sums), Secrecy(saturated=found.saturated, error=_error(layout, found, len(uploads)))

    def drop(self, collected: Collected, why: str) -> None:
        """All of its sites are out of this round."""
        reason = say("the sum of its group could not be made: {why}", why=why)
        for site in self._asked_in(collected):
            if site in collected.answers:
                collected.drop(site, NotAvailable.code, reason)
            elif site not in collected.absent:
                collected.absent[site] = Absence(site=site, outcome="failed", code=NotAvailable.code, reason=reason)

    @property
    def _opening(self) -> _Open:
        assert self._open is not None
        return self._open

    def _requests(self, messages: Mapping[SiteId, str]) -> dict[SiteId, Request]:
        round_ = self._opening.round
        return {site: Request(epoch=round_.epoch.terms, round=round_.terms, content=text) for site, text in messages.items()}

    def _asked_in(self, collected: Collected) -> list[SiteId]:
        return [site for site in collected.asked if site in self.roster.members]

    # what is kept

    def _keep(self, name: str, document: Mapping[str, Any]) -> None:
        writer = self._blobs.create()
        writer.write(json.dumps(document).encode())
        self.kept = {**self.kept, name: writer.commit().model_dump()}

    def _kept_epoch(self) -> Epoch:
        """Raises RoundLost for what another version has kept: its sites' messages cannot be read, and fresh keys are set up."""
        try:
            return Epoch.resume(self.roster, self._document("epoch"))
        except VersionMismatch as error:
            raise RoundLost(error.sentence) from None

    def _document(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(bytes(self._blobs.open(BlobRef(**self.kept[name])).view()))
        return document


def _messages(answers: Mapping[SiteId, Answer], collected: Collected) -> dict[SiteId, MaskedUpdate]:
    """What the answers say; one that says nothing of the kind is dropped."""
    messages = {}
    for site, answer in sorted(answers.items()):
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
        if leaf.size > FEW and known > _TINY:
            ranges.setdefault(leaf.sum, {})[leaf.name] = known
    return ranges


def _error(layout: Layout, found: Unmasked, sites: int) -> float:
    """The most that rounding can have moved a coordinate of the sum, relative to the sum of the sites' largest magnitudes of that leaf."""
    worst = 0.0
    for leaf in layout.leaves:
        largest = found.largest.get(leaf.sum, {}).get(leaf.name, 0.0)
        if leaf.reach is not None and largest > 0:
            step = leaf.reach / limit(leaf.bits, layout.sites)
            worst = max(worst, sites * step / 2 / largest)
    return worst


def _reasons(dropped: Mapping[SiteId, str]) -> str:
    return joined([say("{site}: {reason}", site=site, reason=phrase(why)) for site, why in sorted(dropped.items())], "; ")


def _told(error: AimerError, heard: Heard) -> str:
    reasons = _reasons({site: absence.reason or absence.outcome for site, absence in heard.absent.items()})
    return joined([error.sentence, reasons]) if reasons else error.sentence
