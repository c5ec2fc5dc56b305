from __future__ import annotations

import hashlib

import cbor2
import pytest
from secure_federation import STUDY

from aimer2.core.errors import BadInput, NotAvailable, NotFound
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.secure_aggregation.roster import Roster

KEYS = [SigningKey.generate().public for _ in range(50)]


def roster(n: int) -> Roster:
    return Roster(STUDY, {f"s{i}": KEYS[i] for i in range(n)})


@pytest.mark.parametrize(("n", "threshold"), [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7), (20, 14), (50, 34)])
def test_the_threshold_is_more_than_two_thirds(n: int, threshold: int) -> None:
    assert roster(n).threshold == threshold
    # two sets of so many sites have more sites in common than may be dishonest
    assert 2 * threshold - n > (n - 1) // 3


def test_two_sites_are_too_few() -> None:
    with pytest.raises(NotAvailable, match="at least three"):
        roster(2)


def test_one_key_twice_is_one_site_twice() -> None:
    with pytest.raises(BadInput):
        Roster(STUDY, {"a": KEYS[0], "b": KEYS[1], "c": PublicKey(KEYS[0].raw)})


def test_indices_follow_the_names_and_not_the_order_of_arrival() -> None:
    one, other = Roster(STUDY, {"b": KEYS[1], "c": KEYS[2], "a": KEYS[0]}), Roster(STUDY, {"a": KEYS[0], "b": KEYS[1], "c": KEYS[2]})
    assert [one.index(site) for site in "abc"] == [1, 2, 3]
    assert one.hash() == other.hash()
    with pytest.raises(NotFound):
        one.index("d")


def test_the_hash_covers_study_sites_and_keys() -> None:
    members = {"a": KEYS[0], "b": KEYS[1], "c": KEYS[2]}
    others = [
        Roster("0" * 64, members),
        Roster(STUDY, members | {"d": KEYS[3]}),
        Roster(STUDY, members | {"c": KEYS[3]}),
        Roster(STUDY, {"a": KEYS[0], "b": KEYS[1], "d": KEYS[2]}),
    ]
    assert len({Roster(STUDY, members).hash(), *(other.hash() for other in others)}) == 5


def test_the_hash_that_sites_have_countersigned_is_of_no_revision_of_the_protocol() -> None:
    """An approval holds it, signed, and outlives versions."""
    one = roster(3)
    content = ["AIMER2/SA1", "roster", [STUDY, [[number, f"s{number - 1}", KEYS[number - 1].raw] for number in (1, 2, 3)], one.threshold, one.least]]
    assert one.hash() == hashlib.sha256(cbor2.dumps(content, canonical=True)).hexdigest()
