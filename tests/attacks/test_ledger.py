"""The ledger against those who would spend more than there is: by racing, by killing the agent, by editing the file, by asking again.

Processes are real ones; they die by SIGKILL at every write, flush and lock in turn, also in the middle of a write.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from aimer2.audit.entries import Event, Head, sign_line
from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.audit.verify import verify
from aimer2.core.clock import SystemClock
from aimer2.core.errors import AimerError, BudgetExceeded, Conflict, Tampered
from aimer2.identity.keys import SigningKey
from aimer2.privacy.accounting import Spent, epsilon, gaussian
from aimer2.site.balance import Budget
from aimer2.site.folder import SiteFolder
from aimer2.site.ledger import Ledger, Ledgers, find_anchor

STUDY, OTHER = "1" * 64, "2" * 64
DELTA = 1e-5
FORKING = multiprocessing.get_context("fork")


def new_site(path: Path) -> SiteFolder:
    folder = SiteFolder(path)
    folder.path.mkdir()
    key = SigningKey.generate()
    folder.public_keys.write_text(key.public.text + "\n")
    key.save(folder.key)
    return folder


def opened(folder: SiteFolder) -> Ledgers:
    key = SigningKey.load(folder.key)
    return Ledgers(folder, key, AuditLog(folder.audit, key, SystemClock()), SystemClock())


def allow(ledger: Ledger, epsilon: float) -> None:
    budget = Budget(epsilon, DELTA)
    if not ledger.propose(budget, by="Dr Ada"):
        ledger.confirm(budget, by="Dr Bea")


@pytest.fixture
def folder(tmp_path: Path) -> SiteFolder:
    made = new_site(tmp_path / "site")
    allow(opened(made).of("heart"), 3.0)
    return made


# racing


def _reach(folder: SiteFolder, name: str, together: Any, won: Any) -> None:
    ledgers = opened(folder)

    def try_it(thread: int) -> None:
        together.wait()
        try:
            ledgers.of("heart").reserve(STUDY, f"{name}-{thread}", 1, gaussian(1.7))
        except BudgetExceeded:
            return
        with won.get_lock():
            won.value += 1

    threads = [threading.Thread(target=try_it, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_of_many_that_reach_for_the_last_of_the_budget_one_gets_it(folder: SiteFolder) -> None:
    """Three processes of three threads each."""
    together, won = FORKING.Barrier(9), FORKING.Value("i", 0)
    processes = [FORKING.Process(target=_reach, args=(folder, f"p{number}", together, won)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert (won.value, [process.exitcode for process in processes]) == (1, [0, 0, 0])
    assert len(opened(folder).of("heart").balance().charges) == 1


def _fill(folder: SiteFolder, name: str) -> None:
    ledger = opened(folder).of("heart")
    for number in itertools.count():
        try:
            ledger.reserve(STUDY, f"{name}-{number}", 1, gaussian(5))
        except BudgetExceeded:
            return
        ledger.commit(STUDY, f"{name}-{number}", 1)


def test_processes_that_fill_a_ledger_stop_at_the_budget_and_leave_no_gap(folder: SiteFolder) -> None:
    processes = [FORKING.Process(target=_fill, args=(folder, f"p{number}")) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    count = len(opened(folder).of("heart").balance().charges)
    assert epsilon([gaussian(5, count)], DELTA) <= 3.0 < epsilon([gaussian(5, count + 1)], DELTA)
    assert list(opened(folder).problems("heart")) == []


# killed


def _die_at(moment: int, half: bool) -> None:
    """From now on, this process is killed at that write, flush or lock; with ``half`` a write is begun first."""
    counter = itertools.count()
    calls: dict[str, Callable[..., Any]] = {"write": os.write, "fdatasync": os.fdatasync, "fsync": os.fsync, "flock": fcntl.flock}

    def watched(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if next(counter) == moment:
                if half and name == "write":
                    calls["write"](arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return calls[name](*arguments)

        return call

    os.write, os.fdatasync, os.fsync = watched("write"), watched("fdatasync"), watched("fsync")  # type: ignore[assignment]
    fcntl.flock = watched("flock")


def _a_task(folder: SiteFolder, moment: int, half: bool) -> None:
    """What the agent does of one task: reserve, compute, store, commit, send."""
    ledger = opened(folder).of("heart")
    _die_at(moment, half)
    ledger.reserve(STUDY, "one", 1, gaussian(2))
    (folder.path / "stored").touch()
    ledger.commit(STUDY, "one", 1)
    (folder.path / "sent").touch()


@pytest.mark.parametrize("half", [False, True])
def test_killed_at_any_moment_a_task_is_charged_once_and_never_sent_without(folder: SiteFolder, half: bool, tmp_path: Path) -> None:
    for moment in itertools.count():
        copy = SiteFolder(tmp_path / f"{moment}")
        shutil.copytree(folder.path, copy.path)
        process = FORKING.Process(target=_a_task, args=(copy, moment, half))
        process.start()
        process.join(60)
        _check_after(copy, process.exitcode)
        if process.exitcode == 0:
            assert moment > 8
            return
        assert process.exitcode == -signal.SIGKILL


def _check_after(folder: SiteFolder, status: int | None) -> None:
    stored, sent = (folder.path / "stored").exists(), (folder.path / "sent").exists()
    ledger = opened(folder).of("heart")
    charge = ledger.balance().charges.get((STUDY, "one", 1))
    assert not stored or charge is not None
    assert not sent or (charge is not None and charge.committed)
    if stored:
        opened(folder).settle("heart", STUDY, "one", 1)
        assert ledger.uncommitted() == frozenset()
    else:
        ledger.reserve(STUDY, "one", 1, gaussian(2))
    assert ledger.balance().epsilon == epsilon([gaussian(2)], DELTA)
    with pytest.raises(BudgetExceeded):
        ledger.reserve(OTHER, "one", 1, gaussian(1.7))
    assert list(opened(folder).problems("heart")) == []
    assert status in (0, -signal.SIGKILL)


def _raise_it(folder: SiteFolder, moment: int) -> None:
    ledger = opened(folder).of("heart")
    _die_at(moment, half=True)
    ledger.confirm(Budget(9, DELTA), by="Dr Bea")


def test_killed_while_a_budget_is_raised_it_is_the_old_or_the_new_one(folder: SiteFolder, tmp_path: Path) -> None:
    opened(folder).of("heart").propose(Budget(9, DELTA), by="Dr Ada")
    seen = set()
    for moment in itertools.count():
        copy = SiteFolder(tmp_path / f"{moment}")
        shutil.copytree(folder.path, copy.path)
        process = FORKING.Process(target=_raise_it, args=(copy, moment))
        process.start()
        process.join(60)
        balance = opened(copy).of("heart").balance()
        assert balance.budget is not None
        assert (balance.budget.epsilon, len(balance.set_by), balance.proposal is None) in {(3, 2, False), (9, 2, True)}
        seen.add(balance.budget.epsilon)
        if process.exitcode == 0:
            break
    assert seen == {3, 9}


# asked again


def test_a_coordinator_that_asks_again_learns_nothing_more_and_pays_once(folder: SiteFolder) -> None:
    ledger = opened(folder).of("heart")
    for _ in range(20):
        ledger.reserve(STUDY, "one", 1, gaussian(2))
    ledger.commit(STUDY, "one", 1)
    assert ledger.balance().epsilon == epsilon([gaussian(2)], DELTA)
    for spent in (gaussian(2), gaussian(0.1), gaussian(1000)):
        with pytest.raises(Conflict):
            opened(folder).of("heart").reserve(STUDY, "one", 1, spent)


# edited


@pytest.fixture
def used(folder: SiteFolder) -> SiteFolder:
    ledger = opened(folder).of("heart")
    for number in range(3):
        ledger.reserve(STUDY, str(number), 1, gaussian(6))
        ledger.commit(STUDY, str(number), 1)
    return folder


Edit = Callable[[list[bytes]], list[bytes]]


def _cheaper(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"noise_multiplier":6', b'"noise_multiplier":60') for line in lines]


def _swapped(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[3], lines[2], *lines[4:]]


def _richer(lines: list[bytes]) -> list[bytes]:
    """The budget that somebody would like, signed with a key of his own."""
    document = json.loads(lines[1])
    event = Event(document["kind"], document["actor"], None, document["details"] | {"epsilon": 90.0})
    first = json.loads(lines[0])
    forged = sign_line(event, after=Head(1, document["previous"]), time=first["time"], key=SigningKey.generate()) + b"\n"
    return [lines[0], forged, *lines[2:]]


EDITS: dict[str, Edit] = {
    "changed": _cheaper,
    "one removed": lambda lines: [*lines[:3], *lines[4:]],
    "first removed": lambda lines: lines[1:],
    "last removed": lambda lines: lines[:-1],
    "tail removed": lambda lines: lines[:2],
    "emptied": lambda lines: [],
    "cut in the middle of a line": lambda lines: [*lines[:-1], lines[-1][:40]],
    "swapped": _swapped,
    "repeated": lambda lines: [*lines, lines[-1]],
    "another's signature": _richer,
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_ledger_is_found_and_nothing_more_is_computed(used: SiteFolder, edit: Edit) -> None:
    running = opened(used).of("heart")
    running.balance()
    path = used.ledger("heart")
    lines = edit(path.read_bytes().splitlines(keepends=True))
    path.write_bytes(b"".join(lines))
    assert opened(used).problems("heart")
    for call in (lambda ledger: ledger.reserve(OTHER, "more", 1, gaussian(100)), lambda ledger: ledger.propose(Budget(1, DELTA), by="Dr Ada")):
        with pytest.raises(Tampered):
            call(opened(used).of("heart"))
    if len(b"".join(lines)) < running._read:
        with pytest.raises(Tampered):
            running.reserve(OTHER, "more", 1, gaussian(100))


def test_every_byte_counts(used: SiteFolder) -> None:
    path = used.ledger("heart")
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert opened(used).problems("heart"), place


def test_a_ledger_that_is_gone_gives_no_new_budget(used: SiteFolder) -> None:
    running = opened(used).of("heart")
    running.balance()
    used.ledger("heart").unlink()
    for ledger in (running, opened(used).own("heart")):
        with pytest.raises(Tampered):
            ledger.propose(Budget(3, DELTA), by="Dr Ada")
    assert [problem.code for problem in opened(used).problems("heart")] == ["cut-off"]


def test_an_older_copy_put_back_is_found(used: SiteFolder) -> None:
    path = used.ledger("heart")
    older = path.read_bytes()
    opened(used).of("heart").reserve(OTHER, "one", 1, gaussian(6))
    path.write_bytes(older)
    with pytest.raises(Tampered, match="it once had"):
        opened(used).of("heart").reserve(OTHER, "two", 1, gaussian(6))


def test_the_ledger_of_another_data_set_gives_no_budget(used: SiteFolder) -> None:
    shutil.copy(used.ledger("heart"), used.ledger("lung"))
    with pytest.raises(Tampered, match="another data set"):
        opened(used).of("lung").reserve(OTHER, "one", 1, gaussian(100))
    assert opened(used).problems("lung")


def test_the_head_is_in_the_audit_log_after_every_entry(used: SiteFolder) -> None:
    key = SigningKey.load(used.key)
    audit = AuditLog(used.audit, key, SystemClock())
    assert find_anchor(audit, "heart") == AuditLog(used.ledger("heart"), key, SystemClock()).head()
    assert len(list(audit.read(kinds={Kind.LEDGER_ANCHORED}))) == len(opened(used).of("heart").history())
    assert verify(used.audit, key.public).intact


# any order of anything


class Interleaved(RuleBasedStateMachine):
    """Agent and command line at one ledger, restarted at will, against the accounting done anew by hand."""

    reserved = Bundle("reserved")
    stored = Bundle("stored")

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.mkdtemp()
        self.folder = new_site(Path(self.place) / "site")
        self.open = [opened(self.folder), opened(self.folder)]
        self.active: dict[str, Spent] = {}
        self.budget: Budget | None = None
        self.tasks = itertools.count()

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    def epsilon(self, *more: Spent) -> float:
        count = dict.fromkeys((4.0, 9.0, 20.0), 0)
        for spent in (*self.active.values(), *more):
            count[spent.parameters["noise_multiplier"]] += spent.count
        assert self.budget is not None
        return epsilon([gaussian(multiplier, number) for multiplier, number in count.items() if number], self.budget.delta)

    @rule(who=st.integers(0, 1), most=st.sampled_from([0.5, 1.5, 3.0]), delta=st.sampled_from([1e-5, 1e-7]))
    def set_budget(self, who: int, most: float, delta: float) -> None:
        wanted, ledger = Budget(most, delta), self.open[who].of("heart")
        if not ledger.propose(wanted, by="Dr Ada"):
            assert ledger.balance().budget == self.budget
            self.open[1 - who].of("heart").confirm(wanted, by="Dr Bea")
        self.budget = wanted

    @rule(target=reserved, who=st.integers(0, 1), multiplier=st.sampled_from([4.0, 9.0, 20.0]), count=st.integers(1, 3))
    def reserve(self, who: int, multiplier: float, count: int) -> str:
        task, spent = f"t{next(self.tasks)}", gaussian(multiplier, count)
        try:
            self.open[who].of("heart").reserve(STUDY, task, 1, spent)
        except BudgetExceeded:
            assert self.budget is None or self.epsilon(spent) > self.budget.epsilon - 5e-3
        else:
            assert self.budget is not None and self.epsilon(spent) <= self.budget.epsilon + 5e-3
            self.active[task] = spent
        return task

    @rule(who=st.integers(0, 1), task=reserved)
    def reserve_again(self, who: int, task: str) -> None:
        if task in self.active:
            self.open[who].of("heart").reserve(STUDY, task, 1, self.active[task])

    @rule(target=stored, who=st.integers(0, 1), task=consumes(reserved))
    def commit(self, who: int, task: str) -> str:
        if task in self.active:
            self.open[who].of("heart").commit(STUDY, task, 1)
        return task

    @rule(who=st.integers(0, 1), task=consumes(reserved))
    def release(self, who: int, task: str) -> None:
        if task in self.active:
            self.open[who].of("heart").release(STUDY, task, 1)
            del self.active[task]

    @rule(who=st.integers(0, 1), task=stored)
    def compute_what_was_stored(self, who: int, task: str) -> None:
        if task in self.active:
            for call in (Ledger.reserve, Ledger.release):
                with pytest.raises(AimerError):
                    call(self.open[who].of("heart"), STUDY, task, 1, *([self.active[task]] if call is Ledger.reserve else []))

    @rule(who=st.integers(0, 1))
    def restart(self, who: int) -> None:
        self.open[who] = opened(self.folder)

    @invariant()
    def agrees(self) -> None:
        if self.budget is not None:
            first, second = (ledgers.of("heart").balance() for ledgers in self.open)
            assert first == second
            assert {task for _, task, _ in first.charges} == set(self.active)
            assert first.epsilon == pytest.approx(self.epsilon() if self.active else 0, abs=5e-3)


Interleaved.TestCase.settings = settings(max_examples=12, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck))
test_the_ledger_never_exceeds_its_budget_under_any_interleaving = Interleaved.TestCase
