"""A study that protects whole sites, from its document to its record: nothing leaves but one noisy mean change, and its sum has the stated noise."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.fedavg import FedAvg
from aimer2.blobs.memory import MemoryStore
from aimer2.client.simulate import simulate
from aimer2.core import tree
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadStudy, BadUpdate, OutOfResources, Tampered
from aimer2.core.study import Study
from aimer2.core.task import Task
from aimer2.core.tree import Tree
from aimer2.engines.in_process import InProcess
from aimer2.identity.keys import SigningKey
from aimer2.messages.tensors import read_tree
from aimer2.privacy.accounting import Accountant
from aimer2.privacy.site_terms import site_terms
from aimer2.secure_aggregation.roster import Roster, threshold, trusted
from aimer2.secure_aggregation.site import Member
from aimer2.secure_aggregation.vault import MemoryVault
from aimer2.site.description import describe_request
from aimer2.study.checkpoint import Remembered
from aimer2.study.conduct import Loop
from aimer2.study.differential_privacy import calibration, faults
from aimer2.study.events import RoundFinished, StudyFinished
from aimer2.study.pack import pack
from aimer2.study.perform import Performed
from aimer2.study.plan import Part, Plan
from aimer2.study.quorum import Patience
from aimer2.study.secure_update import SecureUpdate
from aimer2.study.site_level import SiteLevel
from aimer2.study.site_level_terms import METHODS
from aimer2.study.spending import spending

sys.path.insert(0, str(Path(__file__).parent.parent / "privacy"))
from test_private_study import made, private

SITES = ("a", "b", "c", "d", "e")
HELD_OUT = {"evaluation": {"held_out": 0.2}}
TERMS = {"level": "site", "noise_multiplier": 2.0, "delta": 1e-4, "clip_norm": 1.0}


def asked(terms: Mapping[str, Any] | None = None, **changes: Any) -> Study:
    changes = {"evaluation": {"held_out": 0}, "sites": {"names": SITES}, **changes}
    return private(TERMS if terms is None else terms, **changes)


def of(study: Study) -> SiteLevel:
    found = SiteLevel.of(study, len(SITES))
    assert found is not None
    return found


# what leaves a site


def update(change: list[float], weight: float) -> dict[str, Any]:
    return {"difference": {"w": np.array(change, np.float32) * np.float32(weight)}, "weight": {"rows": np.array([weight])}}


def test_neither_weight_nor_anything_else_but_the_change_leaves() -> None:
    """Nearly no noise: what is read is the mean change, and the weight is 1 whatever the worker said."""
    level = of(asked(TERMS | {"noise_multiplier": 1e-3}))
    for weight in (1.0, 977.0):
        words = level.at_site("train", update([0.3, -0.1], weight), {})
        assert words.keys() == {"difference", "weight"}
        assert words["weight"]["rows"].tolist() == [1.0]
        sums, _ = level.at_coordinator({name: {leaf: tree.load(word) for leaf, word in named.items()} for name, named in words.items()}, 1.0)
        np.testing.assert_allclose(tree.load(sums["difference"]["w"]), [0.3, -0.1], atol=5e-3)


def test_a_mark_says_one_bit() -> None:
    level = of(asked(method={"name": "fedadam"}))
    sums = {"difference": {"w": np.ones(2), "m": np.ones(1)}, "weight": {"rows": np.ones(1)}, "buffers": {"w": np.zeros(1), "m": np.array([31.4])}}
    assert {name: leaf.tolist() for name, leaf in level.at_site("train", sums, {})["buffers"].items()} == {"w": [0.0], "m": [1.0]}
    with pytest.raises(BadUpdate):
        level.at_site("train", {**sums, "buffers": {"patient-4711": np.ones(1)}}, {})


@pytest.mark.parametrize(
    ("stage", "sums"),
    [
        ("train", {**update([1.0], 1.0), "control": {"w": np.ones(1)}}),
        ("train", {"weight": {"rows": np.ones(1)}}),
        ("moments", {"count": {"n": np.ones(1)}}),
        ("final", {"kept_metrics": {"n": np.ones(1)}}),
        ("final", {"metrics": {"confusion": np.ones((3, 3), np.int64)}}),
        ("final", {"metrics": {"confusion": np.ones((2, 2))}}),
        ("final", {"metrics": {"count": np.ones(1, np.int64)}}),
    ],
)
def test_other_sums_do_not_leave(stage: Any, sums: dict[str, Any]) -> None:
    with pytest.raises(BadUpdate):
        of(asked(evaluation={"held_out": 0.2, "metrics": ["accuracy"]})).at_site(stage, sums, {})


@pytest.mark.parametrize("told", [{}, {"clipping": {}}, *({"clipping": {"norm": np.array([x])}} for x in (0.0, -1.0, np.inf, np.nan))])
def test_a_clip_norm_that_is_none_is_not_followed(told: dict[str, Any]) -> None:
    with pytest.raises(Tampered):
        of(asked(TERMS | {"clip_quantile": 0.5})).at_site("train", update([1.0], 1.0), told)


def test_the_shares_of_a_site_count_as_one_site_whatever_its_size() -> None:
    """Two tables have a length of √2, and none is longer: a site of one patient, and of all in one cell."""
    study = asked(TERMS | {"evaluation_noise": 1e-3}, evaluation={"held_out": 0.2, "metrics": ["auc", "accuracy"]}, cohort={"minimum_patients": 100})
    for size in (1, 10_000):
        table, scores = np.zeros((2, 2), np.int64), np.zeros((2, 1024), np.int64)
        table[1, 1], scores[1, 700] = size, size
        words = of(study).at_site("final", {"metrics": {"confusion": table, "binned_scores": scores}}, {})
        sums, _ = of(study).at_coordinator({"metrics": {name: tree.load(leaf) for name, leaf in words["metrics"].items()}}, 1.0)
        assert np.asarray(sums["metrics"]["confusion"]).tolist() == [[0, 0], [0, 20]], "20 held out of the smallest site there may be"
        assert np.asarray(sums["metrics"]["binned_scores"]).sum() == 20


# sums over real masks


@dataclass
class Silent:
    """Its data say nothing: what is read of it is noise. ``fails``: rounds in which it hands in nothing."""

    size: int
    fails: frozenset[int] = frozenset()
    norms: list[float] = field(default_factory=list)
    length: float = 0.0

    def perform(self, task: Task, received: Mapping[str, Tree], memory: MutableMapping[str, Tree]) -> Performed:
        if "clipping" in received:
            self.norms.append(tree.scalar(received["clipping"], "norm"))
        if task.round_number in self.fails:
            raise OutOfResources("It sits this round out.")
        change = np.zeros(self.size, np.float32)
        change[0] = self.length * 12
        return Performed({"difference": {"w": change}, "weight": {"rows": np.array([12.0])}})


class World:
    """The study's loop in one process, with real keys and masks; it can be stopped and go on from its checkpoint."""

    def __init__(self, study: Study, sites: Mapping[str, Silent]) -> None:
        keys = {site: SigningKey.generate() for site in sites}
        roster = Roster("5e" * 32, {site: key.public for site, key in keys.items()})
        size, level = next(iter(sites.values())).size, SiteLevel.of(study, len(sites))
        part = Part("train", FedAvg(rounds=study.method.rounds), study.method.rounds, {"w": np.zeros(size, np.float32)})
        needed = Patience(threshold(len(sites)), 3600.0)
        self.plan = Plan(digest="5e" * 32, roster=tuple(sites), parts=(part,), patience=needed, secure=(roster,), private=level)
        self.blobs, self.past = MemoryStore(), Remembered()
        secure = {site: SecureUpdate(Member(roster, site, key, MemoryVault())) for site, key in keys.items()}
        self.engine = InProcess(sites, self.blobs, secure=secure, private=level)

    def go(self, stop_after: int | None = None) -> list[Any]:
        async def run() -> list[Any]:
            loop, events = Loop(self.plan, self.engine, self.blobs, self.past, SystemClock()), []
            async for event in loop.run():
                events.append(event)
                self.past.past.append(event)
                if len(events) == stop_after:
                    return events
            self.model = loop.model
            return events

        return asyncio.run(run())

    def weights(self) -> np.ndarray[Any, Any]:
        assert self.model is not None
        return np.asarray(tree.load(read_tree(self.blobs.open(self.model))["w"]), np.float64)


