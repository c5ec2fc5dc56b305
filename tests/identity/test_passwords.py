from __future__ import annotations

import time

import pytest
from argon2 import PasswordHasher

from aimer2.core.errors import BadInput
from aimer2.identity.passwords import _NOBODY, hash_password, needs_rehash, verify_or_burn

PASSWORD = "grüner Tee um vier"


def test_the_right_password_fits_and_no_other() -> None:
    stored = hash_password(PASSWORD)
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert verify_or_burn(stored, PASSWORD)
    assert not verify_or_burn(stored, PASSWORD + " ")
    assert not verify_or_burn(stored, "")
    assert not verify_or_burn(stored, "\ud800")
    assert hash_password(PASSWORD) != stored


def test_an_umlaut_may_be_typed_as_one_character_or_two() -> None:
    assert verify_or_burn(hash_password(PASSWORD), "gru\u0308ner Tee um vier")


def test_without_an_account_the_same_work_is_done() -> None:
    stored = hash_password(PASSWORD)

    def fastest(known: str | None) -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            assert not verify_or_burn(known, "wrong password")
            times.append(time.perf_counter() - started)
        return min(times)

    assert fastest(None) > fastest(stored) / 3
    assert not needs_rehash(_NOBODY)  # so its parameters are those of today


def test_a_damaged_record_lets_nobody_in() -> None:
    for stored in ["nonsense", "$argon2id$v=19$m=65536,t=3,p=4$", PASSWORD]:
        assert not verify_or_burn(stored, PASSWORD)


def test_weaker_parameters_are_noticed() -> None:
    assert not needs_rehash(hash_password(PASSWORD))
    assert needs_rehash(PasswordHasher(time_cost=1, memory_cost=1024).hash(PASSWORD))


@pytest.mark.parametrize("password", ["", "short", "x" * 11, "x" * 1025])
def test_lengths(password: str) -> None:
    with pytest.raises(BadInput):
        hash_password(password)
