"""Tasks at the site, with real workers and a real store; only the network is not there."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aimer2.blobs.folder import FolderStore
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import Unreachable
from aimer2.core.study import Study
from aimer2.core.task import Answer, Failure, Refusal, Task
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.messages.package import digest as digest_of
from aimer2.messages.tensors import read_tree
from aimer2.messages.wire import attach
from aimer2.site.connection import Connection
from aimer2.site.decisions import Decisions
from aimer2.site.performing import Performing, Ready, lay_out
from aimer2.site.settings import Settings
from aimer2.site.workers import Workers
from aimer2.study.pack import pack
from aimer2.study.refused import vouched

Run = Callable[["Bench"], Awaitable[Any]]

# The study's code shares the worker's process, so it can put anything in the place of what AIMER2 hands over.
TAMPERING = """
import numpy as np
import aimer2.site.serving as serving
from aimer2.models.linear import Logistic

honest = serving.write_tree

def tampered(tree, writer):
    honest({change}, writer)

def build(features, classes):
    serving.write_tree = tampered
    return Logistic(features)
"""


class Bench:
    """A site with one study, and its tasks."""

    def __init__(self, site: Decisions, settings: Settings, package: Package, blobs: FolderStore) -> None:
        self.site = site
        self.package = package
        self.digest = digest_of(package)
        self.workers = Workers()
        self._source = blobs
        connection = Connection(settings.coordinator, "north", site.key, site.clock)
        self.performing = Performing(site, settings, connection, self.workers, self._no_network)
        site.store.note_study(self.digest, "running", 0)
        site.store.keep_package(self.digest, package)
        for ref in package.files.values():
            self.performing.blobs(self.digest).put(bytes(blobs.open(ref).view()))
        lay_out(site.folder.study(self.digest), package, self.performing.blobs(self.digest))

    async def _no_network(self, _: Any) -> Any:
        raise Unreachable

    def task(self, round_number: int = 1, attempt: int = 1, stage: str = "train") -> Task:
        inputs = {} if stage == "preflight" else {"model": self.package.initial}
        fields = {"study": self.digest, "site": "north", "stage": stage, "round_number": round_number, "attempt": attempt, "inputs": inputs}
        return Task.model_validate({"id": f"{stage}-{round_number}", **fields})

    async def do(self, task: Task) -> Ready:
        attachments = {ref.sha256: attach(self._source.open(ref).view()) for ref in task.inputs.values()}
        return await self.performing.reply(task, attachments)

    def run(self, what: Run) -> Any:
        async def running() -> Any:
            try:
                return await what(self)
            finally:
                await self.workers.close()

        return asyncio.run(running())


@pytest.fixture
def bench(site: Decisions, settings: Settings, package: Package, blobs: FolderStore) -> Bench:
    return Bench(site, settings, package, blobs)


@pytest.fixture
def bench_with(site: Decisions, settings: Settings, blobs: FolderStore, a_study: Callable[..., Study], tmp_path: Path) -> Callable[[str], Bench]:
    def make(code: str) -> Bench:
        study = a_study(model={"framework": "numpy", "code": "model.py"})
        honest = a_study()
        base = pack(honest, tmp_path, {"north": SigningKey.generate().public.text}, blobs)
        writer = blobs.create()
        writer.write(code.encode())
        made = Bench(site, settings, base.model_copy(update={"study": study, "files": {"model.py": writer.commit()}}), blobs)
        site.approve(made.digest, by="Dr Grace")
        return made

    return make


def test_an_unapproved_study_is_refused_before_its_data_are_opened(bench: Bench) -> None:
    for record in (bench.site.folder.dataset("heart") / "snapshots").glob("*.json"):
        record.write_text("not to be read")
    ready = bench.run(lambda b: b.do(b.task()))
    assert isinstance(ready.reply, Refusal) and ready.reply.code == "not-approved"
    assert vouched(ready.reply, bench.digest, bench.site.key.public).signed, "it can be shown that the site itself has refused"
    assert bench.workers.warm(bench.digest) is None and not bench.site.folder.log(bench.digest).exists()


def test_a_study_that_was_never_offered_is_refused(bench: Bench) -> None:
    ready = bench.run(lambda b: b.do(b.task().model_copy(update={"study": "f" * 64})))
    assert isinstance(ready.reply, Refusal) and ready.reply.code == "not-approved"


def test_an_approval_that_has_expired_refuses(bench: Bench) -> None:
    bench.site.approve(bench.digest, by="Dr Grace", until=time.time() + 0.05)
    time.sleep(0.06)
    ready = bench.run(lambda b: b.do(b.task()))
    assert isinstance(ready.reply, Refusal) and "expired" in ready.reply.reason


@pytest.mark.parametrize(("stage", "round_number"), [("train", 4), ("train", 0), ("final", 2), ("preflight", 2), ("moments", 1)])
def test_more_rounds_than_the_approved_study_has_are_refused(bench: Bench, stage: str, round_number: int) -> None:
    bench.site.approve(bench.digest, by="Dr Grace")
    ready = bench.run(lambda b: b.do(b.task(round_number, stage=stage)))
    assert isinstance(ready.reply, Refusal) and ready.reply.code == "not-approved"
    assert bench.workers.warm(bench.digest) is None


def test_the_same_task_again_gives_the_stored_bytes_and_is_not_computed_again(bench: Bench) -> None:
    bench.site.approve(bench.digest, by="Dr Grace")

    async def twice(b: Bench) -> tuple[Ready, Ready]:
        first = await b.do(b.task())
        await b.workers.close()
        return first, await b.do(b.task())

    first, again = bench.run(twice)
    assert isinstance(first.reply, Answer) and set(first.reply.sums) == {"difference", "weight", "metrics"}
    assert again == first and again.attachments
    assert bench.workers.warm(bench.digest) is None


@pytest.mark.parametrize(("minimum_cell", "told"), [(10, {15}), (20, set())])
def test_findings_and_released_figures_count_no_fewer_patients_than_the_hospital_allows(
    minimum_cell: int, told: set[int], site: Decisions, settings: Settings, blobs: FolderStore, a_study: Callable[..., Study], tmp_path: Path
) -> None:
    """Of 60 patients some 15 are held out."""
    study = a_study(evaluation={"held_out": 0.2, "metrics": ["accuracy"], "release_per_site": True})
    package = pack(study, tmp_path, {"north": site.key.public.text}, blobs)
    bench = Bench(site, settings.model_copy(update={"disclosure": Disclosure(minimum_cell=minimum_cell)}), package, blobs)
    site.approve(bench.digest, by="Dr Grace")

    async def both(b: Bench) -> tuple[Ready, Ready]:
        return await b.do(b.task(stage="preflight")), await b.do(b.task(stage="final"))

    checked, measured = bench.run(both)
    assert isinstance(checked.reply, Answer) and isinstance(measured.reply, Answer)
    assert f"fewer than {minimum_cell} patients" in next(check.finding for check in checked.reply.checks if check.name == "missing")
    assert {figure.n for figure in measured.reply.released} == told


def test_a_worker_that_is_killed_in_a_task_is_started_again_and_the_task_is_answered(bench_with: Callable[[str], Bench]) -> None:
    code = "import time\nfrom aimer2.models.linear import Logistic\ndef build(features, classes):\n    time.sleep(0.5)\n    return Logistic(features)"
    bench = bench_with(code)

    async def killed(b: Bench) -> tuple[Ready, int, int]:
        first = asyncio.ensure_future(b.do(b.task(stage="preflight")))
        await first
        worker = b.workers.warm(b.digest)
        assert worker is not None
        training = asyncio.ensure_future(b.do(b.task()))
        await asyncio.sleep(0.2)
        os.kill(worker.pid, signal.SIGKILL)
        ready = await training
        after = b.workers.warm(b.digest)
        assert after is not None
        return ready, worker.pid, after.pid

    ready, before, after = bench.run(killed)
    assert isinstance(ready.reply, Answer) and before != after


@pytest.mark.parametrize(
    "change",
    [
        "{**tree, 'coefficients': tree['coefficients'] * np.nan} if 'coefficients' in tree else tree",
        "{**tree, 'coefficients': np.zeros(3)} if 'coefficients' in tree else tree",
        "{**tree, 'rows': np.zeros(500)} if 'coefficients' in tree else tree",
        "{**tree, 'coefficients': tree['coefficients'].astype(np.float32)} if 'coefficients' in tree else tree",
        "{k: v for k, v in tree.items() if k != 'intercept'}",
    ],
    ids=["nan", "shape", "extra name", "type", "missing name"],
)
def test_a_tampered_update_is_stopped_at_the_site(bench_with: Callable[[str], Bench], change: str) -> None:
    bench = bench_with(TAMPERING.replace("{change}", change))
    ready = bench.run(lambda b: b.do(b.task()))
    assert isinstance(ready.reply, Failure) and ready.reply.code == "bad-update" and not ready.attachments
    assert not bench.site.store.rounds(bench.digest)


def test_an_extra_sum_is_stopped_at_the_site(bench_with: Callable[[str], Bench]) -> None:
    code = """