@pytest.mark.parametrize("absent", [0, 1])
def test_the_opened_sum_has_the_noise_that_is_stated_and_more_where_more_sites_are_in_it(absent: int) -> None:
    """Of 20 000 numbers, so to 0.5 %: noise sized for all sites, for the threshold, or once too often would be 10 % off at least."""
    sites = {name: Silent(20_000, frozenset({1}) if place < absent else frozenset()) for place, name in enumerate(SITES)}
    world = World(asked(method={"rounds": 1}), sites)
    events = world.go()
    (finished,) = [event for event in events if isinstance(event, RoundFinished)]
    there = len(finished.took_part)
    assert there == len(SITES) - absent
    assert np.std(world.weights() * there) == pytest.approx(2.0 * np.sqrt(there / trusted(len(SITES))), rel=0.03)
    assert abs(np.mean(world.weights() * there)) < 0.1
    assert (finished.secrecy.saturated, finished.secrecy.error) == (0, 0.0), "neither tells of a site"


def test_the_clip_norm_goes_with_the_sites_and_all_have_the_same() -> None:
    """Nearly no noise: all sites are beyond the clip norm, so it grows by e^0.1 a round, and it stops where the median is."""
    study = asked(TERMS | {"noise_multiplier": 1e-3, "clip_quantile": 0.5}, method={"rounds": 12})
    sites = {name: Silent(3, length=2.0 * (1 + place)) for place, name in enumerate(SITES)}
    World(study, sites).go()
    norms = sites["a"].norms
    assert all(site.norms == norms for site in sites.values())
    np.testing.assert_allclose(norms[:6], np.exp(0.1 * np.arange(6)), rtol=2e-3)
    np.testing.assert_allclose(norms[8] / norms[7], np.exp(0.1 - 0.2 / 5), rtol=2e-3, err_msg="one of five is within")


