"""The agent's part in sums in secret: real worker, real vault; the other hospitals are in this process."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest

from aimer2.blobs.folder import FolderStore
from aimer2.connectors.table import load_table
from aimer2.core.clock import SystemClock
from aimer2.core.errors import NotAllowed
from aimer2.core.study import Study
from aimer2.core.task import BlobRef, Failure, Refusal, Reply, SiteId, Task
from aimer2.engines.in_process import InProcess
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.messages.tensors import read_tree
from aimer2.messages.wire import detach
from aimer2.secure_aggregation.marks import MARKS
from aimer2.secure_aggregation.messages import EpochTerms, Letters, RoundTerms
from aimer2.secure_aggregation.vault import MemoryVault
from aimer2.site.balance import Budget
from aimer2.site.decisions import Decisions
from aimer2.site.ledger import Ledger, Ledgers
from aimer2.site.performing import Performing
from aimer2.site.secret_sums import SecretSums
from aimer2.site.settings import Settings
from aimer2.site.snapshots import SnapshotRecord
from aimer2.study.checkpoint import Remembered
from aimer2.study.conduct import conduct
from aimer2.study.events import Event, RoundFinished, RoundRepeated, StudyFinished
from aimer2.study.pack import pack
from aimer2.study.perform import open_performer
from aimer2.study.secure_update import Request, SecureUpdate, groups_of
from aimer2.study.site_level import SiteLevel

sys.path.insert(0, str(Path(__file__).parent))
from test_performing import Bench

OTHERS = ("east", "south", "west")


@dataclass
class Mixed:
    """North is the agent under test, the others are simulated. ``before`` may change what north is asked; it sees each task first."""

    bench: Bench
    others: InProcess
    blobs: FolderStore
    before: Callable[[Task], Task] = lambda task: task
    fails: tuple[SiteId, int] | None = None
    """A site that fails the first attempt of a round's update."""
    said: list[Reply] = field(default_factory=list)

    async def sites(self) -> Sequence[SiteId]:
        return sorted(["north", *await self.others.sites()])

    async def ask(self, tasks: Mapping[SiteId, Task]) -> AsyncIterator[Reply]:
        if "north" in tasks:
            ready = await self.bench.do(self.before(tasks["north"]))
            for sha256, text in ready.attachments.items():
                self.blobs.put(detach(sha256, text))
            self.said.append(ready.reply)
            yield ready.reply
        for site, task in tasks.items():
            if (site, task.round_number, task.attempt, task.phase, task.stage) == (*(self.fails or ()), 1, "update", "train"):
                yield Failure(task=task.id, attempt=task.attempt, site=site, code="out-of-resources", reason="The disk is full.")
                tasks = {other: asked for other, asked in tasks.items() if other != site}
        async for reply in self.others.ask({site: task for site, task in tasks.items() if site != "north"}):
            yield reply

    async def withdraw(self, tasks: Sequence[Task]) -> None:
        """Nobody is late here."""


@dataclass
class Hospital:
    """North's agent in a study of four, or more."""

    bench: Bench
    engine: Mixed
    package: Package
    blobs: FolderStore
    settings: Settings
    members: Mapping[SiteId, SecureUpdate]
    performers: Mapping[SiteId, Any]

    def conduct(self) -> list[Event]:
        async def listen(bench: Bench) -> list[Event]:
            past = Remembered()
            async for event in conduct(self.package, bench.digest, self.engine, self.blobs, past, clock=SystemClock()):
                past.past.append(event)
            return past.past

        events: list[Event] = self.bench.run(listen)
        return events

    def restart(self) -> None:
        """Another agent process in the same folder."""
        old = self.bench
        self.bench.performing = Performing(old.site, self.settings, old.performing._connection, old.workers, old._no_network)


@pytest.fixture
def hospital(
    site: Decisions, settings: Settings, a_study: Callable[..., Study], blobs: FolderStore, tmp_path: Path, snapshot: SnapshotRecord
) -> Callable[..., Hospital]:
    def make(*, secure: bool = True, others: Sequence[SiteId] = OTHERS, **changes: Any) -> Hospital:
        privacy = {} if secure else {"privacy": {"secure_aggregation": False, "why_not_secure": "a test"}}
        sites = {"names": ("north", *others), "minimum": 4, "quorum": 3}
        study = a_study(**({"privacy": {}, "sites": sites, "method": {"name": "scaffold", "rounds": 3}} | privacy | changes))
        keys = {"north": site.key} | {name: SigningKey.generate() for name in others}
        package = pack(study, tmp_path, {name: key.public.text for name, key in keys.items()}, blobs)
        bench = Bench(site, settings, package, blobs)
        for name in others:
            site.address_book.verify(name, keys[name].public.fingerprint, [keys[name].public], by="Dr Grace", how="telephone")
        site.approve(bench.digest, by="Dr Grace")
        table = load_table(snapshot.path, verify=True)
        performers = {name: open_performer(study, table, site=name, files={}) for name in ("north", *others)}
        members = {name: SecureUpdate.of(package, bench.digest, name, keys[name], MemoryVault()) for name in keys} if secure else {}
        private = SiteLevel.of(study, len(keys))
        beside = InProcess({name: performers[name] for name in others}, blobs, secure=members, private=private)
        return Hospital(bench, Mixed(bench, beside, blobs), package, blobs, settings, members, performers)

    return make


