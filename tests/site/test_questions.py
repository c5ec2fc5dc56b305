"""The agent compares a statistical question with those that were answered here: real workers, a real snapshot and one with a patient more."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aimer2.audit.kinds import Kind
from aimer2.blobs.folder import FolderStore
from aimer2.connectors.table import load_table, save_table
from aimer2.core.clock import SystemClock
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import NotAllowed
from aimer2.core.study import Study
from aimer2.core.task import Answer, Refusal, Reply, Task
from aimer2.identity import base64url
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.messages.package import digest as digest_of
from aimer2.messages.tensors import write_tree
from aimer2.messages.wire import attach
from aimer2.site.balance import Budget
from aimer2.site.connection import Connection
from aimer2.site.decisions import Decisions
from aimer2.site.ledger import Ledgers
from aimer2.site.outgoing import Handed, Work
from aimer2.site.performing import Performing, lay_out
from aimer2.site.questioning import BEFORE, Questioning
from aimer2.site.settings import Settings
from aimer2.site.snapshots import SnapshotRecord, keep_record
from aimer2.site.workers import Opening, Workers
from aimer2.study.analysing import analyses_of
from aimer2.study.asked import cohorts_of
from aimer2.study.pack import pack
from aimer2.study.statistician import frame_of

Make = Callable[..., Study]


class Desk:
    """A site that is asked one study after the other, each approved."""

    def __init__(self, site: Decisions, settings: Settings, tmp_path: Path) -> None:
        self.site, self.settings, self.path = site, settings, tmp_path
        self.blobs = FolderStore(tmp_path / "coordinator-blobs")

    def ask(self, study: Study, *stages: tuple[str, int] | Callable[[], None]) -> list[Reply]:
        """A function among the stages is called between them; each task is another attempt."""
        package = pack(study, self.path, {"north": SigningKey.generate().public.text}, self.blobs)
        digest = digest_of(package)
        self.site.store.note_study(digest, "running", 0)
        self.site.store.keep_package(digest, package)
        self.site.approve(digest, by="Dr Grace")
        return asyncio.run(self._replies(package, digest, stages))

    async def _replies(self, package: Any, digest: str, stages: Any) -> list[Reply]:
        workers = Workers()
        connection = Connection(self.settings.coordinator, "north", self.site.key, self.site.clock)
        performing = Performing(self.site, self.settings, connection, workers, lambda _: asyncio.sleep(0))
        lay_out(self.site.folder.study(digest), package, performing.blobs(digest))
        try:
            replies = []
            for attempt, stage in enumerate(stages, 1):
                if callable(stage):
                    stage()
                else:
                    replies.append((await performing.reply(*self._task(digest, *stage, attempt))).reply)
            return replies
        finally:
            await workers.close()

    def _task(self, digest: str, stage: str, number: int, attempt: int) -> tuple[Task, dict[str, str]]:
        inputs, attachments = {}, {}
        if stage == "analyse":
            writer = self.blobs.create()
            write_tree({}, writer)
            inputs = {"main": writer.commit()}
            attachments = {ref.sha256: attach(self.blobs.open(ref).view()) for ref in inputs.values()}
        fields = {"id": f"{digest[:16]}-{stage}-{number}", "study": digest, "site": "north", "stage": stage, "round_number": number}
        return Task.model_validate({**fields, "attempt": attempt, "inputs": inputs}), attachments

    def one_more_patient(self, table: Any) -> None:
        made = save_table(table, self.site.folder.dataset("heart") / "snapshots" / "two", clock=SystemClock())
        fields = {name: getattr(made, name) for name in ("path", "sha256", "rows", "patients", "created", "opted_out")}
        keep_record(SnapshotRecord(**fields))


@pytest.fixture
def desk(site: Decisions, settings: Settings, tmp_path: Path) -> Desk:
    return Desk(site, settings, tmp_path)


@pytest.fixture
def question(a_study: Make) -> Make:
    def make(name: str, **changes: Any) -> Study:
        fields = a_study().model_dump(exclude={"model", "training", "method", "evaluation", "cohort"})
        asked = {"cohort": {"dataset": "heart"}, "analyses": [{"method": "glm", "formula": "disease ~ age"}]}
        return Study(**{**fields, **asked, "name": name, **changes})

    return make


ROUNDS = (("preflight", 1), ("analyse", 1))
NOISY: dict[str, Any] = {
    "cohort": {"dataset": "heart", "features": [{"name": "age", "minimum": -4, "maximum": 4}]},
    "analyses": [{"method": "private_describe", "formula": "~ age"}],
    "privacy": {"secure_aggregation": False, "why_not_secure": "a test", "differential_privacy": {"epsilon": 1.0, "delta": 1e-4}},
}


def test_the_question_again_after_a_refresh_that_brought_one_patient(desk: Desk, question: Make, larger_table: Any) -> None:
    contract, first = desk.ask(question("first"), *ROUNDS)
    assert isinstance(contract, Answer) and isinstance(first, Answer)
    said = {check.name: check for check in contract.checks}
    assert said[BEFORE].passed and "Nothing that was answered before" in said[BEFORE].finding
    again = desk.ask(question("again"), *ROUNDS)[1]
    assert isinstance(again, Answer), "of the same patients"
    desk.one_more_patient(larger_table)
    contract, refused = desk.ask(question("later"), *ROUNDS)
    assert isinstance(contract, Answer) and isinstance(refused, Refusal)
    said = {check.name: check for check in contract.checks}
    assert not said[BEFORE].passed and said[BEFORE].blocking
    assert "main: its patients, or those of a category, are those of another question but for fewer than 10" in said[BEFORE].finding
    assert refused.code == "not-allowed" and said[BEFORE].finding == refused.reason


def test_asking_again_after_a_refusal_does_not_pass_the_comparison(desk: Desk, question: Make, larger_table: Any) -> None:
    """The study was answered of the snapshot before, and its worker has already said once whose values the new one has."""
    first, refused, again = desk.ask(question("first"), ("analyse", 1), lambda: desk.one_more_patient(larger_table), ("analyse", 1), ("analyse", 1))
    assert isinstance(first, Answer)
    assert isinstance(refused, Refusal) and refused.code == "not-allowed"
    assert isinstance(again, Refusal) and again.reason == refused.reason


def test_of_questions_that_come_at_once_no_more_are_answered_than_one_after_the_other(desk: Desk, question: Make, snapshot: Any) -> None:
    everybody, many = threading.Barrier(8), range(8)

    class Together(SystemClock):
        def now(self) -> float:
            everybody.wait()
            return super().now()

    questioning = Questioning(replace(desk.site, clock=Together()), Disclosure(questions=1))
    packages = [pack(question(f"q{number}"), desk.path, {"north": SigningKey.generate().public.text}, desk.blobs) for number in many]
    frame = frame_of(packages[0].study, load_table(snapshot.path, verify=False, sha256=snapshot.sha256))
    cohorts = {name: base64url.encode(bits) for name, bits in cohorts_of(analyses_of(packages[0].study).methods, frame).items()}
    handed = Handed(sums=(), memory=(), kept=(), checks=(), figures=(), cohorts=cohorts)

    opening = Opening("north", desk.path, snapshot.path, snapshot.sha256, 60, desk.settings.worker)
    contract, _ = desk._task(digest_of(packages[0]), "preflight", 1, 1)
    # Makes the file, which the others would wait for one after the other.
    Questioning(desk.site, Disclosure()).look(Work(contract, packages[0], "heart", None), opening, handed)

    def answered(package: Package) -> bool:
        task, _ = desk._task(digest_of(package), "analyse", 1, 1)
        try:
            questioning.look(Work(task, package, "heart", None), opening, handed)
        except NotAllowed:
            return False
        return True

    with ThreadPoolExecutor(len(many)) as threads:
        assert sum(threads.map(answered, packages)) == 1


def test_a_site_that_answers_all_the_same_notes_it(desk: Desk, question: Make, larger_table: Any) -> None:
    limits = desk.settings.disclosure.model_copy(update={"together": "always"})
    desk.settings = desk.settings.model_copy(update={"disclosure": limits})
    desk.ask(question("first"), *ROUNDS)
    desk.one_more_patient(larger_table)
    contract, answered = desk.ask(question("later"), *ROUNDS)
    assert isinstance(answered, Answer) and isinstance(contract, Answer)
    assert "This site answers, and notes it." in {check.name: check for check in contract.checks}[BEFORE].finding
    entries = [json.loads(line) for line in desk.site.folder.audit.read_text().splitlines()]
    assert sum(Kind.QUESTIONS_TOGETHER in json.dumps(entry) for entry in entries) == 1


def test_a_coordinator_that_leaves_out_the_first_round_is_compared_all_the_same(desk: Desk, question: Make, larger_table: Any) -> None:
    desk.ask(question("first"), *ROUNDS)
    desk.one_more_patient(larger_table)
    [refused] = desk.ask(question("later"), ("analyse", 2))
    assert not isinstance(refused, Answer)


def test_a_question_with_noise_is_charged_before_it_is_computed_and_is_not_compared(desk: Desk, question: Make, larger_table: Any) -> None:
    """Without a budget nothing is computed; with one the sum that leaves is charged, and a patient more speaks against nothing."""
    contract, refused = desk.ask(question("noisy", **NOISY), *ROUNDS)
    assert isinstance(contract, Answer) and isinstance(refused, Refusal) and refused.code == "budget-exceeded"
    site = desk.site
    ledger = Ledgers(site.folder, site.key, site.audit, site.clock).of("heart")
    budget = Budget(1.5, 1e-4)
    if not ledger.propose(budget, by="Dr Ada"):
        ledger.confirm(budget, by="Dr Bea")
    assert isinstance(desk.ask(question("once", **NOISY), *ROUNDS)[1], Answer)
    [charge] = ledger.balance().charges.values()
    assert charge.committed and charge.spent["kind"] == "gaussian" and 0.99 <= ledger.balance().epsilon <= 1.0
    desk.one_more_patient(larger_table)
    again = desk.ask(question("twice", **NOISY), *ROUNDS)[1]
    assert isinstance(again, Answer) and 1.4 <= ledger.balance().epsilon <= 1.5
    third = desk.ask(question("thrice", **NOISY), *ROUNDS)[1]
    assert isinstance(third, Refusal) and "of 1.50" in third.reason


def test_a_question_with_noise_is_computed_no_more_than_twice_however_large_the_budget(desk: Desk, question: Make) -> None:
    site, budget = desk.site, Budget(9.0, 1e-4)
    ledger = Ledgers(site.folder, site.key, site.audit, site.clock).of("heart")
    if not ledger.propose(budget, by="Dr Ada"):
        ledger.confirm(budget, by="Dr Bea")
    once, twice, thrice = desk.ask(question("noisy", **NOISY), *[("analyse", 1)] * 3)
    assert isinstance(once, Answer) and isinstance(twice, Answer)
    assert not isinstance(thrice, Answer) and thrice.code == "budget-exceeded" and "two runs" in thrice.reason
    assert len(ledger.balance().charges) == 2
