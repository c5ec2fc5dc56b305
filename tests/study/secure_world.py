"""A study whose updates are digits, summed in secret through the loop with real keys and masks; a test tells sites what to reply, and when to die."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from aimer2.blobs.memory import MemoryStore
from aimer2.core.task import Answer, Failure, Reply, SiteId, Task
from aimer2.core.tree import Tree
from aimer2.core.update import Update
from aimer2.engines.in_process import InProcess
from aimer2.identity.keys import SigningKey
from aimer2.messages.tensors import read_tree
from aimer2.secure_aggregation.layout import FEW
from aimer2.secure_aggregation.roster import Roster
from aimer2.secure_aggregation.site import Member
from aimer2.secure_aggregation.vault import MemoryVault
from aimer2.study.conduct import Loop
from aimer2.study.events import EVENT, Event, RoundFinished, RoundRepeated
from aimer2.study.performed import Performed
from aimer2.study.plan import Part, Plan
from aimer2.study.quorum import Patience
from aimer2.study.secure_update import SecureUpdate

STUDY = "5e" * 32
PHASES = ("keys", "shares", "update", "agree", "reveal")
MANY = FEW + 1
"""Reals that have ranges from their second round on."""
IN_TIME = 0.02
"""Seconds that the loop waits for a silent site, once all others have replied."""

Act = Callable[[Task], Reply | None]


@dataclasses.dataclass(frozen=True)
class Model:
    model: Tree


@dataclasses.dataclass(frozen=True)
class Tally:
    """The model is what all sites have sent so far."""

    def init(self, model: Tree) -> Model:
        return Model(model)

    def select(self, state: Model, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Model) -> Mapping[str, Tree]:
        return {"model": state.model}

    def update(self, state: Model, total: Update) -> Model:
        return Model({leaf: np.asarray(array) + np.asarray(total.sums["tally"][leaf]) for leaf, array in state.model.items()})

    def model(self, state: Model) -> Tree:
        return state.model

    def finished(self, state: Model) -> bool:
        return False


@dataclasses.dataclass
class Site:
    """Sends its own digit, by which it can be found in the sum: 1, 10, 100, …; ``reals``: and so many float32, each a tenth of that
    times the round."""

    digit: int
    reals: int = 0
    done: list[int] = dataclasses.field(default_factory=list)

    def perform(self, task: Task, received: Mapping[str, Tree], memory: MutableMapping[str, Tree]) -> Performed:
        self.done.append(task.round_number)
        sums: dict[str, Any] = {"n": np.array([self.digit])}
        if self.reals:
            sums["w"] = np.full(self.reals, 0.1 * self.digit * task.round_number, np.float32)
        return Performed({"tally": sums})


@dataclasses.dataclass
class Growing(Site):
    """In the second round it sends far more than the rounds before let expect."""

    reals: int = MANY

    def perform(self, task: Task, received: Mapping[str, Tree], memory: MutableMapping[str, Tree]) -> Performed:
        performed = Site.perform(self, task, received, memory)
        if task.round_number != 2:
            return performed
        return Performed({"tally": {**performed.sums["tally"], "w": np.full(self.reals, 1000.0 * self.digit, np.float32)}})


class PatientClock:
    """Its time passes when nobody is left who would reply: how quick this machine is does not matter."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> float:
        return self.passed

    def monotonic(self) -> float:
        return self.passed


@dataclasses.dataclass
class ToldEngine:
    """The in-process engine, except where a test tells a site what to reply in a phase of a round; None: it keeps silent for ever."""

    inner: InProcess
    names: list[SiteId]
    clock: PatientClock
    acts: dict[tuple[SiteId, int, int, str], Act] = dataclasses.field(default_factory=dict)
    asked: list[Task] = dataclasses.field(default_factory=list)
    withdrawn: list[Task] = dataclasses.field(default_factory=list)

    async def sites(self) -> Sequence[SiteId]:
        return self.names

    async def ask(self, tasks: Mapping[SiteId, Task]) -> AsyncIterator[Reply]:
        self.asked.extend(tasks.values())
        told = {site: self.acts[key] for site, task in tasks.items() if (key := (site, task.round_number, task.attempt, task.phase)) in self.acts}
        async for reply in self.inner.ask({site: task for site, task in tasks.items() if site not in told}):
            yield reply
        for reply in [act(tasks[site]) for site, act in told.items()]:
            if reply is not None:
                yield reply
        self.clock.passed += IN_TIME
        await asyncio.Event().wait()

    async def withdraw(self, tasks: Sequence[Task]) -> None:
        self.withdrawn.extend(tasks)


class Power(Exception):
    """It went off."""


