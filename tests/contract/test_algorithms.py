"""What every method promises, whoever wrote it: one suite over the catalogue, each run with its `EXAMPLE`."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from aimer2.algorithms import catalogue
from aimer2.algorithms.boosted_trees import BoostedTrees as GradientBoosting
from aimer2.algorithms.diagnosis import Diagnosis
from aimer2.algorithms.fedrep import FedRep
from aimer2.algorithms.parts import Assembling
from aimer2.algorithms.personal import Personal
from aimer2.algorithms.qfedavg import QFedAvg
from aimer2.algorithms.random_trees import RandomTrees
from aimer2.algorithms.worst_site import WorstSite
from aimer2.blobs.folder import FolderStore
from aimer2.blobs.memory import MemoryStore
from aimer2.core import tree
from aimer2.core.clock import SystemClock
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadStudy
from aimer2.core.protocols import Algorithm, Local
from aimer2.core.study import Target, Training
from aimer2.core.task import Reply, SiteId, Task
from aimer2.core.tree import LazyArray, Tree
from aimer2.core.update import Update, total
from aimer2.engines.in_process import InProcess
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.learners.torch import TorchLearner
from aimer2.learners.trees import TreesLearner
from aimer2.messages import tensors
from aimer2.messages.tensors import read_tree
from aimer2.models.linear import Logistic
from aimer2.models.trees import BoostedTrees
from aimer2.study.checkpoint import load_state, save_state
from aimer2.study.conduct import Loop
from aimer2.study.events import EVENT, Event, RoundFinished, StudyPaused
from aimer2.study.perform import Participant
from aimer2.study.plan import Part, Plan
from aimer2.study.quorum import Patience

NAMES = catalogue.names()
SITES = ("a", "b", "c")
FEATURES = 3


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def algorithm(name: str) -> Algorithm[Any]:
    return catalogue.example(name)


def learner(rate: float = 0.3) -> NumpyLearner:
    recipe = Recipe(Training(learning_rate=rate), Target(name="y"), 10, (FEATURES,), ("auc",))
    made = NumpyLearner(lambda: Logistic(FEATURES), recipe)
    made.initialise(np.random.default_rng(1))
    return made


def network(rate: float = 0.3) -> Any:
    """In torch and float64, for methods that work on no other framework."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    made = TorchLearner(build, Recipe(Training(learning_rate=rate), Target(name="y"), 10, (FEATURES,), ("auc",)), "cpu")
    made.initialise(np.random.default_rng(1))
    return made


def forest(rate: float = 0.3) -> Any:
    """For methods that grow trees: as many rounds as the example has."""
    recipe = Recipe(Training(learning_rate=rate), Target(name="y"), 10, (FEATURES,), ("auc",))
    return TreesLearner(lambda: BoostedTrees(FEATURES, 1, trees=2, max_depth=2, bins=8), recipe)


@pytest.fixture(autouse=True)
def framework(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "torch" in catalogue.frameworks(request.getfixturevalue("name")):
        monkeypatch.setitem(globals(), "learner", network)
    if "trees" in catalogue.frameworks(request.getfixturevalue("name")):
        monkeypatch.setitem(globals(), "learner", forest)


def rows(seed: int, count: int = 40) -> Samples:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, FEATURES)) + seed / 4
    return Samples(features, (features[:, 0] + rng.normal(size=count) > 0).astype(np.int64), groups=np.eye(2)[np.arange(count) % 2])


def joined(*parts: Samples) -> Samples:
    groups = [part.groups for part in parts if part.groups is not None]
    return Samples(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("features", "targets")), groups=np.concatenate(groups))


def participants(algorithm: Algorithm[Any], *, steps: int = 3, batch_size: int | None = 8) -> dict[SiteId, Participant]:
    return {
        site: Participant(
            site=site, algorithm=algorithm, learner=learner(), data=rows(number, 30 + 10 * number), steps=steps, batch_size=batch_size, seed=3
        )
        for number, site in enumerate(SITES)
    }


