"""Which sites are added together: everybody works out the same groups, none too small."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aimer2.secure_aggregation.groups import groups


@given(count=st.integers(3, 60), size=st.integers(3, 12), seed=st.integers(0, 2**63 - 1))
def test_every_site_is_in_one_group_and_no_group_is_too_small_or_much_larger(count: int, size: int, seed: int) -> None:
    sites = [f"site-{number}" for number in range(count)]
    made = groups(sites, size, seed)
    assert sorted(site for group in made for site in group) == sorted(sites)
    sizes = {len(group) for group in made}
    assert min(sizes) >= min(size, count)
    assert max(sizes) - min(sizes) <= 1
    assert len(made) == max(1, count // size)


@given(order=st.permutations([f"site-{number}" for number in range(9)]))
def test_the_order_in_which_sites_are_named_changes_nothing(order: list[str]) -> None:
    assert groups(order, 3, 7) == groups(sorted(order), 3, 7)


def test_the_groups_are_those_of_the_seed_and_stay() -> None:
    """A site that worked out other groups than the coordinator would refuse its keys: these are what a study of seed 1 has."""
    assert groups("abcdefghi", 3, 1) == (("a", "b", "f"), ("c", "d", "h"), ("e", "g", "i"))
    assert len({groups("abcdefghi", 3, seed) for seed in range(50)}) > 40


def test_each_pair_is_as_likely_to_be_in_one_group_as_any_other() -> None:
    """Of 9 sites in threes a pair is together with chance 2/8; 2,000 draws leave six standard deviations of room."""
    drawn = 2000
    together = dict.fromkeys(("ab", "ai", "eh"), 0)
    for seed in range(drawn):
        for group in groups("abcdefghi", 3, seed):
            for pair in together:
                together[pair] += set(pair) <= set(group)
    deviation = (drawn * 0.25 * 0.75) ** 0.5
    assert all(abs(count - drawn / 4) < 6 * deviation for count in together.values())
