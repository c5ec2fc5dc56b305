"""What every method promises when its updates are added in secret: the study of the clear, up to the stated rounding."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms import catalogue
from aimer2.core.protocols import Algorithm
from aimer2.core.task import SiteId
from aimer2.engines.in_process import InProcess
from aimer2.identity.keys import SigningKey
from aimer2.secure_aggregation.roster import Roster
from aimer2.secure_aggregation.site import Member
from aimer2.secure_aggregation.vault import MemoryVault
from aimer2.study.events import RoundFinished
from aimer2.study.secure_update import SecureUpdate

sys.path.insert(0, str(Path(__file__).parent))
import test_algorithms as clear

KEYS = {site: SigningKey.generate() for site in clear.SITES}


@pytest.fixture(params=[name for name in catalogue.names() if catalogue.is_additive(name)])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def algorithm(name: str, monkeypatch: pytest.MonkeyPatch) -> Algorithm[Any]:
    """Three rounds say as much as ten, of a method whose model does not grow with them."""
    frameworks = catalogue.frameworks(name)
    made = catalogue.example(name)
    if "trees" in frameworks:
        monkeypatch.setattr(clear, "learner", clear.forest)
        return made
    if "torch" in frameworks:
        monkeypatch.setattr(clear, "learner", clear.network)
    return dataclasses.replace(made, rounds=3) if getattr(made, "rounds", 0) > 3 else made  # type: ignore[type-var]


class Run(clear.Run):
    """The same study, with real keys and masks; sites that are asked again after a restart have their vaults."""

    def __init__(self, algorithm: Algorithm[Any], order: Sequence[SiteId] = clear.SITES) -> None:
        super().__init__(algorithm, order=order)
        roster = Roster(self.plan.digest, {site: key.public for site, key in KEYS.items()})
        self.plan = dataclasses.replace(self.plan, secure=(roster,))
        secure = {site: SecureUpdate(Member(roster, site, key, MemoryVault())) for site, key in KEYS.items()}
        self.engine = InProcess(self.sites, self.blobs, order=order, secure=secure)


def test_in_secret_it_is_the_method_of_the_clear(algorithm: Algorithm[Any]) -> None:
    """Updates of float64 keep all bits above 2^-60 in a sum: what differs is the order in which floats are added in the clear."""
    plain_events, plain = clear.Run(algorithm).go()
    events, secret = Run(algorithm).go()
    finished = [event for event in events if isinstance(event, RoundFinished)]
    assert len(finished) == len([event for event in plain_events if isinstance(event, RoundFinished)])
    assert all(event.secrecy is not None and (event.secrecy.saturated, event.secrecy.error) == (0, 0.0) for event in finished)
    assert secret.keys() == plain.keys()
    for leaf, words in plain.items():
        np.testing.assert_allclose(np.frombuffer(secret[leaf]), np.frombuffer(words), rtol=0, atol=1e-14)


def test_in_secret_the_order_of_arrival_changes_no_bit(algorithm: Algorithm[Any]) -> None:
    assert Run(algorithm, order=("c", "a", "b")).go()[1] == Run(algorithm).go()[1]


def test_in_secret_the_coordinator_may_be_killed(algorithm: Algorithm[Any]) -> None:
    """After every fourth event; what lies between two events is killed in `tests/study/test_secure_restarts.py`."""
    events, expected = Run(algorithm).go()
    for count in range(1, len(events), 4):
        run = Run(algorithm)
        run.go(stop_after=count)
        assert run.go()[1] == expected, count
