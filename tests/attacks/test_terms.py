"""A coordinator that asks for something else than was approved: other stages, rounds, memories, messages about other rounds."""

from __future__ import annotations

import numpy as np
import pytest
from secure_federation import Federation

from aimer2.core.errors import BadInput, Conflict, Tampered
from aimer2.core.task import BlobRef, Stage, Task
from aimer2.secure_aggregation.messages import EpochTerms, RoundTerms
from aimer2.study.secure_update import MaskedUpdate, Request, SecureUpdate, layout_in


def task(request: Request, *, stage: Stage = "train", number: int = 1, attempt: int = 1, counted: int = 0, phase: str = "update") -> Task:
    fields = {"id": "t", "study": "5e" * 32, "site": "site-0", "stage": stage, "round_number": number, "attempt": attempt}
    return Task.model_validate({**fields, "counted": counted, "phase": phase, "message": request.model_dump_json()})


def epoch(stage: Stage = "train", attempt: int = 1, first: int = 1) -> EpochTerms:
    return EpochTerms(stage=stage, attempt=attempt, first_round=first, rounds=1)


@pytest.mark.parametrize("phase", ["keys", "shares", "update", "agree", "reveal"])
@pytest.mark.parametrize("other", [epoch("moments"), epoch(attempt=2), epoch(first=2)], ids=["stage", "attempt", "round"])
def test_keys_of_one_stage_serve_no_task_of_another(other: EpochTerms, phase: str) -> None:
    """Else the rule of one opened set for each round is asked of one stage and broken in the other."""
    federation = Federation(3)
    secure = SecureUpdate(federation.members["site-0"])
    asked = task(Request(epoch=other), phase=phase)
    with pytest.raises(Tampered, match="different rounds"):
        secure.begin(asked) if phase == "update" else secure.say(asked)


def test_a_message_about_another_round_than_its_task_is_refused() -> None:
    federation = Federation(3)
    asked = task(Request(epoch=epoch(), round=RoundTerms(round_number=2, layout="0" * 64)), phase="agree")
    with pytest.raises(Tampered, match="different rounds"):
        SecureUpdate(federation.members["site-0"]).say(asked)


def test_a_round_is_computed_from_one_memory_only() -> None:
    """Two sums over the same sites and model, of which one site alone started from another memory, differ by that memory."""
    federation = Federation(3)
    federation.set_up()
    secure = SecureUpdate(federation.members["site-0"])
    first = task(Request(epoch=federation.terms), counted=1)
    secure.begin(first)
    masked = secure.mask(first, {"sum": {"w": np.ones(2)}})
    for tree in masked.trees.values():
        for leaf in tree.values():
            leaf.read(0, int(np.prod(leaf.shape)))
    secure.submit(first, masked, {name: BlobRef(sha256="0" * 64, size=1) for name in masked.trees})
    secure.begin(first)
    federation.terms = federation.terms.model_copy(update={"attempt": 2})
    federation.set_up()
    with pytest.raises(Conflict, match="another memory"):
        secure.begin(task(Request(epoch=federation.terms), attempt=2, counted=0))
    secure.begin(task(Request(epoch=federation.terms), attempt=2, counted=1))


def test_a_layout_that_no_reader_survives_is_a_bad_answer() -> None:
    with pytest.raises(BadInput):
        layout_in(MaskedUpdate(signed="", layout="[" * 100_000))
