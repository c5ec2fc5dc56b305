from __future__ import annotations

import secrets

import jwt
import pytest

from aimer2.core.errors import BadInput, NotAuthenticated
from aimer2.identity.assertions import make_assertion
from aimer2.identity.keys import SigningKey
from aimer2.identity.tokens import Holder, check_token, issue_token

SECRET = secrets.token_bytes(32)
NOW = 1_800_000_000.9


def issued(secret: bytes = SECRET) -> str:
    return issue_token(secret, subject="charite", role="site", now=NOW, lifetime_seconds=300)


def test_a_token_says_who_holds_it() -> None:
    assert check_token(SECRET, issued(), now=NOW) == Holder("charite", "site", int(NOW) + 300)


def test_it_ends_to_the_second_also_when_it_was_checked_before() -> None:
    token = issued()
    holder = check_token(SECRET, token, now=NOW)
    check_token(SECRET, token, now=holder.expires - 0.001)
    for moment in [holder.expires, holder.expires + 1e9]:
        with pytest.raises(NotAuthenticated):
            check_token(SECRET, token, now=moment)


def test_the_old_secret_is_good_while_it_is_listed() -> None:
    new = secrets.token_bytes(32)
    token = issued()
    assert check_token([new, SECRET], token, now=NOW).subject == "charite"
    assert check_token([new, SECRET], issued(new), now=NOW).subject == "charite"
    for listed in [[new], []]:
        with pytest.raises(NotAuthenticated):
            check_token(listed, token, now=NOW)


def test_forgeries_are_refused() -> None:
    token = issued()
    header, payload, signature = token.split(".")
    claims = {"sub": "charite", "role": "operator", "exp": int(NOW) + 300}
    typ = {"typ": "aimer2-access+jwt"}
    key = SigningKey.generate()
    for forged in [
        "",
        "Bearer",
        "\ud800",
        "x" * 100_000,
        f"{header}.{payload}.",
        f"{header}.{payload}.{signature[::-1]}",
        f"{header}.{jwt.encode(claims, SECRET, algorithm='HS256').split('.')[1]}.{signature}",
        jwt.encode(claims, None, algorithm="none", headers=typ),
        jwt.encode(claims, secrets.token_bytes(32), algorithm="HS256", headers=typ),
        jwt.encode(claims, secrets.token_bytes(64), algorithm="HS512", headers=typ),
        jwt.encode(claims, key.ed25519, algorithm="EdDSA", headers=typ),
        make_assertion(key, subject="charite", audience="https://coordinator.example", now=NOW),
    ]:
        with pytest.raises(NotAuthenticated):
            check_token(SECRET, forged, now=NOW)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "a", "role": "site"},
        {"sub": "a", "exp": 2_000_000_000},
        {"role": "site", "exp": 2_000_000_000},
        {"sub": "a", "role": ["site"], "exp": 2_000_000_000},
        {"sub": "a", "role": "site", "exp": "2000000000"},
        {"sub": "a", "role": "site", "exp": True},
    ],
)
def test_other_things_under_the_same_secret_are_no_tokens(claims: dict[str, object]) -> None:
    with pytest.raises(NotAuthenticated):
        check_token(SECRET, jwt.encode(claims, SECRET, algorithm="HS256", headers={"typ": "aimer2-access+jwt"}), now=NOW)
    whole = {"sub": "a", "role": "site", "exp": 2_000_000_000}
    with pytest.raises(NotAuthenticated):
        check_token(SECRET, jwt.encode(whole, SECRET, algorithm="HS256"), now=NOW)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(BadInput):
        issued(b"short")
    with pytest.raises(BadInput):
        check_token(b"", issued(), now=NOW)
