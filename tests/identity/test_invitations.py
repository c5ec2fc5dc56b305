from __future__ import annotations

import json
import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.core.errors import BadInput, VersionMismatch
from aimer2.identity import base64url
from aimer2.identity.invitations import Invitation, _checksum, hash_code, new_code
from aimer2.identity.keys import SigningKey

KEY = SigningKey.generate().public
INVITATION = Invitation("https://coordinator.example:8443", new_code(), "ab" * 32, KEY.text, "charite", 1_800_000_000)
TEXT = INVITATION.to_text()


@given(st.none() | st.text(max_size=63), st.none() | st.just("01" * 32), st.integers(0, 2**40))
def test_an_invitation_comes_back(site: str | None, fingerprint: str | None, expires: int) -> None:
    invitation = replace(INVITATION, site=site, fingerprint=fingerprint, expires=expires)
    text = invitation.to_text()
    assert Invitation.from_text(text) == invitation
    assert text.startswith("aimer2-invite.")
    assert set(text) <= set(string.ascii_letters + string.digits + "-_.")


def test_line_breaks_of_a_mail_do_no_harm() -> None:
    wrapped = "\r\n  ".join(TEXT[start : start + 60] for start in range(0, len(TEXT), 60))
    assert Invitation.from_text(f"\n {wrapped} \n") == INVITATION


@given(st.data())
def test_a_wrong_missing_doubled_or_swapped_character_is_found(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(TEXT) - 2))
    letter = data.draw(st.sampled_from(string.ascii_letters + string.digits + "-_."))
    for spoilt in [
        TEXT[:place] + letter + TEXT[place + 1 :],
        TEXT[:place] + TEXT[place + 1 :],
        TEXT[:place] + TEXT[place] + TEXT[place:],
        TEXT[:place] + TEXT[place + 1] + TEXT[place] + TEXT[place + 2 :],
        TEXT[:place],
    ]:
        if spoilt != TEXT:
            with pytest.raises(BadInput):
                Invitation.from_text(spoilt)


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "http://coordinator.example"},
        {"url": "coordinator.example"},
        {"url": "https://"},
        {"code": "1234"},
        {"fingerprint": "ab"},
        {"fingerprint": "AB" * 32},
        {"coordinator_key": KEY.text[:-1]},
    ],
)
def test_an_invitation_that_cannot_work_is_not_made(changes: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        replace(INVITATION, **changes)  # type: ignore[arg-type]


def spell(document: object) -> str:
    body = base64url.encode(json.dumps(document).encode())
    return f"aimer2-invite.{body}.{_checksum(body)}"


def test_what_others_may_have_written_into_it() -> None:
    document = json.loads(base64url.decode(TEXT.split(".")[1]))
    assert Invitation.from_text(spell(document)) == INVITATION
    with pytest.raises(VersionMismatch):
        Invitation.from_text(spell({**document, "version": 2}))
    for wrong in [[], 1, None, {}, {"version": 1}, {**document, "more": 1}, {**document, "expires": "1"}, {**document, "expires": True}]:
        with pytest.raises(BadInput):
            Invitation.from_text(spell(wrong))


def test_a_person_reads_everything_but_the_code() -> None:
    shown = INVITATION.describe()
    assert INVITATION.code not in shown
    assert INVITATION.code not in repr(INVITATION)
    for part in ["https://coordinator.example:8443", KEY.fingerprint, "ab" * 32, "charite", "2027-01-15T08:00:00Z"]:
        assert part in shown


def test_codes_are_long_and_stored_as_digests() -> None:
    codes = {new_code() for _ in range(100)}
    assert len(codes) == 100
    assert all(len(base64url.decode(code)) == 16 for code in codes)
    assert hash_code("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
