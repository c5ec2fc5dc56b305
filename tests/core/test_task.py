"""Names of sites, tasks and blobs: what is refused at the door."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from aimer2.core.task import Answer, BlobRef, Failure, Reply, SiteId, Task

REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)


@pytest.mark.parametrize("name", ["a", "7", "charite-berlin", "a" * 63, "0-0"])
def test_site_names_that_are_right(name: str) -> None:
    assert TypeAdapter(SiteId).validate_python(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a" * 64, "a.b", "a b", "a\n", "ä", "a/b", "²"])
def test_site_names_that_are_wrong(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(SiteId).validate_python(name)
    with pytest.raises(ValidationError):
        Task(id="x", study="s", site=name, stage="train", round_number=1)


@pytest.mark.parametrize("sha256", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", "../" + "a" * 61])
def test_digests_that_are_wrong(sha256: str) -> None:
    with pytest.raises(ValidationError):
        BlobRef(sha256=sha256, size=1)


@pytest.mark.parametrize(
    "change",
    [{"id": ""}, {"id": "x" * 129}, {"stage": "dance"}, {"round_number": -1}, {"attempt": 0}, {"inputs": {"model": "abc"}}, {"more": 1}],
    ids=str,
)
def test_tasks_that_are_wrong(change: dict[str, object]) -> None:
    right = {"id": "x", "study": "s", "site": "a", "stage": "train", "round_number": 1}
    assert Task.model_validate(right).attempt == 1
    with pytest.raises(ValidationError):
        Task.model_validate(right | change)


def test_a_reply_is_told_by_its_kind() -> None:
    answer = Answer(task="x", attempt=2, site="a", sums={"weight": BlobRef(sha256="a" * 64, size=3)})
    failure = Failure(task="x", attempt=2, site="a", code="bad-data", reason="No column.")
    for reply in (answer, failure):
        assert REPLY.validate_json(reply.model_dump_json()) == reply
    with pytest.raises(ValidationError):
        REPLY.validate_python({"kind": "shrug", "task": "x", "attempt": 1, "site": "a", "code": "c", "reason": "r"})


def test_a_message_cannot_be_changed() -> None:
    ref = BlobRef(sha256="a" * 64, size=3)
    with pytest.raises(ValidationError):
        ref.size = 4
