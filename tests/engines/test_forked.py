"""The simulator on several cores: real children, the bits and events of one process, and what happens when a child fails or is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import numpy as np
import pytest

from aimer2.blobs.memory import MemoryStore
from aimer2.core.errors import BadData
from aimer2.core.random import SecureBytes
from aimer2.core.task import Answer, BlobRef, Failure, Reply, Task
from aimer2.core.tree import Tree
from aimer2.engines.forked import Forked
from aimer2.engines.in_process import InProcess
from aimer2.messages.tensors import read_tree
from aimer2.study.checkpoint import store
from aimer2.study.performed import Performed

Work = Callable[[Mapping[str, Tree]], Mapping[str, Tree]]


class Site:
    """Does what it is told; counts in its memory, and says in which process."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def perform(self, task: Task, received: Mapping[str, Tree], memory: MutableMapping[str, Tree]) -> Performed:
        memory["times"] = {"n": np.asarray(memory.get("times", {"n": 0.0})["n"]) + 1}
        return Performed({"memory": memory["times"], "process": {"pid": np.array([os.getpid()])}, **self.work(received)})


def task(site: str, number: int = 1, **inputs: BlobRef) -> Task:
    return Task(id=f"t-{number}-{site}", study="s", site=site, stage="train", round_number=number, inputs=inputs)


def run(work: Mapping[str, Work], rounds: Callable[[Forked, MemoryStore], Any], workers: int = 2, *, at_once: bool = True) -> Any:
    async def all_rounds() -> Any:
        blobs = MemoryStore()
        whole = InProcess({name: Site(does) for name, does in work.items()}, blobs)
        engine = Forked(whole, blobs, workers=workers, at_once=at_once, order=sorted(work))
        try:
            return await rounds(engine, blobs)
        finally:
            await engine.close()

    return asyncio.run(all_rounds())


async def ask(engine: Forked, *tasks: Task) -> list[Reply]:
    return [reply async for reply in engine.ask({task.site: task for task in tasks})]


def sums(reply: Reply, blobs: MemoryStore) -> dict[str, Any]:
    assert isinstance(reply, Answer)
    return {name: {leaf: np.asarray(array) for leaf, array in read_tree(blobs.open(ref)).items()} for name, ref in reply.sums.items()}


def nothing(_: Mapping[str, Tree]) -> Mapping[str, Tree]:
    return {}


def test_children_do_the_work_each_site_always_in_one_of_them() -> None:
    async def rounds(engine: Forked, blobs: MemoryStore) -> list[list[dict[str, Any]]]:
        model = store({"w": np.arange(4.0)}, blobs)
        told = []
        for number in (1, 2):
            replies = await ask(engine, *(task(site, number, model=model) for site in "dabc"))
            assert [reply.site for reply in replies] == ["a", "b", "c", "d"]
            told.append([sums(reply, blobs) for reply in replies])
        return told

    first, second = run(dict.fromkeys("abcd", lambda received: {"double": {"w": 2 * received["model"]["w"]}}), rounds)
    processes = [int(site["process"]["pid"][0]) for site in first]
    assert len(set(processes)) == 2 and os.getpid() not in processes
    assert [int(site["process"]["pid"][0]) for site in second] == processes
    assert [float(site["memory"]["n"]) for site in first + second] == [1] * 4 + [2] * 4
    assert all(site["double"]["w"].tolist() == [0, 2, 4, 6] for site in first + second)


def test_what_a_process_remembers_goes_over_to_the_children() -> None:
    async def rounds(engine: Forked, blobs: MemoryStore) -> list[tuple[float, int]]:
        told = []
        for number in (1, 2):
            (_, b) = await ask(engine, task("a", number), task("b", number))
            told.append((float(sums(b, blobs)["memory"]["n"]), int(sums(b, blobs)["process"]["pid"][0])))
        return told

    def long(_: Mapping[str, Tree]) -> Mapping[str, Tree]:
        return {"sum": {"s": np.sort(np.random.default_rng(0).random(3_000_000))[:1]}}

    (once, here), (twice, there) = run({"a": long, "b": long}, rounds, at_once=False)
    assert (once, twice) == (1, 2)
    assert here == os.getpid() != there, "a round that took long is worth the start of children"


