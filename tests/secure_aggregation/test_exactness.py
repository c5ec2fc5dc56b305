"""Every sum that may be opened is the exact sum of whom it says, for 3 to 12 sites, whoever falls silent in whatever phase: every case of few
sites, drawn ones of many. The campaign has every set of survivors up to twelve sites and every way to lose sites up to seven.

What a lost site means follows from the phase: silent in one of the first three it is not in the sum; silent later its update is."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import pytest
from secure_federation import PHASES, Federation

from aimer2.core.task import SiteId
from aimer2.secure_aggregation.coordinator import Epoch
from aimer2.secure_aggregation.roster import threshold

ROUNDS = 16
DRAWN = 64
AFTER_THE_SET_UP = PHASES[2:]
ONCE_IN_THE_SUM = PHASES[3:]

Gone = Mapping[str, Collection[SiteId]]


def sites_of(n: int) -> list[SiteId]:
    return [f"site-{number}" for number in range(n)]


def losses(n: int, phases: Collection[str]) -> Iterator[Gone]:
    """Every way to lose as many sites as may be lost, or fewer, each in one of the phases."""
    for count in range(n - threshold(n) + 1):
        for lost in itertools.combinations(sites_of(n), count):
            for chosen in itertools.product(phases, repeat=count):
                yield by_phase(lost, chosen)


def drawn(n: int, random: np.random.Generator) -> Gone:
    """As many lost as may be, each in a phase that is drawn for it."""
    lost = random.permutation(sites_of(n))[: n - threshold(n)]
    return by_phase(lost.tolist(), random.choice(PHASES, len(lost)).tolist())


def by_phase(lost: Collection[SiteId], chosen: Collection[str]) -> Gone:
    return {phase: {site for site, where in zip(lost, chosen, strict=True) if where == phase} for phase in PHASES}


def check(federation: Federation, epoch: Epoch, gone: Gone, number: int = 1) -> None:
    total, survivors = federation.play(epoch, gone, number)
    left_out = {site for phase, sites in gone.items() if phase not in ONCE_IN_THE_SUM for site in sites}
    assert survivors == set(federation.sites) - left_out, gone
    assert total.tolist() == federation.plain(survivors).tolist(), gone


def check_rounds(n: int, patterns: Collection[Gone]) -> None:
    """All sites are there when the keys are set up; one set-up serves many rounds."""
    for start in range(0, len(patterns), ROUNDS):
        federation = Federation(n, rounds=ROUNDS)
        epoch = federation.set_up()
        for number, gone in enumerate(list(patterns)[start : start + ROUNDS], 1):
            check(federation, epoch, gone, number)


def check_set_up(n: int, gone: Gone) -> None:
    federation = Federation(n)
    check(federation, federation.set_up(gone), gone)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_whoever_falls_silent_in_a_round_of_few_sites_the_sum_is_exact(n: int) -> None:
    check_rounds(n, list(losses(n, AFTER_THE_SET_UP)))


@pytest.mark.parametrize("n", range(4, 13))
def test_whoever_falls_silent_in_whatever_phase_the_sum_is_exact(n: int) -> None:
    random = np.random.default_rng(n)
    for _ in range(3 if n < 8 else 1):
        check_set_up(n, drawn(n, random))


@pytest.mark.parametrize("n", [6, 7])
def test_every_set_of_survivors_of_six_or_seven_sites_gives_its_exact_sum(n: int) -> None:
    check_rounds(n, list(losses(n, ["update"])))


@pytest.mark.campaign
@pytest.mark.parametrize("n", range(8, 13))
def test_every_set_of_survivors_of_many_sites_gives_its_exact_sum(n: int) -> None:
    check_rounds(n, list(losses(n, ["update"])))


@pytest.mark.campaign
@pytest.mark.parametrize("n", range(4, 13))
def test_every_way_to_lose_sites(n: int) -> None:
    """Drawn anew each time for more than seven."""
    random = np.random.default_rng()
    for gone in losses(n, PHASES) if n <= 7 else (drawn(n, random) for _ in range(DRAWN)):
        check_set_up(n, gone)
