"""Studies with secure aggregation at the coordinator's door: how many approvals they need, and of how many sites they can be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from serving import Client, Server, SiteClient, enrolled, package_of, state_of, submit, tensor

SECRET = {"privacy": {"secure_aggregation": True}}


@pytest.fixture
def four(server: Server, new_name: Callable[[str], str]) -> list[SiteClient]:
    return [enrolled(server, new_name("site")) for _ in range(4)]


def test_it_starts_with_the_threshold_of_approvals_though_it_asks_for_fewer(researcher: Client, four: list[SiteClient]) -> None:
    study = submit(researcher, four, **SECRET)
    for number, site in enumerate(four[:3], 1):
        site.decide(study)
        if number < 3:
            refused = researcher.call("POST", f"/v1/studies/{study}/start")
            assert refused.status == 409
            assert f"{number} sites have approved the study, 3 are needed." in refused.data.decode()
    assert state_of(researcher, study) == "offered"
    assert researcher.post(f"/v1/studies/{study}/start")["state"] == "running"


def test_refusals_down_to_below_the_threshold_do_not_start_it(researcher: Client, four: list[SiteClient]) -> None:
    study = submit(researcher, four, **SECRET)
    for site in four[:2]:
        site.decide(study)
    for site in four[2:]:
        site.decide(study, "refuse")
    assert state_of(researcher, study) == "offered", "all have decided, two have approved; in the clear two would do"


def test_of_two_sites_it_is_refused(researcher: Client, sites: list[SiteClient]) -> None:
    initial = researcher.upload(tensor(w=np.zeros(3, np.float32)))
    package, _ = package_of(sites[:2], initial, **SECRET)
    refused = researcher.call("POST", "/v1/studies", package.model_dump(mode="json"))
    assert refused.status == 400
    assert "2 sites are asked; secure aggregation needs at least 3" in refused.data.decode()