def test_a_coordinator_that_is_killed_goes_on_with_the_same_clip_norm_and_the_stored_words() -> None:
    study = asked(TERMS | {"clip_quantile": 0.5}, method={"rounds": 3})
    whole = len(World(study, {name: Silent(5, length=3.0) for name in SITES}).go())
    for stop in range(1, whole, 3):
        sites = {name: Silent(5, length=3.0) for name in SITES}
        world = World(study, sites)
        world.go(stop_after=stop)
        world.go()
        assert all(site.norms == sites["a"].norms for site in sites.values())
        assert len(sites["a"].norms) == 3, "no update was computed twice"


# the study as a whole


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"lora", "frozen_backbone"}))
def test_every_method_that_is_allowed_learns_as_without(name: str) -> None:
    """Nearly no noise, nothing clipped, sites of one size: the method itself."""
    frames = {site: made(rows=60, seed=number) for number, site in enumerate(SITES[:3])}
    same = {"method": {"name": name, "rounds": 2}, "training": {"local_steps": 1, "batch_size": None}, "sites": {"names": SITES[:3]}}
    quiet = asked(TERMS | {"noise_multiplier": 1e-5, "clip_norm": 5.0}, **same)
    plain = simulate(private(None, evaluation={"held_out": 0}, **same), frames, patient="patient").model
    mine = simulate(quiet, frames, patient="patient").model
    for leaf, values in plain.items():
        np.testing.assert_allclose(mine[leaf], values, atol=0.02)


