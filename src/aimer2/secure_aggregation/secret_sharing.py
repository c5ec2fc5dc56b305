"""A secret in pieces, of which a threshold of any gives it back and fewer say nothing.

Shamir 1979, "How to share a secret", over the field of p = 2^256 − 189: the secret is the value at 0 of a random polynomial of degree
threshold − 1, a share its value at a site's index. Arithmetic is Python's, so its time depends on the values: shares are made and joined
where nobody else measures.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

from aimer2.core.errors import BadInput
from aimer2.core.said import say

PRIME = (1 << 256) - 189
_BYTES = 32


def draw_secret() -> bytes:
    """32 bytes from the operating system that can be shared."""
    return secrets.randbelow(PRIME).to_bytes(_BYTES, "big")


def split(secret: bytes, threshold: int, xs: Sequence[int]) -> dict[int, bytes]:
    """A share of 32 bytes for each index; any ``threshold`` of them give the secret back.

    Raises BadInput for a secret that is no number below 2^256 − 189, and for indices that are not positive or not different.
    """
    _check_indices(xs)
    if not 1 <= threshold <= len(xs):
        raise BadInput(say("A secret cannot be shared among {count} so that {threshold} open it.", count=len(xs), threshold=threshold))
    coefficients = [_number(secret), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {x: _value(coefficients, x).to_bytes(_BYTES, "big") for x in xs}


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret that these shares belong to. Fewer than the threshold, or a false one, give another: compare with a commitment.

    Raises BadInput for a share that is no number below 2^256 − 189.
    """
    _check_indices(list(shares))
    weights = _weights_at_zero(tuple(shares))
    total = sum(_number(share) * weight for share, weight in zip(shares.values(), weights, strict=True))
    return (total % PRIME).to_bytes(_BYTES, "big")


@lru_cache(maxsize=4)
def _weights_at_zero(xs: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's: what each index's value counts for. The same for all secrets of a round, and most of the work of opening one."""
    weights = []
    for x in xs:
        above = below = 1
        for other in xs:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)


def _value(coefficients: Sequence[int], x: int) -> int:
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * x + coefficient) % PRIME
    return total


def _number(data: bytes) -> int:
    number = int.from_bytes(data, "big")
    if len(data) != _BYTES or number >= PRIME:
        raise BadInput("A secret or share is not 32 bytes below the prime.")
    return number


def _check_indices(xs: Sequence[int]) -> None:
    # 0 is where the secret lies
    if not xs or len(set(xs)) != len(xs) or not all(0 < x < PRIME for x in xs):
        raise BadInput("The indices of shares are positive and different.")
