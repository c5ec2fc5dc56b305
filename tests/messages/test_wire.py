"""Every message comes back as it was sent, and every error as what it is."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
from typing import Any

import pytest
from pydantic import ValidationError

from aimer2.core import errors
from aimer2.core.errors import AimerError, BadStudy, Fault, NotFound, Tampered, catalogue
from aimer2.messages.wire import Decision, Exchange, Problem, attach, detach, error_of, problem_of


@pytest.mark.parametrize("code", [code for code, kind in catalogue().items() if kind.__module__ == "aimer2.core.errors"])
def test_an_error_crosses_the_wire(code: str) -> None:
    kind = catalogue()[code]
    if kind is BadStudy:
        sent: AimerError = BadStudy([Fault("name", "is missing", "add it"), Fault("seed", "is -1", "correct the value")])
    else:
        sent = kind("There is no study 12ab….", remedy="Look at the list.")
    problem = Problem.model_validate_json(problem_of(sent).model_dump_json())
    came = error_of(problem)
    assert type(came) is kind
    assert (came.sentence, came.advice, came.status) == (sent.sentence, sent.advice, sent.status)
    assert getattr(came, "faults", None) == getattr(sent, "faults", None)
    assert problem.title == inspect.getdoc(kind).splitlines()[0]  # type: ignore[union-attr]
    assert (problem.type, problem.status) == (f"urn:aimer2:error:{code}", kind.status)


def test_a_study_without_told_faults_is_still_a_bad_study() -> None:
    assert type(error_of(problem_of(BadStudy([])))) is BadStudy


def test_an_error_of_a_newer_version_keeps_its_code_and_faults_though_more_is_said() -> None:
    sent = problem_of(BadStudy([Fault("name", "is missing", "add it")])).model_dump(mode="json")
    more = {"instance": "/v1/studies", "of_the_future": 1}
    came = Problem.model_validate_json(json.dumps(sent | more | {"faults": [fault | more for fault in sent["faults"]]}))
    assert came.model_dump(mode="json") == sent, "nothing unknown goes along"
    assert error_of(came).code == BadStudy.code


def test_a_code_of_a_newer_version_is_an_error_of_ours_with_its_own_words() -> None:
    problem = problem_of(NotFound("Gone.")).model_copy(
        update={"code": "of-the-future", "faults": problem_of(BadStudy([Fault("a", "b", "c")])).faults}
    )
    came = error_of(problem)
    assert type(came) is AimerError
    assert (came.sentence, came.advice) == ("Gone.", problem.remedy)


def test_a_problem_holds_no_more_than_the_error_says() -> None:
    try:
        try:
            raise ValueError("patient 4711 has a value of 3.7")
        except ValueError as cause:
            raise errors.BadData("A column is not numeric.") from cause
    except AimerError as error:
        assert "4711" not in problem_of(error).model_dump_json()


@pytest.mark.parametrize("data", [b"", b"\x00\xff", b"x" * 100_000])
def test_attachments_come_back(data: bytes) -> None:
    assert detach(hashlib.sha256(data).hexdigest(), attach(data)) == data
    assert detach(hashlib.sha256(data).hexdigest(), attach(memoryview(data))) == data


@pytest.mark.parametrize("text", ["####", "YQ", "YQ==\n", "YQ==YQ==", "é", "\ud800", base64.b64encode(b"b").decode()])
def test_attachments_that_are_not_what_their_name_says(text: str) -> None:
    with pytest.raises(Tampered):
        detach(hashlib.sha256(b"a").hexdigest(), text)


@pytest.mark.parametrize(
    "change",
    [
        {"wait_seconds": 301},
        {"wait_seconds": -1},
        {"attachments": {"abc": ""}},
        {"replies": [{"kind": "answer", "task": "t", "attempt": 1, "site": "Not A Site"}]},
        {"replies": [{"kind": "answer", "task": "t", "attempt": 1, "site": "a", "sums": {"w": {"sha256": "x", "size": 1}}}]},
        {"mood": "good"},
    ],
    ids=str,
)
def test_exchanges_that_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Exchange.model_validate(change)


@pytest.mark.parametrize("change", [{"by": "x" * 201}, {"reason": "x" * 2001}])
def test_a_decision_has_room_in_the_audit_log(change: dict[str, str]) -> None:
    document = {"study": "0" * 64, "site": "a", "decision": "refuse", "by": "x" * 200, "dataset": "d", "reason": "x" * 2000, "time": 1.0}
    Decision.model_validate(document)
    with pytest.raises(ValidationError):
        Decision.model_validate(document | change)
