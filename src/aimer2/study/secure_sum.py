"""The coordinator's way to a sum without seeing an update: the phases of secure aggregation around a round. The mirror of `secure_update`.

An epoch is set up in two phases ("keys", "shares") and serves several rounds; a round has three ("update", "agree", "reveal"). Whatever was
decided (whose keys, whose shares, whose updates) is kept before a site hears of it, so a coordinator that is killed at any instant goes on
with the same sites. A round that cannot be opened is lost, nothing is learnt, and another attempt has fresh keys.

The sites are one group, or several (`secure_aggregation.groups`), each with a protocol of its own: then their sums are what the study's
aggregator combines. All groups go through a phase together. One that falls below its threshold is lost in that round, with all its sites; the
others go on as long as they are enough, and no sum is opened before it is known that they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, final

from aimer2.core.clock import Clock
from aimer2.core.protocols import Aggregator, BlobStore, Engine
from aimer2.core.said import Said, joined, mark, phrase, say
from aimer2.core.task import SET_UP, Phase, SiteId, Task, task_id
from aimer2.secure_aggregation.roster import Roster
from aimer2.study.collect import Collected, collect
from aimer2.study.events import Event, ReplyReceived, Secrecy
from aimer2.study.quorum import Groups, Patience
from aimer2.study.secure_group import Group, Heard
from aimer2.study.secure_update import Request
from aimer2.study.summing import Asked, RoundLost, Total

_SET_UP_SECONDS, _OPENING_SECONDS = 60.0, 10.0
"""How long those phases wait for all, once enough have answered: they cost a site milliseconds. With several groups a site that is late costs
its whole group, so the opening waits as long as the set-up."""

Save = Callable[[], Awaitable[None]]


@final
class SecureSum:
    """One study's secure aggregation; ``save`` makes what is kept durable. ``aggregator``: what makes one sum of several groups'."""

    def __init__(
        self, rosters: Sequence[Roster], aggregator: Aggregator, engine: Engine, blobs: BlobStore, clock: Clock, save: Save, *, groups_needed: int = 1
    ) -> None:
        self._all = tuple(Group(roster, blobs) for roster in rosters)
        self._aggregator = aggregator
        self._engine = engine
        self._blobs = blobs
        self._clock = clock
        self._save = save
        self.groups = _groups(self._all, groups_needed, lambda roster: roster.least)

    @property
    def needed(self) -> int:
        return self.groups.sites_needed()

    @property
    def kept(self) -> Mapping[str, Any]:
        return {f"{number}.{name}": value for number, group in enumerate(self._all) for name, value in group.kept.items()}

    def resume(self, kept: Mapping[str, Any]) -> None:
        for number, group in enumerate(self._all):
            group.resume({name.partition(".")[2]: value for name, value in kept.items() if name.partition(".")[0] == str(number)})

    def close(self) -> None:
        self.resume({})

    def lose(self) -> None:
        for group in self._all:
            group.lose()

    async def collect(self, asked: Asked, collected: Collected) -> AsyncIterator[Event]:
        """An answer is counted only once its update can be opened with the others."""
        for group in self._all:
            if group.lost:
                group.drop(collected, group.lost)
            elif group.is_fixed:
                group.reopen(collected)
        fresh = [group for group in self._here if not group.is_fixed]
        if fresh:
            async for event in self._set_up(asked, fresh, collected):
                yield event
            fresh = [group for group in fresh if not group.lost]
            async for event in self._updates(asked, fresh, collected):
                yield event
            if not asked.patience.enough(collected.answers):
                return
            self._fix(asked, fresh, collected)
            if not asked.patience.enough(collected.answers):
                for group in fresh:
                    group.unfix()
                return
            for group in self._still(fresh):
                group.keep(collected)
            await self._save()
        async for event in self._opening(asked, collected):
            yield event

    def total(self, collected: Collected) -> Total:
        """Holds the groups' sums, and reads the masked updates once."""
        found = [group.total(collected) for group in self._here]
        for group in self._all:
            if group.lost:
                group.lose()
        secrecy = Secrecy(saturated=sum(one.saturated for _, one in found), error=max(one.error for _, one in found))
        sums = [update for update, _ in found]
        return Total(sums[0] if len(self._all) == 1 else self._aggregator(sums), secrecy)

    def mend(self, collected: Collected) -> bool:
        """Nobody can tell whose update it was."""
        return False

    @property
    def _here(self) -> list[Group]:
        """The groups that are not lost in this round."""
        return self._still(self._all)

    def _still(self, groups: Iterable[Group]) -> list[Group]:
        return [group for group in groups if not group.lost]

    # phases

    async def _set_up(self, asked: Asked, fresh: Sequence[Group], collected: Collected) -> AsyncIterator[Event]:
        for group in fresh:
            group.begin(asked)
        for phase in SET_UP:
            due = [group for group in self._still(fresh) if group.needs(phase)]
            if due:
                async for event in self._decide(phase, asked, due, collected):
                    yield event
        for group in self._still(fresh):
            group.leave_out(collected)

    async def _decide(self, phase: Phase, asked: Asked, due: Sequence[Group], collected: Collected) -> AsyncIterator[Event]:
        """One phase of the set-up; what came of it is kept before anybody hears of it."""
        patience, heard = self._patience(asked, _SET_UP_SECONDS, due, lambda roster: roster.least), Heard()
        async for event in self._phase(phase, asked, [group.set_up_requests(phase, asked) for group in due], patience, heard):
            yield event
        self._each(due, collected, lambda group: group.take_set_up(phase, heard))
        await self._save()

    async def _updates(self, asked: Asked, fresh: Sequence[Group], collected: Collected) -> AsyncIterator[Event]:
        requests = {site: request for group in fresh for site, request in group.update_requests(asked).items()}
        tasks = {site: asked.tasks[site].model_copy(update={"message": request.model_dump_json()}) for site, request in requests.items()}
        if tasks:
            async for event in collect(self._engine, tasks, collected, asked.patience, self._blobs, self._clock):
                yield event

    def _fix(self, asked: Asked, fresh: Sequence[Group], collected: Collected) -> None:
        """Of each group the survivors, where they are enough and their sums are of the form that most groups' have."""
        complete = {self.groups.members[number] for number in self.groups.complete(collected.answers)}
        for group in fresh:
            if frozenset(group.roster.members) not in complete:
                self._lose(group, collected, RoundLost(mark("too few of its sites answered")))
        self._each(self._still(fresh), collected, lambda group: group.fix(asked, collected))
        forms = {group: group.form for group in self._here}
        common, _ = Counter(forms.values()).most_common(1)[0]
        for group, form in forms.items():
            if form != common:
                self._lose(group, collected, RoundLost(mark("it has other names or shapes than those of most groups")))

    async def _opening(self, asked: Asked, collected: Collected) -> AsyncIterator[Event]:
        """All survivors sign the set; as soon as enough have, a short while is given to the others. Who signed reveals, until the sum is open."""
        seconds = _OPENING_SECONDS if len(self._all) == 1 else _SET_UP_SECONDS
        agreed, revealed = Heard(), Heard()
        here = self._here
        patience = self._patience(asked, seconds, here, lambda roster: roster.threshold)
        async for event in self._phase("agree", asked, [group.agree_requests() for group in here], patience, agreed):
            yield event
        requests: list[dict[SiteId, Request]] = []
        self._each(here, collected, lambda group: requests.append(group.reveal_requests(agreed)))
        _require(asked, collected)  # before anything is opened
        here = self._still(here)
        patience, are_open = self._patience(asked, seconds, here, lambda roster: roster.threshold), _Opening(here)
        async for event in self._phase("reveal", asked, requests, patience, revealed, are_open):
            yield event
        self._each(here, collected, lambda group: group.take_reveals(agreed, revealed))
        _require(asked, collected)

    def _each(self, groups: Sequence[Group], collected: Collected, work: Callable[[Group], None]) -> None:
        """The same for each group; one where it fails is lost. Raises RoundLost where too few are left."""
        for group in groups:
            try:
                work(group)
            except RoundLost as lost:
                self._lose(group, collected, lost)

    def _lose(self, group: Group, collected: Collected, lost: RoundLost) -> None:
        """Raises RoundLost where too few groups are left."""
        if len(self._here) <= self.groups.needed:
            told = [_of(other, other.lost) for other in self._all if other.lost]
            raise RoundLost(lost.reason if len(self._all) == 1 else joined([*told, _of(group, lost.reason)], "; "), lost.without)
        group.drop(collected, lost.reason)
        collected.without.update(lost.without)
        group.lose(lost.reason)

    def _patience(self, asked: Asked, seconds: float, due: Sequence[Group], least: Callable[[Roster], int]) -> Patience:
        """Of a phase in which these groups are asked; the others that are here have it behind them."""
        groups = _groups(due, max(0, self.groups.needed - len(self._here) + len(due)), least)
        return Patience(groups.sites_needed(), min(asked.patience.deadline_seconds, seconds), groups)

    async def _phase(
        self,
        phase: Phase,
        asked: Asked,
        requests: Iterable[Mapping[SiteId, Request]],
        patience: Patience,
        heard: Heard,
        over: Callable[[Collected], bool] = lambda _: False,
    ) -> AsyncIterator[Event]:
        """One phase without data. That a site has answered is no event: it has not trained, it has only spoken."""
        tasks = {site: _spoken(asked.tasks[site], phase, told) for one in requests for site, told in one.items() if site in asked.tasks}
        if not tasks:
            return
        collected = Collected(tuple(tasks))
        async for event in collect(self._engine, tasks, collected, patience, self._blobs, self._clock, over):
            if not (isinstance(event, ReplyReceived) and event.outcome == "answer"):
                yield event
        heard.said.update({site: answer.message for site, answer in collected.answers.items()})
        heard.absent.update({absence.site: absence for absence in collected.absences()})


