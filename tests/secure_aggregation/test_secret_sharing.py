"""Shares: what a threshold of them gives, what fewer say, and what is refused."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.core.errors import BadInput
from aimer2.secure_aggregation import secret_sharing
from aimer2.secure_aggregation.secret_sharing import PRIME, combine, draw_secret, split

secrets = st.integers(0, PRIME - 1).map(lambda number: number.to_bytes(32, "big"))


def test_a_known_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    # 1234 + 166 x + 94 x^2, the example of the Wikipedia article on Shamir's scheme without its reduction
    drawn = iter([166, 94])
    monkeypatch.setattr(secret_sharing.secrets, "randbelow", lambda _: next(drawn))
    shares = split((1234).to_bytes(32, "big"), 3, range(1, 7))
    assert [int.from_bytes(share, "big") for share in shares.values()] == [1494, 1942, 2578, 3402, 4414, 5614]
    monkeypatch.undo()
    assert int.from_bytes(combine({x: shares[x] for x in (2, 4, 5)}), "big") == 1234


def test_the_prime_is_one() -> None:
    assert PRIME == 2**256 - 189
    for base in (2, 3, 5, 7, 11, 13):
        odd, power = PRIME - 1, 0
        while odd % 2 == 0:
            odd, power = odd // 2, power + 1
        value = pow(base, odd, PRIME)
        assert value in (1, PRIME - 1) or any((value := value * value % PRIME) == PRIME - 1 for _ in range(power - 1))


@given(secrets, st.integers(1, 5), st.sets(st.integers(1, 300), min_size=5, max_size=7))
def test_any_threshold_of_shares_or_more_gives_the_secret(secret: bytes, threshold: int, xs: set[int]) -> None:
    shares = split(secret, threshold, sorted(xs))
    for count in range(threshold, len(xs) + 1):
        for chosen in list(combinations(shares, count))[:5]:
            assert combine({x: shares[x] for x in reversed(chosen)}) == secret


@given(secrets, secrets, st.sets(st.integers(1, 40), min_size=3, max_size=3))
def test_shares_of_two_secrets_add_up_to_shares_of_their_sum(one: bytes, other: bytes, xs: set[int]) -> None:
    first, second = split(one, 3, sorted(xs)), split(other, 3, sorted(xs))
    total = {x: ((int.from_bytes(first[x], "big") + int.from_bytes(second[x], "big")) % PRIME).to_bytes(32, "big") for x in xs}
    assert int.from_bytes(combine(total), "big") == (int.from_bytes(one, "big") + int.from_bytes(other, "big")) % PRIME


def test_fewer_shares_fit_every_secret() -> None:
    shares = split(bytes(32), 3, [1, 2, 3])
    for secret in (bytes(32), b"\x01" * 32, (PRIME - 1).to_bytes(32, "big")):
        # a third share exists that makes this the secret: the line through the points 1, 2 and 0 goes through it
        third = lagrange({0: secret, 1: shares[1], 2: shares[2]}, 3)
        assert combine({1: shares[1], 2: shares[2], 3: third}) == secret
    assert combine({1: shares[1], 2: shares[2]}) != bytes(32)


def lagrange(points: dict[int, bytes], at: int) -> bytes:
    total = 0
    for x, value in points.items():
        weight = 1
        for other in points:
            if other != x:
                weight = weight * (at - other) * pow(x - other, -1, PRIME) % PRIME
        total += int.from_bytes(value, "big") * weight
    return (total % PRIME).to_bytes(32, "big")


def test_a_false_share_gives_another_secret() -> None:
    secret = draw_secret()
    shares = split(secret, 2, [1, 2, 3])
    assert combine(shares | {2: bytes(32)}) != secret


def test_two_divisions_of_one_secret_have_nothing_in_common() -> None:
    secret = draw_secret()
    one, other = split(secret, 2, [1, 2, 3]), split(secret, 2, [1, 2, 3])
    assert not set(one.values()) & set(other.values())


@pytest.mark.parametrize(
    ("secret", "threshold", "xs"),
    [
        (bytes(31), 1, [1]),
        (bytes(33), 1, [1]),
        (PRIME.to_bytes(32, "big"), 1, [1]),
        (bytes(32), 0, [1]),
        (bytes(32), 3, [1, 2]),
        (bytes(32), 1, [0, 1]),
        (bytes(32), 1, [1, 1]),
        (bytes(32), 1, [-1]),
        (bytes(32), 1, []),
    ],
)
def test_what_cannot_be_shared(secret: bytes, threshold: int, xs: list[int]) -> None:
    with pytest.raises(BadInput):
        split(secret, threshold, xs)


@pytest.mark.parametrize("shares", [{}, {0: bytes(32)}, {1: bytes(31)}, {1: b"\xff" * 32}])
def test_what_is_no_share(shares: dict[int, bytes]) -> None:
    with pytest.raises(BadInput):
        combine(shares)