class Written:
    """Checkpoints as they are when they have lain on a disk."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.kept: list[str] = []

    async def load(self) -> dict[str, Any] | None:
        return None if self.text is None else json.loads(self.text)

    async def save(self, document: dict[str, Any]) -> None:
        self.text = json.dumps(document, allow_nan=False)

    async def events(self) -> Sequence[Event]:
        return [EVENT.validate_json(text) for text in self.kept]


@dataclasses.dataclass
class Run:
    algorithm: Algorithm[Any]
    blobs: Any = dataclasses.field(default_factory=MemoryStore)
    order: Sequence[SiteId] = SITES
    checkpoints: Written = dataclasses.field(default_factory=Written)

    def __post_init__(self) -> None:
        self.sites = participants(self.algorithm)
        self.engine = InProcess(self.sites, self.blobs, order=self.order)
        self.plan = Plan(
            digest="5e" * 32,
            roster=SITES,
            parts=(Part("train", self.algorithm, 100, learner().parameters()),),
            patience=Patience(1, 60.0),
        )

    def go(self, stop_after: int | None = None) -> tuple[list[Event], dict[str, bytes]]:
        """The events up to the end, or to the one after which the coordinator is killed; and the bits of the final model."""

        async def conduct() -> tuple[list[Event], dict[str, bytes]]:
            loop, seen = Loop(self.plan, self.engine, self.blobs, self.checkpoints, SystemClock()), []
            running: Any = loop.run()
            async for event in running:
                seen.append(event)
                self.checkpoints.kept.append(event.model_dump_json())
                if len(seen) == stop_after:
                    await running.aclose()
                    break
            return seen, {} if loop.model is None else bits(read_tree(self.blobs.open(loop.model)))

        return asyncio.run(asyncio.wait_for(conduct(), 30))


def bits(leaves: Tree) -> dict[str, bytes]:
    return {leaf: tree.load(array).tobytes() for leaf, array in leaves.items()}


def local(algorithm: Algorithm[Any], state: Any, data: Samples, *, steps: int = 1, batch_size: int | None = None, rate: float = 0.3) -> Update:
    site = Local(data=data, learner=learner(rate), memory={}, rng=np.random.default_rng(1), round_number=1, steps=steps, batch_size=batch_size)
    return algorithm.local(algorithm.broadcast(state), site)


def test_it_is_a_frozen_dataclass_that_nobody_inherits_from(algorithm: Algorithm[Any]) -> None:
    kind: Any = type(algorithm)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert getattr(kind, "__final__", False)
    assert isinstance(kind.version, int)
    assert all(field.kw_only for field in dataclasses.fields(kind))
    assert all(isinstance(field.default, bool | int | float | str) for field in dataclasses.fields(kind)), "each has a default that can be printed"


def test_its_page_names_a_paper_or_a_definition_and_what_leaves_the_site(name: str, algorithm: Algorithm[Any]) -> None:
    page = inspect.getdoc(inspect.getmodule(type(algorithm))) or ""
    assert re.search(r"\b(19|20)\d\d\b", page), "no year, so no paper"
    assert "Leaves the site:" in page
    assert catalogue.summary(name).endswith(".")


def test_what_leaves_the_site_is_what_its_page_says(name: str, algorithm: Algorithm[Any]) -> None:
    state = algorithm.init(learner().parameters())
    sent = local(algorithm, state, rows(1), steps=2)
    documented = [re.match(r"``(\w+)``", line) for line in catalogue.leaves(name)]
    at_the_end = {"kept_metrics", "local_metrics"} if isinstance(algorithm, Personal) else set()
    assert {match.group(1) for match in documented if match} == set(sent.sums) | at_the_end, catalogue.leaves(name)
    assert None not in documented
    # Names of arrays lie open under masks: an agent lets no other out.
    received = algorithm.broadcast(state)
    stated = catalogue.words(name).union(*received.values(), {"rows"})
    foretold = {*catalogue.layouts(name, received), *received}
    assert {leaf for sum_name, leaves in sent.sums.items() if sum_name not in foretold for leaf in leaves} <= stated


def test_it_runs_to_its_end_and_moves_the_model(algorithm: Algorithm[Any]) -> None:
    events, final = Run(algorithm).go()
    finished = [event for event in events if isinstance(event, RoundFinished)]
    assert not [event for event in events if isinstance(event, StudyPaused)]
    assert len(finished) == getattr(algorithm, "rounds", len(finished))
    assert final.keys() == learner().parameters().keys()
    assert final != bits(learner().parameters())
    assert all(np.isfinite(np.frombuffer(final[name], leaf.dtype)).all() for name, leaf in learner().parameters().items())


@pytest.mark.parametrize("order", [("c", "b", "a"), ("b", "c", "a")], ids="".join)
def test_the_order_of_arrival_changes_no_bit(algorithm: Algorithm[Any], order: tuple[str, ...]) -> None:
    assert Run(algorithm, order=order).go()[1] == Run(algorithm).go()[1]


def test_the_coordinator_killed_after_any_event_ends_with_the_same_bits(algorithm: Algorithm[Any]) -> None:
    events, expected = Run(algorithm).go()
    for count in range(1, len(events)):
        run = Run(algorithm)
        run.go(stop_after=count)
        assert run.go()[1] == expected, count


def test_sites_killed_too_end_with_the_same_bits(algorithm: Algorithm[Any]) -> None:
    """What a site's method remembers outlives its process, as an agent's store does; what it has replied is forgotten and made anew."""
    events, expected = Run(algorithm).go()
    for count in range(1, len(events)):
        run = Run(algorithm)
        run.go(stop_after=count)
        run.sites, remembered = participants(algorithm), run.engine._memory
        run.engine = InProcess(run.sites, run.blobs)
        run.engine._memory = remembered
        assert run.go()[1] == expected, count


class Deaf(InProcess):  # type: ignore[misc]
    """Does not hear one site in round 2; ``asks``: the site has computed all the same."""

    asks = True

    async def ask(self, tasks: Mapping[SiteId, Task]) -> AsyncIterator[Reply]:
        lost = "c" in tasks and tasks["c"].round_number == 2 and len(tasks) > 1
        async for reply in super().ask(tasks if self.asks or not lost else {site: task for site, task in tasks.items() if site != "c"}):
            if not lost or reply.site != "c":
                yield reply


def test_an_answer_that_did_not_count_leaves_no_trace(algorithm: Algorithm[Any]) -> None:
    """The coordinator's half never had it, so the site's half takes back what it remembers of it."""
    ends = []
    for asks in (True, False):
        run = Run(algorithm)
        run.engine = Deaf(run.sites, run.blobs)
        run.engine.asks = asks
        events, final = run.go()
        ends.append(final)
        third = [event for event in events if isinstance(event, RoundFinished)][1]
        assert "c" not in third.took_part or len(third.took_part) == 1
    assert ends[0] == ends[1]


def test_a_state_left_in_files_is_the_state_in_memory(algorithm: Algorithm[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Run(algorithm).go()[1]
    monkeypatch.setattr(tensors, "LAZY_BYTES", 0)
    monkeypatch.setattr("aimer2.blobs.folder.SMALL_BYTES", -1)
    run = Run(algorithm, blobs=FolderStore(tmp_path))
    assert run.go()[1] == expected
    state = algorithm.init(learner().parameters())
    kept = load_state(type(state), save_state(state, run.blobs), run.blobs)
    assert any(not isinstance(leaf, np.ndarray) for leaf in algorithm.model(kept).values()), "nothing was lazy here"


def test_its_state_is_kept_by_a_checkpoint(algorithm: Algorithm[Any]) -> None:
    blobs = MemoryStore()
    state = algorithm.init(learner().parameters())
    for _ in range(2):
        state = algorithm.update(state, total([local(algorithm, state, rows(1)), local(algorithm, state, rows(2))]))
    again = load_state(type(state), json.loads(json.dumps(save_state(state, blobs))), blobs)
    assert save_state(again, blobs) == save_state(state, blobs)
    assert bits(algorithm.model(again)) == bits(algorithm.model(state))
    assert algorithm.finished(again) == algorithm.finished(state)


def test_neither_half_changes_what_it_is_given(algorithm: Algorithm[Any]) -> None:
    state = algorithm.init(learner().parameters())
    update = local(algorithm, state, rows(1), steps=2)
    before = [bits(leaves) for leaves in (*update.sums.values(), *algorithm.broadcast(state).values(), algorithm.model(state))]
    algorithm.update(state, update)
    local(algorithm, state, rows(2), steps=2)
    assert [bits(leaves) for leaves in (*update.sums.values(), *algorithm.broadcast(state).values(), algorithm.model(state))] == before


def test_its_sums_travel(algorithm: Algorithm[Any]) -> None:
    state = algorithm.init(learner().parameters())
    for leaves in (*local(algorithm, state, rows(1)).sums.values(), *algorithm.broadcast(state).values()):
        assert leaves
        assert all(leaf.dtype.name in ("float32", "float64", "int64") for leaf in leaves.values())
        assert tree.is_finite(leaves)


def test_two_sites_pooled_are_one(algorithm: Algorithm[Any]) -> None:
    """One step over all rows: the sum of two sites' updates is the update of a site that has both's rows (FedSGD)."""
    if isinstance(algorithm, QFedAvg):
        # between sites it weighs by their losses, on purpose; without that it must hold
        algorithm = dataclasses.replace(algorithm, q=0.0)
    if isinstance(algorithm, WorstSite):
        algorithm = dataclasses.replace(algorithm, mixture_rate=0.0)
    if isinstance(algorithm, FedRep):
        # each site fits its own head first, on purpose
        algorithm = dataclasses.replace(algorithm, head_steps=0)
    first, second = rows(1, 30), rows(2, 50)
    both = joined(first, second)
    state = algorithm.init(learner().parameters())
    apart = algorithm.update(state, total([local(algorithm, state, first), local(algorithm, state, second)]))
    together = algorithm.update(state, local(algorithm, state, both))
    for leaf, array in algorithm.model(together).items():
        np.testing.assert_allclose(algorithm.model(apart)[leaf], array, rtol=0, atol=1e-12)
    moved = {leaf for leaf, array in algorithm.model(together).items() if not np.array_equal(array, algorithm.model(state)[leaf])}
    travelling = set(algorithm.broadcast(state)["model"])
    if isinstance(algorithm, GradientBoosting):
        # its first round lays the bins, and tells the constant that the trees start from
        travelling = {"edges", "base"}
    if isinstance(algorithm, RandomTrees):
        travelling = {"value", "count"}
    assert moved == (travelling if not isinstance(algorithm, Assembling) else {"0.weight", "2.weight"})


def test_an_update_is_weighted_by_rows(algorithm: Algorithm[Any]) -> None:
    data = rows(1, 20)
    twice = joined(data, data)
    state = algorithm.init(learner().parameters())
    single, double = local(algorithm, state, data), local(algorithm, state, twice)
    # how sites differ is what pooling hides
    pooled = {"difference", "weight"} if isinstance(algorithm, Diagnosis) else set(single.sums)
    for sum_name, leaves in Update({name: leaves for name, leaves in total([single, single]).sums.items() if name in pooled}).sums.items():
        for leaf, array in leaves.items():
            np.testing.assert_allclose(double.sums[sum_name][leaf], array, rtol=1e-12, atol=1e-12)


def test_the_study_can_ask_for_it_by_name(name: str, algorithm: Algorithm[Any]) -> None:
    given = {field.name: getattr(algorithm, field.name) for field in dataclasses.fields(algorithm) if field.name != "rounds"}  # type: ignore[arg-type]
    assert catalogue.make(name, getattr(algorithm, "rounds", 1), given) == algorithm
    with pytest.raises(BadStudy, match="no such parameter"):
        catalogue.make(name, 3, given | {"of_the_future": 1.0})


def test_select_names_sites_that_are_there(algorithm: Algorithm[Any]) -> None:
    chosen = algorithm.select(algorithm.init(learner().parameters()), SITES)
    assert set(chosen) <= set(SITES)
    assert len(set(chosen)) == len(chosen) >= 1


def test_lazy_leaves_are_only_read(algorithm: Algorithm[Any]) -> None:
    """The coordinator's half works on arrays that are read in slices: nothing but tree.map and tree.load may touch them."""

    class Slices:
        def __init__(self, whole: Any) -> None:
            self.whole, self.shape, self.dtype = whole, whole.shape, whole.dtype

        def read(self, start: int, stop: int) -> Any:
            return self.whole.reshape(-1)[start:stop].copy()

    def lazily(leaves: Tree) -> dict[str, LazyArray]:
        return {leaf: Slices(array) for leaf, array in leaves.items()}

    state = algorithm.init(learner().parameters())
    update = local(algorithm, state, rows(1))
    expected = bits(algorithm.model(algorithm.update(state, update)))
    moved = algorithm.update(algorithm.init(lazily(learner().parameters())), Update({key: lazily(leaves) for key, leaves in update.sums.items()}))
    assert bits(algorithm.model(moved)) == expected