def test_compressed_updates_go_under_the_noise_as_they_are() -> None:
    """Clipping and noise come after a linear compression, and the sum is restored once its words are numbers again."""
    frames = {site: made(rows=60, seed=number) for number, site in enumerate(SITES[:3])}
    method = {"rounds": 2, "compression": {"name": "random_k", "parameters": {"fraction": 0.5}}}
    same = {"method": method, "model": {"name": "mlp"}, "sites": {"names": SITES[:3]}}
    plain = simulate(private(None, evaluation={"held_out": 0}, **same), frames, patient="patient").model
    mine = simulate(asked(TERMS | {"noise_multiplier": 1e-5, "clip_norm": 5.0}, **same), frames, patient="patient").model
    for leaf, values in plain.items():
        np.testing.assert_allclose(mine[leaf], values, atol=0.01)


def test_parts_of_a_model_go_under_noise_too() -> None:
    for name, parameters in {"frozen_backbone": {"trained": "4"}, "lora": {"rank": 1, "head": "4"}}.items():
        study = asked(model={"name": "mlp"}, method={"name": name, "rounds": 1, "parameters": parameters}, sites={"names": SITES[:3]})
        found = simulate(study, {site: made(seed=number) for number, site in enumerate(SITES[:3])}, patient="patient")
        assert all(np.isfinite(leaf).all() for leaf in found.model.values())


@pytest.fixture(scope="module")
def record() -> Mapping[str, Any]:
    study = asked({"level": "site", "epsilon": 4.0, "delta": 1e-4, "clip_norm": 1.0}, evaluation={"held_out": 0.2}, method={"rounds": 3})
    frames = {site: made(rows=80, seed=number) for number, site in enumerate(SITES)}
    last = simulate(study, frames, patient="patient").events[-1]
    assert isinstance(last, StudyFinished)
    return last.result


def test_the_record_states_the_guarantee_for_a_site_and_for_a_patient(record: Mapping[str, Any]) -> None:
    stated = record["privacy"]["differential_privacy"]
    assert 3.95 < stated["epsilon"] <= 4.0
    assert stated["epsilon_of_a_patient"] > stated["epsilon"] * 1.5
    assert (stated["level"], stated["rounds"], stated["figures"]["times"]) == ("site", 3, 1)
    assert stated["noise_of"].startswith("3 sites: of the 4 or more")
    assert "for each site" in record["privacy"]["statement"]
    assert [figure["low"] for figure in record["figures"]] == [None] * len(record["figures"])
    assert all("5 sites" in figure["note"] for figure in record["figures"])


def test_all_tasks_together_are_what_the_record_says_of_a_patient(record: Mapping[str, Any]) -> None:
    study = asked({"level": "site", "epsilon": 4.0, "delta": 1e-4, "clip_norm": 1.0}, evaluation={"held_out": 0.2}, method={"rounds": 3})
    from_ledger = Accountant([spending(study, "train")] * 3 + [spending(study, "final")]).epsilon(1e-4)
    assert from_ledger == pytest.approx(record["privacy"]["differential_privacy"]["epsilon_of_a_patient"], abs=1e-3)


def test_a_stated_noise_is_the_noise_and_a_stated_epsilon_is_kept_and_used_up() -> None:
    assert site_terms(asked()).noise_multiplier == 2.0
    for epsilon, held_out in ((1.0, 0.0), (8.0, 0.2)):
        terms = {"level": "site", "delta": 1e-4, "clip_norm": 1.0, "epsilon": epsilon, "evaluation_noise": 30}
        study = asked(terms, evaluation={"held_out": held_out})
        kept = site_terms(study)
        assert 0.98 * epsilon <= kept.epsilon(kept.rounds, evaluations=kept.evaluations) <= epsilon


def test_a_person_is_told_both_numbers() -> None:
    told = calibration(asked(TERMS | {"clip_quantile": 0.5}, evaluation={"held_out": 0.2}))
    assert "for each site" in told["privacy"]
    assert "ledger" in told["of a patient"]
    assert "0.5 quantile" in told["noise"]
    assert told["figures"].startswith("once")