import numpy as np
import aimer2.site.serving as serving
from aimer2.models.linear import Logistic
honest = serving._hand_over
def more(performed, memory):
    return honest(type(performed)({**performed.sums, "rows": {"x": np.zeros(3)}}, performed.checks, performed.figures), memory)
def build(features, classes):
    serving._hand_over = more
    return Logistic(features)
"""
    bench = bench_with(code)

    async def two_rounds(b: Bench) -> Ready:
        await b.do(b.task(1))  # loads the study's code, which then is in the way of the next task
        return await b.do(b.task(2))

    ready = bench.run(two_rounds)
    assert isinstance(ready.reply, Failure) and ready.reply.code == "bad-update"


def test_a_failure_tells_nothing_of_the_data(bench_with: Callable[[str], Bench], marker: float) -> None:
    code = f"def build(features, classes):\n    from aimer2.core.errors import BadData\n    raise BadData('patient has {marker}')"
    bench = bench_with(code)
    ready = bench.run(lambda b: b.do(b.task()))
    assert isinstance(ready.reply, Failure) and ready.reply.code == "bad-data"
    assert str(marker) not in ready.reply.model_dump_json()
    assert str(marker) in bench.site.folder.log(bench.digest).read_text()


def test_withdrawal_kills_the_worker_and_erases_what_was_not_sent(bench: Bench) -> None:
    bench.site.approve(bench.digest, by="Dr Grace")

    async def withdrawn(b: Bench) -> tuple[Any, Ready]:
        await b.do(b.task())
        worker = b.workers.warm(b.digest)
        assert worker is not None
        b.site.withdraw(b.digest, by="Dr Grace")
        await b.performing.forget(b.digest)
        return worker, await b.do(b.task())

    worker, after = bench.run(withdrawn)
    assert worker._process.returncode == -signal.SIGKILL
    assert isinstance(after.reply, Refusal) and "withdrawn" in after.reply.reason
    assert not bench.site.folder.blobs(bench.digest).exists() and not bench.site.store.undelivered()


def test_a_study_that_has_used_up_its_hours_gets_no_more(bench: Bench) -> None:
    bench.site.approve(bench.digest, by="Dr Grace")
    bench.site.store.spend(bench.digest, 1e9)
    ready = bench.run(lambda b: b.do(b.task()))
    assert isinstance(ready.reply, Failure) and ready.reply.code == "out-of-resources"


def test_old_rounds_are_erased_and_the_last_two_kept(bench: Bench) -> None:
    bench.site.approve(bench.digest, by="Dr Grace")

    async def rounds(b: Bench) -> list[Answer]:
        answers = []
        for number in (1, 2, 3):
            reply = (await b.do(b.task(number))).reply
            assert isinstance(reply, Answer)
            answers.append(reply)
            b.site.store.mark_delivered([reply], 1.0)
            b.performing.erase_old(b.digest)
            b.performing.settle(b.digest)
        assert (b.site.folder.blobs(b.digest) / "small.sqlite-wal").stat().st_size == 0
        return answers

    first, second, third = bench.run(rounds)
    store = bench.performing.blobs(bench.digest)
    assert first.sums["difference"] not in store
    assert second.sums["difference"] in store and third.sums["difference"] in store
    assert read_tree(store.open(third.sums["difference"]))
    stored = bench.site.store.standing(bench.task(1)).stored
    assert stored is not None and stored.erased