class Written:
    """Checkpoints as they are when they have lain on a disk. ``fails_after``: the process dies right after, or before, that many saves."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.kept: list[str] = []
        self.saves = 0
        self.fails: tuple[int, bool] | None = None

    async def load(self) -> dict[str, Any] | None:
        return None if self.text is None else json.loads(self.text)

    async def save(self, document: dict[str, Any]) -> None:
        self.saves += 1
        fails = self.fails is not None and self.saves == self.fails[0]
        if fails and self.fails is not None and not self.fails[1]:
            raise Power
        self.text = json.dumps(document, allow_nan=False)
        if fails:
            raise Power

    async def events(self) -> Sequence[Event]:
        return [EVENT.validate_json(text) for text in self.kept]


class World:
    """``n`` sites named a, b, c, … and their coordinator."""

    def __init__(self, n: int, *, rounds: int = 3, reals: int = 0, needed: int = 1, groups: Sequence[str] = (), groups_needed: int = 1) -> None:
        self.names = [chr(ord("a") + number) for number in range(n)]
        self.keys = {site: SigningKey.generate() for site in self.names}
        self.roster = Roster(STUDY, {site: key.public for site, key in self.keys.items()})
        members = list(groups) or ["".join(self.names)]
        self.rosters = tuple(Roster(STUDY, {site: self.keys[site].public for site in group}) for group in members)
        self.vaults = {site: MemoryVault() for site in self.names}
        self.sites = {site: Site(10**number, reals) for number, site in enumerate(self.names)}
        self.blobs, self.checkpoints, self.clock = MemoryStore(), Written(), PatientClock()
        initial: dict[str, Any] = {"n": np.zeros(1, np.int64)} | ({"w": np.zeros(reals, np.float32)} if reals else {})
        self.plan = Plan(
            digest=STUDY,
            roster=tuple(self.names),
            parts=(Part("train", Tally(), rounds, initial),),  # type: ignore[arg-type]
            patience=Patience(needed, IN_TIME),
            secure=self.rosters,
            groups_needed=groups_needed,
        )
        self.engine = ToldEngine(self.inner(), list(self.names), self.clock)

    def inner(self) -> InProcess:
        """All sites as new processes over what their vaults hold."""
        of = {site: roster for roster in self.rosters for site in roster.members}
        members = {site: SecureUpdate(Member(of[site], site, self.keys[site], self.vaults[site])) for site in self.names}
        return InProcess(self.sites, self.blobs, secure=members)

    def tell(self, sites: str, phase: str, act: Act, *, round_number: int = 2, attempt: int = 1) -> None:
        """In a phase of a round; the set-up belongs to round 1."""
        for site in sites:
            self.engine.acts[site, 1 if phase in ("keys", "shares") else round_number, attempt, phase] = act

    def run(self, stop_after: int | None = None, on_event: Callable[[Event], None] = lambda _: None) -> list[Event]:
        async def conduct() -> list[Event]:
            loop, seen = Loop(self.plan, self.engine, self.blobs, self.checkpoints, self.clock), []
            running: Any = loop.run()
            try:
                async for event in running:
                    seen.append(event)
                    self.checkpoints.kept.append(event.model_dump_json())
                    on_event(event)
                    if len(seen) == stop_after:
                        break
            except Power:
                pass
            finally:
                await running.aclose()
            self.loop = loop
            return seen

        return asyncio.run(asyncio.wait_for(conduct(), 20))

    @property
    def total(self) -> int:
        """What the final model has counted: a digit per site, the rounds that its update is in."""
        assert self.loop.model is not None, self.checkpoints.kept[-1]
        return int(np.asarray(read_tree(self.blobs.open(self.loop.model))["n"])[0])

    def count(self, *rounds: str) -> int:
        return sum(self.sites[site].digit for round_ in rounds for site in round_)


def rounds(events: Sequence[Event]) -> list[RoundFinished]:
    return [event for event in events if isinstance(event, RoundFinished)]


def repeated(events: Sequence[Event]) -> list[RoundRepeated]:
    return [event for event in events if isinstance(event, RoundRepeated)]


def silent(task: Task) -> None:
    return None


def failing(task: Task) -> Reply:
    return Failure(task=task.id, attempt=task.attempt, site=task.site, code="out-of-resources", reason="The disk is full.")


def saying(text: str) -> Act:
    return lambda task: Answer(task=task.id, attempt=task.attempt, site=task.site, message=text)


def own_answer(world: World, task: Task) -> Answer:
    """What the site answers when it is asked by the book."""
    answer = world.engine.inner.perform(task)
    assert isinstance(answer, Answer), answer
    return answer


def bits(world: World) -> dict[str, bytes]:
    assert world.loop.model is not None
    return {leaf: np.asarray(array).tobytes() for leaf, array in read_tree(world.blobs.open(world.loop.model)).items()}