def test_a_short_round_starts_no_child() -> None:
    async def rounds(engine: Forked, blobs: MemoryStore) -> list[int]:
        return [int(sums((await ask(engine, task("a", n), task("b", n)))[0], blobs)["process"]["pid"][0]) for n in (1, 2)]

    assert run({"a": nothing, "b": nothing}, rounds, at_once=False) == [os.getpid()] * 2


def test_large_answers_and_repeated_ones_come_whole() -> None:
    async def rounds(engine: Forked, blobs: MemoryStore) -> list[Any]:
        return [sums(reply, blobs)["big"]["w"] for reply in await ask(engine, *map(task, "abcdef"))]

    def big(number: int) -> Work:
        return lambda _: {"big": {"w": np.full(700_000, number % 3, np.float32)}}

    for number, array in enumerate(run({site: big(number) for number, site in enumerate("abcdef")}, rounds)):
        assert array.shape == (700_000,) and (array == number % 3).all()


def test_a_site_that_fails_is_a_reply_and_a_fault_of_the_program_is_raised() -> None:
    def poor(_: Mapping[str, Tree]) -> Mapping[str, Tree]:
        raise BadData("There is no column 'age'.")

    async def one(engine: Forked, blobs: MemoryStore) -> list[Reply]:
        return await ask(engine, task("a"), task("b"))

    failed, answered = run({"a": poor, "b": nothing}, one)
    assert isinstance(failed, Failure) and (failed.code, failed.reason) == ("bad-data", "There is no column 'age'.")
    assert isinstance(answered, Answer)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run({"a": nothing, "b": lambda _: {"s": {"w": 1 // 0}}}, one)


def test_a_child_that_is_killed_is_told_at_once() -> None:
    def killed(_: Mapping[str, Tree]) -> Mapping[str, Tree]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    async def one(engine: Forked, blobs: MemoryStore) -> list[Reply]:
        return await ask(engine, task("a"), task("b"))

    with pytest.raises(RuntimeError, match="has ended"):
        run({"a": nothing, "b": killed}, one)


def test_a_round_that_is_given_up_does_not_disturb_the_next() -> None:
    async def rounds(engine: Forked, blobs: MemoryStore) -> list[Reply]:
        given_up = engine.ask({site: task(site) for site in "abcd"})
        await anext(given_up)
        await given_up.aclose()  # type: ignore[attr-defined]
        return await ask(engine, *(task(site, 2) for site in "abcd"))

    assert [reply.task for reply in run(dict.fromkeys("abcd", nothing), rounds)] == [f"t-2-{site}" for site in "abcd"]


def test_no_child_outlives_the_engine() -> None:
    async def rounds(engine: Forked, blobs: MemoryStore) -> list[int]:
        return [int(sums(reply, blobs)["process"]["pid"][0]) for reply in await ask(engine, task("a"), task("b"))]

    for pid in run({"a": nothing, "b": nothing}, rounds):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_secure_bytes_are_not_the_same_in_a_child() -> None:
    source = SecureBytes()
    source.read(16)

    async def rounds(engine: Forked, blobs: MemoryStore) -> list[bytes]:
        replies = await ask(engine, task("a"), task("b"))
        return [sums(reply, blobs)["drawn"]["b"].tobytes() for reply in replies]

    def draw(_: Mapping[str, Tree]) -> Mapping[str, Tree]:
        return {"drawn": {"b": source.words(2)}}

    children = run({"a": draw, "b": draw}, rounds)
    assert len({*children, source.words(2).tobytes()}) == 3
