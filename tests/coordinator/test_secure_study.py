"""Studies with secure aggregation at the coordinator's door: how many approvals they need, and of how many sites they can be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from serving import Client, Server, SiteClient, enrolled, package_of, state_of, submit, tensor

from aimer2.secure_aggregation.roster import Roster

SECRET = {"privacy": {"secure_aggregation": True}}


def approve(study: str, site: SiteClient, sites: list[SiteClient]) -> None:
    assert site.decide(study, roster=Roster(study, {one.name: one.key.public for one in sites}).hash()).status < 300


@pytest.fixture
def four(server: Server, new_name: Callable[[str], str]) -> list[SiteClient]:
    return [enrolled(server, new_name("site")) for _ in range(4)]


def test_it_starts_with_the_threshold_of_approvals_though_it_asks_for_fewer(researcher: Client, four: list[SiteClient]) -> None:
    study = submit(researcher, four, **SECRET)
    for number, site in enumerate(four[:3], 1):
        approve(study, site, four)
        if number < 3:
            refused = researcher.call("POST", f"/v1/studies/{study}/start")
            assert refused.status == 409
            assert f"{number} sites have approved the study, 3 are needed." in refused.data.decode()
    assert state_of(researcher, study) == "offered"
    assert researcher.post(f"/v1/studies/{study}/start")["state"] == "running"


def test_refusals_down_to_below_the_threshold_do_not_start_it(researcher: Client, four: list[SiteClient]) -> None:
    study = submit(researcher, four, **SECRET)
    for site in four[:2]:
        approve(study, site, four)
    for site in four[2:]:
        site.decide(study, "refuse")
    assert state_of(researcher, study) == "offered", "all have decided, two have approved; in the clear two would do"


def test_an_approval_of_other_keys_does_not_count(researcher: Client, four: list[SiteClient]) -> None:
    study, clear = submit(researcher, four, **SECRET), submit(researcher, four)
    of_three = Roster(study, {one.name: one.key.public for one in four[:3]}).hash()
    for asked, roster in ((study, None), (study, of_three), (clear, of_three)):
        refused = four[0].decide(asked, roster=roster)
        assert refused.status == 409 and "does not name the keys of this study's sites" in refused.data.decode()
    approve(study, four[0], four)


GROUPED = {"privacy": {"group_size": 3}, "method": {"rounds": 3, "aggregator": "median"}}


def test_a_study_by_groups_starts_when_enough_groups_have_enough_approvals(
    server: Server, researcher: Client, new_name: Callable[[str], str]
) -> None:
    nine = [enrolled(server, new_name("site")) for _ in range(9)]
    study = submit(researcher, nine, **GROUPED)
    for site in nine[:8]:
        approve(study, site, nine)
    refused = researcher.call("POST", f"/v1/studies/{study}/start")
    assert refused.status == 409
    assert "8 sites have approved the study, enough for 2 of 3 groups; 9 sites and 3 groups are needed." in refused.data.decode()
    approve(study, nine[8], nine)
    assert state_of(researcher, study) == "running"


def test_of_too_few_sites_for_its_groups_it_is_refused(researcher: Client, four: list[SiteClient]) -> None:
    initial = researcher.upload(tensor(w=np.zeros(3, np.float32)))
    package, _ = package_of(four, initial, **GROUPED)
    refused = researcher.call("POST", "/v1/studies", package.model_dump(mode="json"))
    assert refused.status == 400
    assert "4 sites make 1 groups, and median with these parameters compares 3 or more" in refused.data.decode()


def test_of_two_sites_it_is_refused(researcher: Client, sites: list[SiteClient]) -> None:
    initial = researcher.upload(tensor(w=np.zeros(3, np.float32)))
    package, _ = package_of(sites[:2], initial, **SECRET)
    refused = researcher.call("POST", "/v1/studies", package.model_dump(mode="json"))
    assert refused.status == 400
    assert "2 sites are asked; secure aggregation needs at least 3" in refused.data.decode()