def _of(group: Group, why: str) -> Said:
    return say("{sites}: {reason}", sites=", ".join(group.roster.members), reason=phrase(why))


def _require(asked: Asked, collected: Collected) -> None:
    """Raises RoundLost where groups that were lost leave too few sites."""
    if not asked.patience.enough(collected.answers):
        raise RoundLost(asked.patience.lacking(collected.answers, say("have a part in a sum that can be opened")))


@final
class _Opening:
    """Whether the sums of all these groups are open: then what others would reveal is of no use. Each is tried once, with as many shares as it
    needs; where one of them is of no use, all that come are waited for."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._untried, self._shut = list(groups), list(groups)
        self._fewest = min((group.roster.threshold for group in groups), default=0)

    def __call__(self, collected: Collected) -> bool:
        if len(collected.answers) < self._fewest or not self._untried:
            return False
        heard = Heard({site: answer.message for site, answer in collected.answers.items()})
        for group in [group for group in self._untried if group.has_threshold(heard)]:
            self._untried.remove(group)
            if group.opens(heard):
                self._shut.remove(group)
        return not self._shut


def _groups(groups: Sequence[Group], needed: int, least: Callable[[Roster], int]) -> Groups:
    return Groups(tuple(frozenset(group.roster.members) for group in groups), tuple(least(group.roster) for group in groups), needed)


def _spoken(task: Task, phase: Phase, request: Request) -> Task:
    name = task_id(task.study, task.stage, task.round_number, task.site, phase)
    return task.model_copy(update={"id": name, "phase": phase, "inputs": {}, "packed": {}, "message": request.model_dump_json()})