def rounds(events: Sequence[Event]) -> list[RoundFinished]:
    return [event for event in events if isinstance(event, RoundFinished) and event.stage == "train"]


def bits(hospital: Hospital, events: Sequence[Event]) -> dict[str, bytes]:
    assert isinstance(events[-1], StudyFinished), events[-1]
    model = read_tree(hospital.blobs.open(BlobRef(**dict(events[-1].result["model"]))))
    return {leaf: np.asarray(array).tobytes() for leaf, array in model.items()}


def simulated(hospital: Hospital) -> list[Event]:
    async def listen() -> list[Event]:
        past, engine = Remembered(), InProcess(hospital.performers, hospital.blobs, secure=hospital.members)
        async for event in conduct(hospital.package, hospital.bench.digest, engine, hospital.blobs, past, clock=SystemClock()):
            past.past.append(event)
        return past.past

    return asyncio.run(listen())


def test_the_agent_masks_what_leaves_and_the_sum_has_the_bits_of_the_simulator(hospital: Callable[..., Hospital]) -> None:
    made = hospital()
    events = made.conduct()
    assert [event.took_part for event in rounds(events)] == [("east", "north", "south", "west")] * 3
    other = hospital()
    assert bits(made, events) == bits(other, simulated(other))


def test_the_agent_is_added_up_with_its_group_alone_with_the_bits_of_the_simulator(hospital: Callable[..., Hospital]) -> None:
    asked = {
        "others": tuple(f"site-{number}" for number in range(8)),
        "privacy": {"group_size": 3},
        "method": {"name": "fedavg", "rounds": 2, "aggregator": "median"},
    }
    made = hospital(**asked)
    named: set[SiteId] = set()

    def listen(task: Task) -> Task:
        content = json.loads(json.loads(task.message)["content"] or "{}") if task.message else {}
        named.update(content.get("signed") or content.get("dealt") or ())
        return task

    made.engine.before = listen
    events = made.conduct()
    group = next(group for group in groups_of(made.package) if "north" in group)
    assert named == set(group)
    assert len(group) == 3
    assert [len(event.took_part) for event in rounds(events)] == [9, 9]
    other = hospital(**asked)
    assert bits(made, events) == bits(other, simulated(other))


def test_the_agents_store_never_holds_the_update_without_its_masks(hospital: Callable[..., Hospital]) -> None:
    """Power check: without secure aggregation it does."""
    found = {}
    for secure in (True, False):
        made = hospital(secure=secure, name=f"study-{'secret' if secure else 'clear'}")
        task = Task(id="t", study=made.bench.digest, site="north", stage="train", round_number=1)
        model = {leaf: np.asarray(array) for leaf, array in read_tree(made.blobs.open(made.package.initial)).items()}
        received = {"model": model, "control": {leaf: np.zeros_like(array) for leaf, array in model.items()}}
        sums = made.performers["north"].perform(task, received, {}).sums
        update = [np.asarray(array).tobytes() for array in sums["difference"].values()]
        made.conduct()
        folder = made.bench.site.folder.study(made.bench.digest)
        content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        found[secure] = [data in content for data in update]
    assert not any(found[True])
    assert all(found[False])


def test_killed_between_any_two_phases_the_agent_says_the_same_again(hospital: Callable[..., Hospital]) -> None:
    expected = hospital()
    made = hospital(name="another")

    def again(task: Task) -> Task:
        made.restart()
        return task

    made.engine.before = again
    assert bits(made, made.conduct()) == bits(expected, simulated(expected))


def test_an_agent_that_lost_its_vault_computes_nothing_and_sits_out(hospital: Callable[..., Hospital]) -> None:
    made = hospital()

    def lose(task: Task) -> Task:
        if (task.stage, task.round_number, task.phase) == ("train", 2, "update"):
            for path in made.bench.site.folder.path.glob("vault.sqlite*"):
                path.unlink()
            made.restart()
        return task

    made.engine.before = lose
    events = made.conduct()
    assert isinstance(events[-1], StudyFinished)
    assert [event.took_part for event in rounds(events)] == [("east", "north", "south", "west"), OTHERS, OTHERS]
    assert [(absence.code, absence.reason) for event in rounds(events) for absence in event.absent] == [
        ("not-found", "This site holds no keys for this epoch and sits it out.")
    ] * 2
    done = [(done["stage"], done["round"]) for done in made.bench.site.store.rounds(made.bench.digest)]
    assert ("train", 2) not in done and ("final", 1) in done


