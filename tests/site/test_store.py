from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from aimer2.core.errors import VersionMismatch
from aimer2.core.task import Answer, BlobRef, Task
from aimer2.messages.wire import Decision
from aimer2.site.store import Finished, Store


def ref(letter: str) -> BlobRef:
    return BlobRef(sha256=letter * 64, size=10)


def task(round_number: int, attempt: int = 1, stage: str = "train") -> Task:
    fields = {"id": f"{stage}-{round_number}", "study": "5" * 64, "site": "north", "stage": stage}
    return Task.model_validate({**fields, "round_number": round_number, "attempt": attempt, "inputs": {"model": ref("0")}})


def finish(store: Store, done: Task, sums: str, memory: str | None = None) -> Answer:
    answer = Answer(task=done.id, attempt=done.attempt, site="north", sums={"difference": ref(sums)})
    store.commit(Finished(done, answer, {} if memory is None else {"c": ref(memory)}, [], 2.0, 1.0))
    return answer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state.sqlite")


def test_memory_is_that_of_the_round_before_whatever_the_attempt(store: Store) -> None:
    assert store.standing(task(1)).memory == {}
    finish(store, task(1), "a", "1")
    finish(store, task(2), "b", "2")
    assert store.standing(task(2, attempt=2)).memory == {"c": ref("1")}
    finish(store, task(2, attempt=2), "c", "3")
    assert store.standing(task(3)).memory == {"c": ref("3")}
    assert store.standing(task(1, stage="final")).memory == {"c": ref("3")}
    assert store.standing(task(1, stage="moments")).memory == {}


def test_memory_that_was_given_up_stays_away(store: Store) -> None:
    finish(store, task(1), "a", "1")
    finish(store, task(2), "b")
    assert store.standing(task(3)).memory == {}


def test_an_answer_is_there_whole_or_not_at_all_and_never_twice(store: Store) -> None:
    finish(store, task(1), "a")
    with pytest.raises(Exception, match="UNIQUE"):
        finish(store, task(1), "b")
    standing = store.standing(task(1))
    assert standing.stored is not None and standing.stored.answer.sums == {"difference": ref("a")}
    assert standing.cpu_seconds == 2.0 and standing.bytes_kept == 20


def test_what_was_delivered_is_not_sent_again(store: Store) -> None:
    answer = finish(store, task(1), "a")
    assert [stored.answer for stored in store.undelivered()] == [answer]
    store.mark_delivered([answer], 3.0)
    assert not store.undelivered()


def test_tidying_keeps_the_last_two_rounds_what_is_not_delivered_and_what_is_shared(store: Store) -> None:
    answers = [finish(store, task(number), sums) for number, sums in ((1, "a"), (2, "b"), (3, "c"), (4, "a"))]
    store.mark_delivered([answers[0], answers[2], answers[3]], 1.0)
    assert store.tidy("5" * 64) == []
    store.mark_delivered([answers[1]], 1.0)
    assert store.tidy("5" * 64) == [ref("b")]
    erased = store.standing(task(1)).stored
    assert erased is not None and erased.erased


def test_the_last_word_counts_and_survives(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    fields: dict[str, Any] = {"study": "5" * 64, "site": "north", "by": "Dr Grace", "dataset": "heart", "time": 1.0}
    store = Store(path)
    for said in ("approve", "withdraw"):
        store.decide(Decision.model_validate(fields | {"decision": said}), f"signed {said}")
    store.close()
    store = Store(path)
    last = store.standing(task(1)).decision
    assert last is not None and last.decision == "withdraw"
    assert [statement for _, statement in store.unsent()] == ["signed approve", "signed withdraw"]
    store.mark_sent(store.unsent()[0][0])
    assert [statement for _, statement in store.unsent()] == ["signed withdraw"]
    assert path.stat().st_mode & 0o077 == 0


def test_a_newer_form_is_not_touched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(VersionMismatch):
        Store(tmp_path / "state.sqlite")
