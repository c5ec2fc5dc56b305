"""What does not hold is found, and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from made_versions import COORDINATOR, decided, signed, staged

from aimer2.client.simulate import made_up_key
from aimer2.core.task import Refusal, task_id
from aimer2.identity.keys import SigningKey
from aimer2.messages.record import StudyRecord
from aimer2.repository.verify import verify
from aimer2.repository.version import open_version
from aimer2.study import refused

Make = Callable[..., Any]


def failures(made: Any, **changes: Any) -> dict[str, str]:
    record = StudyRecord.model_validate(made.record.model_dump(mode="json") | changes)
    version = open_version(record, COORDINATOR.public, made.weights)
    return {finding.what: finding.told for finding in verify(version) if not finding.holds}


def test_an_honest_version_holds_in_every_point(make: Make) -> None:
    made = make()
    assert failures(made) == {}
    findings = {finding.what: finding.told for finding in verify(made.version)}
    assert {"study", "lineage", "final model", "weights", "approval of east", "approval of north", "approval of west"} <= findings.keys()
    assert findings["approval of east"] == "signed at the site by Dr Test"


def test_another_document_under_the_same_result_is_found(make: Make) -> None:
    made = make()
    package = made.record.package.model_dump(mode="json")
    package["study"]["purpose"] = "something that no hospital has read"
    assert failures(made, package=package).keys() >= {"study"}


def test_an_approval_that_the_site_did_not_sign_does_not_count(make: Make) -> None:
    made = make()
    study, good = made.record.study, list(made.record.decisions)
    forged = decided(study, "east", SigningKey.generate())
    assert failures(made, decisions=[forged, *good[1:]]).keys() == {"approval of east"}
    assert failures(made, decisions=good[1:]).keys() == {"approval of east"}
    other = decided("0" * 64, "east")
    assert failures(made, decisions=[other, *good[1:]]).keys() == {"approval of east"}
    refused = decided(study, "east", decision="refuse", reason="Not here.")
    assert failures(made, decisions=[refused, *good[1:]]) == {"approval of east": "it refused: Not here."}
    later = decided(study, "east", decision="withdraw")
    assert failures(made, decisions=[later, *good[1:]]) == {}, "it had approved when its patients' part was computed"


def test_one_site_cannot_sign_for_another(make: Make) -> None:
    made = make()
    words = decided(made.record.study, "east")
    forged = decided(made.record.study, "north", made_up_key("east"))
    assert failures(made, decisions=[words, forged, made.record.decisions[2]]).keys() == {"approval of north"}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"lineage": {"initial": "0" * 64}}, "lineage"),
        ({"model": {"sha256": "1" * 64}}, "final model"),
    ],
)
def test_a_coordinator_that_signs_what_does_not_fit_is_found(make: Make, change: dict[str, Any], what: str) -> None:
    made = make()
    result = dict(made.simulation.result)
    for name, inner in change.items():
        result[name] = {**result[name], **inner}
    found = failures(made, result=signed(result))
    assert what in found


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"asked": (2, "agree")}, True),
        ({"asked": (1, "keys")}, True),  # its keys serve round 2 as well
        ({"asked": (1, "update")}, False),
        ({"asked": (3, "keys")}, False),
        ({"attempt": 2}, False),
        ({"key": "north"}, False),
        ({"reason": "something else"}, False),
    ],
)
def test_a_refusal_holds_as_its_site_has_signed_it(make: Make, change: dict[str, Any], holds: bool) -> None:
    made = make()
    number, phase = change.get("asked", (2, "update"))
    name = task_id(made.record.study, "train", number, "east", phase)
    said = Refusal(task=name, attempt=change.get("attempt", 1), site="east", code="budget-exceeded", reason="as said")
    statement = refused.signed(said, made.record.study, made_up_key(change.get("key", "east")), 1.0).signed
    result = dict(made.simulation.result)
    reason = change.get("reason", "as said")
    absence = {"stage": "train", "round": 2, "outcome": "refused", "code": "budget-exceeded", "reason": reason, "signed": statement}
    result["sites"] = {**result["sites"], "east": {**result["sites"]["east"], "absences": [absence]}}
    assert ("refusals of east" in failures(made, result=signed(result))) is not holds


def test_a_stage_of_other_weights_is_found(make: Make) -> None:
    made = make()
    right = staged(made.record.study, made.version.model.sha256, "validated")
    assert failures(made, stages=[right]) == {}
    wrong = staged(made.record.study, "2" * 64, "released")
    assert failures(made, stages=[right, wrong]).keys() == {"stages"}


def test_changed_weights_are_found(make: Make) -> None:
    made = make()
    made.weights.write_bytes(made.weights.read_bytes()[:-1] + b"?")
    assert failures(made).keys() == {"weights"}