@pytest.mark.parametrize(
    ("secure", "asked"),
    [
        (True, {}),
        (True, {"stage": "preflight", "message": "{}"}),
        (True, {"stage": "preflight", "phase": "keys", "message": "{}"}),
        (False, {"message": "{}"}),
        (False, {"phase": "keys"}),
        (False, {"phase": "reveal", "message": "{}"}),
    ],
)
def test_an_update_under_other_terms_than_were_approved_is_refused(hospital: Callable[..., Hospital], secure: bool, asked: dict[str, str]) -> None:
    bench = hospital(secure=secure).bench
    task = bench.task(stage=asked.get("stage", "train")).model_copy(update=asked)
    ready = bench.run(lambda b: b.do(task))
    assert isinstance(ready.reply, Refusal)
    assert (ready.reply.code, ready.reply.reason) == (
        "not-approved",
        "The coordinator asks for the update under other terms than the study that was approved here.",
    )
    assert bench.workers.warm(bench.digest) is None, "nothing is computed"


def test_rubbish_in_a_phase_is_refused_and_keeps_nothing(hospital: Callable[..., Hospital]) -> None:
    bench = hospital().bench
    for phase in ("keys", "shares", "update", "agree", "reveal"):
        ready = bench.run(lambda b, phase=phase: b.do(b.task().model_copy(update={"phase": phase, "message": '{"epoch": 1}'})))
        assert isinstance(ready.reply, Refusal) and ready.reply.code == "tampered", phase
    assert bench.workers.warm(bench.digest) is None


def test_withdrawn_the_secrets_of_a_study_are_gone(hospital: Callable[..., Hospital]) -> None:
    made = hospital()

    def withdraw(task: Task) -> Task:
        if (task.stage, task.round_number, task.phase) == ("train", 1, "agree"):
            assert made.bench.digest.encode() in vault(made)
            made.bench.site.withdraw(made.bench.digest, by="Dr Grace")
            asyncio.get_running_loop().create_task(made.bench.performing.forget(made.bench.digest))
        return task

    made.engine.before = withdraw
    events = made.conduct()
    assert rounds(events)[0].took_part == ("east", "north", "south", "west"), "its update was masked and in: the others open the sum"
    left = [row[0] for row in sqlite3.connect(made.bench.site.folder.vault).execute("SELECT name FROM secrets")]
    assert all("/marks/" in name or name.endswith("/current") or name == "started" for name in left), "what was opened and closed, and no secret"
    assert b"secrets" not in b"".join(row[0] for row in sqlite3.connect(made.bench.site.folder.vault).execute("SELECT document FROM secrets"))


def vault(made: Hospital) -> bytes:
    return b"".join(path.read_bytes() for path in made.bench.site.folder.path.glob("vault.sqlite*"))


def differences(made: Hospital) -> list[Any]:
    return [(entry.details["round"], entry.details["sites"]) for entry in made.bench.site.audit.read() if entry.kind == "cohort-changed"]


@pytest.mark.parametrize("policy", ["warn", "refuse"])
def test_two_sums_that_differ_by_one_site_are_recorded_and_refused_where_the_hospital_says_so(hospital: Callable[..., Hospital], policy: str) -> None:
    """West is not in round 2. Where north refuses, too few agree, the round is lost, and west is in its second attempt."""
    made = hospital()
    made.settings = made.settings.model_copy(update={"small_differences": policy})
    made.restart()
    made.engine.fails = ("west", 2)
    events = made.conduct()
    assert isinstance(events[-1], StudyFinished)
    everybody = ("east", "north", "south", "west")
    lost = [event for event in events if isinstance(event, RoundRepeated)]
    if policy == "warn":
        assert [event.took_part for event in rounds(events)] == [everybody, ("east", "north", "south"), everybody]
        assert differences(made) == [(2, ["west"]), (3, ["west"])]
        assert not lost
    else:
        assert [event.took_part for event in rounds(events)] == [everybody] * 3
        assert differences(made) == [(2, ["west"])]
        assert [event.round_number for event in lost] == [2]
        assert "north: The sum differs from the one before by west alone, and this site opens no two such sums." in lost[0].reason


