"""Every sum that may be opened is the exact sum of whom it says: every set of survivors up to seven sites, drawn ones up to twelve."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from secure_federation import Federation

ROUNDS = 16
DRAWN = 48


@pytest.mark.campaign
@pytest.mark.parametrize("n", range(3, 13))
def test_every_set_of_survivors_gives_its_exact_sum(n: int) -> None:
    least = Federation(n).roster.least
    sites = Federation(n).sites
    sets = [frozenset(chosen) for size in range(least, n + 1) for chosen in itertools.combinations(sites, size)]
    if n > 7:
        order = np.random.default_rng().permutation(len(sets))[:DRAWN]
        sets = [sets[number] for number in order]
    for start in range(0, len(sets), ROUNDS):
        federation = Federation(n, rounds=ROUNDS)
        epoch = federation.set_up()
        for number, chosen in enumerate(sets[start : start + ROUNDS], 1):
            total, survivors = federation.play(epoch, {"update": set(sites) - chosen}, number)
            assert survivors == chosen
            assert total.tolist() == federation.plain(chosen).tolist(), sorted(chosen)
