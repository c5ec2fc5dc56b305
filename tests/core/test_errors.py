"""Codes are promises: clients and logs of other versions rest on them."""

from __future__ import annotations

import pytest

from aimer2.core import errors
from aimer2.core.errors import AimerError, BadStudy, Fault, catalogue

# code: (class, HTTP status). Nothing is ever taken out or changed here.
CODES = {
    "internal": ("AimerError", 500),
    "bad-input": ("BadInput", 400),
    "bad-study": ("BadStudy", 400),
    "bad-data": ("BadData", 400),
    "bad-model": ("BadModel", 400),
    "bad-update": ("BadUpdate", 400),
    "not-authenticated": ("NotAuthenticated", 401),
    "clock-skew": ("ClockSkew", 401),
    "not-allowed": ("NotAllowed", 403),
    "not-approved": ("NotApproved", 403),
    "too-many-attempts": ("TooManyAttempts", 429),
    "frozen": ("Frozen", 403),
    "not-verified": ("NotVerified", 403),
    "budget-exceeded": ("BudgetExceeded", 403),
    "not-found": ("NotFound", 404),
    "conflict": ("Conflict", 409),
    "tampered": ("Tampered", 409),
    "not-available": ("NotAvailable", 422),
    "version-mismatch": ("VersionMismatch", 422),
    "no-result": ("NoResult", 409),
    "too-large": ("TooLarge", 413),
    "out-of-resources": ("OutOfResources", 507),
    "unreachable": ("Unreachable", 503),
}


class Local(errors.Conflict):
    """A way to raise a Conflict with more in hand."""

    def __init__(self) -> None:
        super().__init__("It is so.")


def classes() -> list[type[AimerError]]:
    found, todo = [], [AimerError]
    while todo:
        error = todo.pop()
        found += [error] * ("code" in vars(error))
        todo.extend(kind for kind in error.__subclasses__() if kind.__module__.startswith("aimer2."))
    return found


def test_codes_are_stable() -> None:
    ours = {code: (kind.__name__, kind.status) for code, kind in catalogue().items() if kind.__module__ == "aimer2.core.errors"}
    assert ours == CODES


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_every_class_has_its_own_code_sentence_and_remedy(kind: type[AimerError]) -> None:
    assert [other for other in classes() if other.code == kind.code] == [kind]
    assert "remedy" in vars(kind)
    assert (kind.__doc__ or "").strip().splitlines()[0].endswith(".")


def test_a_class_without_a_code_of_its_own_does_not_take_its_parents_place() -> None:
    assert Local().code == "conflict"
    assert catalogue()["conflict"] is errors.Conflict


def test_an_error_says_its_sentence_and_what_to_do() -> None:
    plain = catalogue()["not-found"]()
    assert (plain.sentence, plain.advice) == ("There is no such thing.", "Check the name or digest.")
    told = catalogue()["not-found"]("There is no study 12ab….", remedy="Look at the list.")
    assert (told.sentence, told.advice, str(told)) == ("There is no study 12ab….", "Look at the list.", "There is no study 12ab….")


def test_a_bad_study_lists_every_fault() -> None:
    error = BadStudy([Fault("name", "is missing", "add it"), Fault("sites.minimum", "is 3", "lower it")])
    assert error.sentence == "The study has faults:\n  name: is missing — add it\n  sites.minimum: is 3 — lower it"
    assert [fault.place for fault in error.faults] == ["name", "sites.minimum"]
