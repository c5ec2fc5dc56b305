from __future__ import annotations

import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.api_jws import PyJWS

from aimer2.core.errors import BadInput, ClockSkew, NotAuthenticated
from aimer2.identity import base64url
from aimer2.identity.assertions import CLOCK_TOLERANCE, MemoryReplayGuard, check_assertion, make_assertion
from aimer2.identity.documents import sign_document
from aimer2.identity.keys import PublicKey, SigningKey

KEY = SigningKey.generate()
OTHER = SigningKey.generate()
ROSTER = {"charite": KEY.public, "ukb": OTHER.public}
AUDIENCE = "https://coordinator.example"
NOW = 1_800_000_000.5


class SetClock:
    def __init__(self, moment: float) -> None:
        self.moment = moment

    def now(self) -> float:
        return self.moment

    def monotonic(self) -> float:
        return self.moment


def check(token: str, *, now: float = NOW, guard: MemoryReplayGuard | None = None, audience: str = AUDIENCE) -> str:
    return check_assertion(token, key_of=ROSTER.get, audience=audience, now=now, seen=guard or MemoryReplayGuard(SetClock(now)))


def made(now: float = NOW, subject: str = "charite", key: SigningKey = KEY) -> str:
    return make_assertion(key, subject=subject, audience=AUDIENCE, now=now)


def forged(*, key: Ed25519PrivateKey = KEY.ed25519, typ: str = "client-authentication+jwt", **changes: Any) -> str:
    claims = {"iss": "charite", "sub": "charite", "aud": AUDIENCE, "iat": int(NOW), "exp": int(NOW) + 60, "jti": "x" * 22, **changes}
    kept = {name: value for name, value in claims.items() if value is not ...}
    return PyJWS().encode(json.dumps(kept).encode(), key, algorithm="EdDSA", headers={"typ": typ})


def test_an_assertion_says_who_made_it() -> None:
    assert check(made()) == "charite"
    assert check(made(subject="ukb", key=OTHER)) == "ukb"
    assert check(forged()) == "charite"  # the base of the refusals below is good


def test_one_use_only() -> None:
    guard = MemoryReplayGuard(SetClock(NOW))
    token = made()
    check(token, guard=guard)
    with pytest.raises(NotAuthenticated):
        check(token, guard=guard)
    assert check(made(), guard=guard) == "charite"


def test_two_sites_may_draw_the_same_identifier() -> None:
    guard = MemoryReplayGuard(SetClock(NOW))
    check(forged(), guard=guard)
    assert check(forged(key=OTHER.ed25519, iss="ukb", sub="ukb"), guard=guard) == "ukb"


def test_a_refused_assertion_does_not_use_up_the_identifier() -> None:
    guard = MemoryReplayGuard(SetClock(NOW))
    with pytest.raises(NotAuthenticated):
        check(forged(key=OTHER.ed25519), guard=guard)
    assert check(forged(), guard=guard) == "charite"


@pytest.mark.parametrize("lag", [-CLOCK_TOLERANCE, 0, 60 + CLOCK_TOLERANCE - 1])
def test_clocks_may_differ_a_little(lag: float) -> None:
    assert check(made(NOW), now=NOW + lag) == "charite"


@pytest.mark.parametrize("lag", [-CLOCK_TOLERANCE - 2, 60 + CLOCK_TOLERANCE + 1, 3600, -3600])
def test_beyond_that_the_clock_is_named(lag: float) -> None:
    with pytest.raises(ClockSkew, match=f"{abs(lag):.0f}|{abs(lag) + 1:.0f}"):
        check(made(NOW), now=NOW + lag)


def test_nobody_learns_of_the_clock_without_the_key() -> None:
    with pytest.raises(NotAuthenticated) as refused:
        check(made(key=OTHER), now=NOW + 3600)
    assert not isinstance(refused.value, ClockSkew)


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://other.example"},
        {"aud": [AUDIENCE]},
        {"aud": ...},
        {"iss": "ukb"},
        {"iss": ...},
        {"sub": ...},
        {"sub": 3},
        {"jti": ...},
        {"jti": ""},
        {"jti": "x" * 1000},
        {"jti": 7},
        {"iat": ...},
        {"exp": ...},
        {"exp": int(NOW) + 86_400},
        {"exp": int(NOW)},
        {"exp": float(NOW) + 60},
        {"exp": True},
        {"exp": "1800000060"},
        {"typ": "JWT"},
        {"typ": "aimer2-task+jws"},
    ],
)
def test_every_other_fault_is_refused_with_one_sentence(changes: dict[str, Any]) -> None:
    with pytest.raises(NotAuthenticated) as refused:
        check(forged(**changes))
    assert refused.value.sentence == "The assertion was not accepted."


def test_an_unknown_site_learns_nothing_and_no_key_opens_for_it() -> None:
    # The published private key of RFC 8037, whose public half stands in for that of unknown subjects.
    published = Ed25519PrivateKey.from_private_bytes(base64url.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"))
    assert PublicKey(published.public_key().public_bytes_raw()).text == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    for token in [made(subject="nobody"), forged(key=published, iss="nobody", sub="nobody"), forged(key=published)]:
        with pytest.raises(NotAuthenticated, match=r"^The assertion was not accepted\.$"):
            check(token)


def test_other_algorithms_are_refused() -> None:
    payload = json.dumps({"iss": "charite", "sub": "charite", "aud": AUDIENCE, "iat": int(NOW), "exp": int(NOW) + 60, "jti": "y" * 22}).encode()
    typ = {"typ": "client-authentication+jwt"}
    unsigned = PyJWS().encode(payload, "", algorithm="none", headers=typ)
    signed = f"{base64url.encode(json.dumps({'alg': 'HS256', **typ}).encode())}.{base64url.encode(payload)}"
    by_hmac = f"{signed}.{base64url.encode(hmac.digest(KEY.public.raw, signed.encode(), 'sha256'))}"
    for token in [unsigned, by_hmac, "", "a.b.c", "\ud800", "x" * 100_000, sign_document(payload, KEY, kind="task")]:
        with pytest.raises(NotAuthenticated):
            check(token)


def test_a_payload_that_is_no_object() -> None:
    for payload in [b"[]", b"1", b"\xff", b"[" * 2000, b"{"]:
        with pytest.raises(NotAuthenticated):
            check(PyJWS().encode(payload, KEY.ed25519, algorithm="EdDSA", headers={"typ": "client-authentication+jwt"}))


def test_a_long_life_is_refused_when_made() -> None:
    for seconds in [0, -1, 301]:
        with pytest.raises(BadInput):
            make_assertion(KEY, subject="charite", audience=AUDIENCE, now=NOW, lifetime_seconds=seconds)


def test_the_guard_forgets_what_has_ended_and_nothing_else() -> None:
    clock = SetClock(0.0)
    guard = MemoryReplayGuard(clock)
    assert guard.remember("long", 100.0)
    assert guard.remember("short", 10.0)
    clock.moment = 10.0
    assert not guard.remember("short", 10.0)
    clock.moment = 11.0
    assert not guard.remember("long", 100.0)
    assert guard.remember("short", 20.0)
