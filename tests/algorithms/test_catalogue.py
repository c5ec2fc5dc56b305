"""Methods are found by name, made with their parameters, and refused with every fault."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from aimer2.algorithms import catalogue
from aimer2.algorithms.fedprox import FedProx
from aimer2.core.errors import BadStudy


def faults(name: str, **parameters: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(BadStudy) as caught:
        catalogue.make(name, 5, parameters)
    return [dataclasses.astuple(fault) for fault in caught.value.faults]  # type: ignore[misc]


def test_every_module_of_the_room_is_a_method() -> None:
    assert {"fedavg", "fedprox", "fedavgm"} <= set(catalogue.names())
    assert not {"catalogue", "aggregators"} & set(catalogue.names())


def test_making_one() -> None:
    assert catalogue.make("fedprox", 7, {"mu": 1, "server_learning_rate": 0.5}) == FedProx(rounds=7, mu=1, server_learning_rate=0.5)


def test_a_name_that_is_not_there_says_which_are() -> None:
    ((place, problem, remedy),) = faults("fedmagic")
    assert (place, problem) == ("method.name", "there is no method 'fedmagic'")
    assert "fedavg" in remedy
    for name in ("catalogue", "aggregators", "__init__", "../fedavg"):
        assert faults(name)[0][0] == "method.name"


def test_every_wrong_parameter_is_told() -> None:
    found = faults("fedprox", mu="strong", nu=1.0, server_learning_rate=True, rounds=3)
    assert [(place, problem) for place, problem, _ in found] == [
        ("method.parameters.mu", "is not a float"),
        ("method.parameters.nu", "fedprox has no such parameter"),
        ("method.parameters.server_learning_rate", "is not a float"),
        ("method.parameters.rounds", "fedprox has no such parameter"),
    ]
    assert "mu" in found[1][2]


def test_what_leaves_the_site_is_read_from_the_page() -> None:
    assert catalogue.leaves("fedavg") == (
        "``difference`` = n · (w_local − w_received), one array per parameter",
        "``weight`` = n, the number of training rows",
    )
    assert catalogue.summary("fedavg") == "Federated averaging."
    assert catalogue.version("fedavg") == 1