def test_the_hospital_reads_what_leaves(tmp_path: Path) -> None:
    study = asked(TERMS | {"clip_quantile": 0.5})
    package = pack(study, tmp_path, {site: SigningKey.generate().public.text for site in SITES}, MemoryStore())
    text = "\n".join(describe_request(package, "5e" * 32))
    assert "whole sites" in text
    assert "for each of this site's patients that is ε = " in text
    assert "whether it had to shorten" in text


# what is refused


@pytest.mark.parametrize(
    ("terms", "changes", "places"),
    [
        ({}, {"privacy": {"secure_aggregation": False, "why_not_secure": "a test"}}, ["privacy.secure_aggregation"]),
        ({}, {"privacy": {"group_size": 3}}, ["privacy.group_size"]),
        ({"delta": None}, {}, ["privacy.differential_privacy.delta"]),
        ({"clip_norm": None}, {}, ["privacy.differential_privacy.clip_norm"]),
        ({"epsilon": 1.0}, {}, ["privacy.differential_privacy"]),
        ({"sampling_rate": 0.1}, {}, ["privacy.differential_privacy.sampling_rate"]),
        ({"asserted": True}, {}, ["privacy.differential_privacy.asserted"]),
        ({"delta": 0.01}, {}, ["privacy.differential_privacy.delta"]),
        ({"noise_multiplier": None, "epsilon": 1e-3}, {}, ["privacy.differential_privacy.epsilon"]),
        ({"noise_multiplier": None, "epsilon": 1.0, "evaluation_noise": 2.0}, HELD_OUT, ["privacy.differential_privacy.epsilon"]),
        ({}, {"method": {"name": "scaffold"}}, ["method.name"]),
        ({}, {"method": {"name": "qfedavg"}}, ["method.name"]),
        ({}, {"method": {"name": "ditto"}}, ["method.name"]),
        ({}, {"method": {"name": "fedadam"}, "model": {"name": None, "code": "model.py"}}, ["method.name"]),
        ({}, {"method": {"largest_change": 1.0}}, ["method.largest_change"]),
        ({}, {"method": {"aggregator": "median"}}, ["method.aggregator"]),
        ({}, {"model": {"options": {"batch_norm": True}}}, ["model.options.batch_norm"]),
        ({}, {"cohort": {"standardise": "federated"}}, ["cohort.standardise"]),
        ({}, {"cohort": {"missing": "mean"}}, ["cohort.missing"]),
        ({"evaluation_noise": 30}, {"evaluation": {"held_out": 0.2, "release_per_site": True}}, ["evaluation.release_per_site"]),
        ({"evaluation_noise": 30}, {"evaluation": {"held_out": 0.2, "metrics": ["brier"]}}, ["evaluation.metrics"]),
    ],
)
def test_what_would_break_the_guarantee_is_refused(terms: dict[str, Any], changes: dict[str, Any], places: list[str]) -> None:
    changed = {key: value for key, value in (TERMS | terms).items() if value is not None}
    privacy = {"differential_privacy": changed, **changes.get("privacy", {})}
    study = asked(changed, **{name: change for name, change in changes.items() if name != "privacy"}, privacy=privacy)
    assert [fault.place for fault in faults(study)] == places
    with pytest.raises(BadStudy):
        spending(study, "train")


def test_what_needs_no_refusal_is_none() -> None:
    """Code of the study, a site's own standardisation, several epochs: the agent shortens and hides whatever comes of it."""
    assert faults(asked(model={"name": None, "code": "model.py"})) == []
    assert faults(asked(cohort={"standardise": "site"})) == []
    assert faults(private({**TERMS}, evaluation={"held_out": 0}, training={"local_steps": None, "local_epochs": 3.0})) == []
    assert faults(asked(cohort={"target": {"name": "disease", "kind": "regression"}})) == []