@pytest.mark.parametrize(
    ("names", "few"), [("east north south west", 0), ("east north south", 1), ("east north", 2), ("east", 3), ("elsewhere north west", 3)]
)
def test_sums_of_sites_that_differ_by_one_or_two_are_too_close(hospital: Callable[..., Hospital], names: str, few: int) -> None:
    made = hospital()
    sums = SecretSums(made.bench.site, made.settings.model_copy(update={"small_differences": "refuse"}))
    asked = Request(
        epoch=EpochTerms(stage="train", attempt=1, first_round=1, rounds=1),
        content=Letters(signed=dict.fromkeys(names.split(), "signed")).model_dump_json(),
        round=RoundTerms(round_number=1, layout="0" * 64),
    )
    task = made.bench.task().model_copy(update={"phase": "agree", "message": asked.model_dump_json()})
    member = sums.member(task, made.package)
    assert member is not None
    member.member.vault.change({f"{made.bench.digest}/{MARKS}/last-opened": cbor2.dumps(["east", "north", "south", "west"])})
    if few in (1, 2):
        with pytest.raises(NotAllowed, match=f"differs from the one before by {'west' if few == 1 else 'south, west'} alone"):
            sums.watch(task, member)
    else:
        sums.watch(task, member)
    assert len(differences(made)) == (few in (1, 2))


def test_no_keys_are_told_where_those_of_another_hospital_are_verified_no_longer(hospital: Callable[..., Hospital]) -> None:
    made = hospital()
    made.bench.site.address_book.remove("east", by="Dr Grace", reason="its key was stolen")
    asked = Request(epoch=EpochTerms(stage="train", attempt=1, first_round=1, rounds=1))
    task = made.bench.task().model_copy(update={"phase": "keys", "message": asked.model_dump_json()})
    ready = made.bench.run(lambda b: b.do(task))
    assert isinstance(ready.reply, Refusal)
    assert (ready.reply.code, ready.reply.reason) == ("not-verified", "Nobody at this site has verified the keys of east.")
    assert not made.bench.site.folder.vault.exists(), "no secret was drawn"


def ledger(made: Hospital) -> Ledger:
    site = made.bench.site
    return Ledgers(site.folder, site.key, site.audit, site.clock).of("heart")


def test_where_whole_sites_are_protected_the_agent_adds_noise_charges_for_a_patient_and_computes_once(hospital: Callable[..., Hospital]) -> None:
    """Started anew before every task. The worker hands over what it always does: noise and clipping are the agent's."""
    terms = {"level": "site", "noise_multiplier": 6.0, "delta": 1e-4, "clip_norm": 0.1, "clip_quantile": 0.5, "evaluation_noise": 40.0}
    privacy = {"privacy": {"differential_privacy": terms}}
    made = hospital(method={"name": "fedavg", "rounds": 2}, evaluation={"metrics": ["accuracy"]}, **privacy)
    refused = made.conduct()
    assert any("No privacy budget" in absence.reason for event in rounds(refused) for absence in event.absent), "three of four go on without it"

    made = hospital(name="another", method={"name": "fedavg", "rounds": 2}, evaluation={"metrics": ["accuracy"]}, **privacy)
    ledger(made).propose(Budget(40.0, 1e-4), by="Dr Ada")
    ledger(made).confirm(Budget(40.0, 1e-4), by="Dr Bea")

    def again(task: Task) -> Task:
        made.restart()
        return task

    made.engine.before = again
    events = made.conduct()
    assert isinstance(events[-1], StudyFinished), events[-1]
    assert [event.took_part for event in rounds(events)] == [("east", "north", "south", "west")] * 2
    balance = ledger(made).balance()
    assert len(balance.charges) == 3
    assert all(charge.committed for charge in balance.charges.values())
    stated = events[-1].result["privacy"]["differential_privacy"]
    assert stated["epsilon"] < balance.epsilon == pytest.approx(stated["epsilon_of_a_patient"], rel=1e-3)


def test_an_agent_that_is_told_no_clip_norm_hands_nothing_in(hospital: Callable[..., Hospital]) -> None:
    terms = {"level": "site", "noise_multiplier": 6.0, "delta": 1e-4, "clip_norm": 0.1, "clip_quantile": 0.5}
    made = hospital(method={"name": "fedavg", "rounds": 1}, evaluation={"held_out": 0}, privacy={"differential_privacy": terms})
    ledger(made).propose(Budget(40.0, 1e-4), by="Dr Ada")
    ledger(made).confirm(Budget(40.0, 1e-4), by="Dr Bea")

    def without(task: Task) -> Task:
        return task.model_copy(update={"inputs": {name: ref for name, ref in task.inputs.items() if name != "clipping"}})

    made.engine.before = without
    (trained,) = rounds(made.conduct())
    assert [(absence.site, absence.code) for absence in trained.absent] == [("north", "tampered")]
