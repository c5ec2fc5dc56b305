"""A refusal under its site's signature: whole, or none."""

from __future__ import annotations

from typing import Any

import pytest

from aimer2.core.said import say
from aimer2.core.task import Refusal
from aimer2.identity.documents import sign_document
from aimer2.identity.keys import SigningKey
from aimer2.study.refused import said_in, signed, vouched

KEY, STUDY = SigningKey.generate(), "5e" * 32
WORDS = say("would reach {reached} of {epsilon}", reached="3.42", epsilon="3.00")
REFUSAL = signed(Refusal(task="t-1", attempt=2, site="north", code="budget-exceeded", reason=WORDS), STUDY, KEY, 7.0)


def test_what_a_site_has_signed_is_read_by_whoever_has_its_key() -> None:
    said = said_in(REFUSAL.signed, KEY.public)
    assert said is not None and (said.study, said.site, said.code, said.reason, said.time) == (STUDY, "north", "budget-exceeded", str(WORDS), 7.0)
    assert said.words["reason"].values == {"reached": "3.42", "epsilon": "3.00"}
    assert vouched(Refusal.model_validate_json(REFUSAL.model_dump_json()), STUDY, KEY.public) == REFUSAL


@pytest.mark.parametrize(
    "change",
    [{"task": "t-2"}, {"attempt": 3}, {"site": "east"}, {"code": "not-approved"}, {"reason": "would reach 3.42 of 9.00"}, {"signed": "x"}],
    ids=lambda change: next(iter(change)),
)
def test_a_signature_under_something_else_is_none(change: dict[str, Any]) -> None:
    assert vouched(REFUSAL.model_copy(update=change), STUDY, KEY.public).signed == ""


def test_neither_another_study_nor_another_key_nor_another_kind_is_vouched_for() -> None:
    assert vouched(REFUSAL, "1" * 64, KEY.public).signed == ""
    assert vouched(REFUSAL, STUDY, SigningKey.generate().public).signed == ""
    said = said_in(REFUSAL.signed, KEY.public)
    assert said is not None
    other = sign_document(said.model_dump_json().encode(), KEY, kind="decision")
    assert said_in(other, KEY.public) is None and said_in(sign_document(b"{}", KEY, kind="refusal"), KEY.public) is None
