"""The simulator's engine: every message encoded and decoded, nothing shared behind its back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import numpy as np
import pytest

from aimer2.blobs.memory import MemoryStore
from aimer2.core.errors import BadData
from aimer2.core.task import Answer, BlobRef, Check, Failure, Reply, Task
from aimer2.core.tree import Tree
from aimer2.engines.in_process import InProcess
from aimer2.messages.tensors import read_tree
from aimer2.study.checkpoint import store
from aimer2.study.performed import Performed


class Site:
    """Does what it is told; counts in its memory."""

    def __init__(self, work: Callable[[Mapping[str, Tree]], Mapping[str, Tree]] | Exception, checks: tuple[Check, ...] = ()) -> None:
        self.work, self.checks = work, checks
        self.tasks: list[Task] = []

    def perform(self, task: Task, received: Mapping[str, Tree], memory: MutableMapping[str, Tree]) -> Performed:
        self.tasks.append(task)
        memory["times"] = {"n": np.asarray(memory.get("times", {"n": 0.0})["n"]) + 1}
        if isinstance(self.work, Exception):
            raise self.work
        return Performed({"memory": memory["times"], **self.work(received)}, self.checks)


def task(site: str, number: int = 1, attempt: int = 1, **inputs: BlobRef) -> Task:
    return Task(id=f"t-{number}-{site}", study="s", site=site, stage="train", round_number=number, attempt=attempt, inputs=inputs)


def ask(engine: InProcess, *tasks: Task) -> list[Reply]:
    async def all_replies() -> list[Reply]:
        return [reply async for reply in engine.ask({task.site: task for task in tasks})]

    return asyncio.run(all_replies())


def sums(reply: Reply, blobs: MemoryStore) -> dict[str, dict[str, list[float]]]:
    assert isinstance(reply, Answer)
    return {name: {leaf: np.asarray(array).tolist() for leaf, array in read_tree(blobs.open(ref)).items()} for name, ref in reply.sums.items()}


def test_a_task_is_done_with_what_it_brings() -> None:
    blobs, check = MemoryStore(), Check(name="columns", passed=True, finding="All there.")
    site = Site(lambda received: {"double": {"w": 2 * received["model"]["w"]}}, (check,))
    model = store({"w": np.arange(3.0)}, blobs)
    (reply,) = ask(InProcess({"a": site}, blobs), task("a", model=model))
    assert sums(reply, blobs)["double"] == {"w": [0, 2, 4]}
    assert isinstance(reply, Answer)
    assert (reply.task, reply.attempt, reply.site, reply.checks) == ("t-1-a", 1, "a", (check,))
    assert site.tasks[0] is not task and site.tasks[0] == task("a", model=model)


def test_asked_again_it_gives_the_same_reply_and_its_memory_stays() -> None:
    blobs = MemoryStore()
    engine = InProcess({"a": Site(lambda _: {})}, blobs)
    first, again = ask(engine, task("a"))[0], ask(engine, task("a"))[0]
    assert again == first
    assert sums(ask(engine, task("a", 2))[0], blobs)["memory"] == {"n": 2.0}
    assert sums(ask(engine, task("a", 2, attempt=2))[0], blobs)["memory"] == {"n": 3.0}, "another attempt is another task"


@pytest.mark.parametrize(
    "bad", [BadData("There is no column 'age'."), lambda _: {"s": {"w": np.array([np.nan])}}, lambda _: {"s": {"w": np.ones(1, bool)}}]
)
def test_a_task_that_fails_leaves_no_memory(bad: Any) -> None:
    blobs = MemoryStore()
    site = Site(bad)
    engine = InProcess({"a": site}, blobs)
    (reply,) = ask(engine, task("a"))
    assert isinstance(reply, Failure)
    assert (reply.code, reply.reason) in [
        ("bad-data", "There is no column 'age'."),
        ("bad-update", "The update has values that are not finite."),
        ("bad-update", "w is bool; only float16, float32, float64, int64, uint8, uint16, uint32 and uint64 travel."),
    ]
    site.work = lambda _: {}
    assert sums(ask(engine, task("a", 2))[0], blobs)["memory"] == {"n": 1.0}


def test_an_input_that_is_not_there_is_a_failure() -> None:
    (reply,) = ask(InProcess({"a": Site(lambda _: {})}, MemoryStore()), task("a", model=BlobRef(sha256="0" * 64, size=1)))
    assert isinstance(reply, Failure)
    assert reply.code == "not-found"


def test_a_fault_of_the_program_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        ask(InProcess({"a": Site(ZeroDivisionError())}, MemoryStore()), task("a"))


def test_what_is_received_cannot_be_changed_for_the_others() -> None:
    def change(received: Mapping[str, Tree]) -> Mapping[str, Tree]:
        received["model"]["w"][0] = 7.0
        return {}

    blobs = MemoryStore()
    with pytest.raises(ValueError, match="read-only"):
        ask(InProcess({"a": Site(change)}, blobs), task("a", model=store({"w": np.zeros(2)}, blobs)))


def test_sites_answer_in_the_order_given_and_those_left_out_never() -> None:
    sites = {name: Site(lambda _: {}) for name in "abc"}
    engine = InProcess(sites, MemoryStore(), order=("c", "a"))
    assert [reply.site for reply in ask(engine, task("a"), task("b"), task("c"))] == ["c", "a"]
    assert asyncio.run(engine.sites()) == ["a", "b", "c"]
    asyncio.run(engine.withdraw([task("b")]))
