"""Compressed updates in a study: what is refused, what a site keeps, what a bad site can do, and that every way gives the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aimer2.blobs.folder import FolderStore
from aimer2.client.simulate import simulate
from aimer2.compression import catalogue
from aimer2.compression.top_k import TopK
from aimer2.connectors.table import Column, Table, pseudonyms
from aimer2.core.errors import BadStudy, BadUpdate, NotAllowed
from aimer2.core.study import Study
from aimer2.core.task import Task
from aimer2.messages import tensors
from aimer2.study.check import promises
from aimer2.study.compressing import Compression, compressed, faults
from aimer2.study.events import RoundFinished

Make = Callable[..., Study]
FEATURES = ("age", "chol", "dose")
KINDS = ("mild", "moderate", "severe")
SMALL = {"name": "multinomial", "framework": "numpy"}
COHORT: dict[str, Any] = {
    "dataset": "heart",
    "features": [{"name": name} for name in FEATURES],
    "target": {"name": "kind", "kind": "multiclass", "categories": KINDS},
    "standardise": "none",
}
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "random_k": {"fraction": 0.3},
    "top_k": {"fraction": 0.3},
    "stochastic_quantisation": {"bits": 4},
    "half_precision": {},
}


def table(number: int, rows: int = 60) -> Table:
    rng = np.random.default_rng(number)
    numbers = rng.normal(size=(rows, 3))
    kind = np.argmax(numbers @ rng.normal(size=(3, 3)) + rng.normal(size=(rows, 3)), axis=1)
    columns = {name: Column("number", numbers[:, place]) for place, name in enumerate(FEATURES)}
    columns["kind"] = Column("category", kind.astype(np.int32), KINDS)
    return Table(columns, pseudonyms([f"{number}-{row}" for row in range(rows)], b"0123456789abcdef"))


TABLES = {site: table(number) for number, site in enumerate(("north", "south", "west"))}


@pytest.fixture
def asked(study: Make) -> Make:
    def make(compression: str | None = None, parameters: Any = None, **changes: Any) -> Study:
        named = {} if compression is None else {"compression": {"name": compression, "parameters": parameters or COMPRESSIONS[compression]}}
        method = {"name": "fedavg", "rounds": 4, **named, **changes.pop("method", {})}
        return study(**{"cohort": COHORT, "model": SMALL, "method": method, **changes})

    return make


def bits(model: Any) -> dict[str, bytes]:
    return {name: np.asarray(leaf).tobytes() for name, leaf in model.items()}


SECRET = {"privacy": {"secure_aggregation": True}}
NOISY = {
    "privacy": {
        "secure_aggregation": False,
        "why_not_secure": "a test",
        "differential_privacy": {"epsilon": 3.0, "delta": 1e-3, "clip_norm": 1.0, "sampling_rate": 0.2},
    }
}


@pytest.mark.parametrize("name", catalogue.names())
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (SECRET, "do not add up"),
        (NOISY, "differential privacy is accounted"),
        ({"method": {"largest_change": 1.0}}, "lengthen a change"),
    ],
    ids=["in secret", "differential privacy", "bounded"],
)
def test_what_is_no_sum_is_refused_where_sums_are_all_there_is(asked: Make, name: str, changes: Any, words: str) -> None:
    study = asked(name, **changes)
    found = [fault for fault in promises(study) if fault.place.startswith("method.compression")]
    if catalogue.example(name).linear:
        assert found == []
    else:
        assert [fault.place for fault in found] == ["method.compression.name"]
        assert words in found[0].problem and "random_k" in found[0].remedy


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("boosted_trees", "no change of a model"),
        ("cyclic_weight_transfer", "hands one site's model on"),
        ("feddyn", "must add up the same"),
    ],
)
def test_methods_whose_sums_must_arrive_as_they_are(asked: Make, method: str, words: str) -> None:
    found = faults(asked("random_k", method={"name": method}))
    assert [fault.place for fault in found] == ["method.compression"]
    assert words in found[0].problem
    assert faults(asked(method={"name": method})) == []
    assert faults(asked("random_k", method={"name": "scaffold"})) == []


def test_sites_that_send_different_coordinates_are_not_compared(asked: Make) -> None:
    for name in catalogue.names():
        found = faults(asked(name, method={"aggregator": "median"}))
        assert [fault.place for fault in found] == ([] if catalogue.example(name).aligned else ["method.compression.name"])


def test_every_fault_of_its_form_is_told(asked: Make) -> None:
    assert [fault.place for fault in faults(asked("random_k", {"fraction": 7.0, "k": 3}))] == [
        "method.compression.parameters.k",
        "method.compression.parameters.fraction",
    ]


def test_a_model_of_vectors_alone_is_refused(study: Make) -> None:
    plain = {name: pd.DataFrame({"age": np.arange(60.0), "chol": np.arange(60.0) % 7, "disease": np.arange(60) % 2}) for name in "abc"}
    with pytest.raises(BadStudy, match="change nothing"):
        simulate(study(method={"compression": {"name": "random_k"}}), plain)


@pytest.mark.parametrize("name", ["random_k", "top_k"])
def test_with_a_fraction_of_one_the_study_has_the_bits_of_one_without_compression(asked: Make, name: str) -> None:
    whole = simulate(asked(), TABLES)
    assert bits(simulate(asked(name, {"fraction": 1.0}), TABLES).model) == bits(whole.model)
    assert bits(simulate(asked(name), TABLES).model) != bits(whole.model)


@pytest.mark.parametrize("name", catalogue.names())
def test_neither_the_order_of_answers_nor_the_number_of_workers_changes_a_bit(asked: Make, name: str) -> None:
    study = asked(name)
    one = simulate(study, TABLES)
    assert bits(simulate(study, TABLES, order=("west", "north", "south")).model) == bits(one.model)
    assert bits(simulate(study, TABLES, workers=2).model) == bits(one.model)
    assert one.figures


@pytest.mark.parametrize("name", catalogue.names())
def test_updates_that_stay_in_files_give_the_bits_of_memory(
    asked: Make, world: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world(TABLES, **asked(name).model_dump(exclude_defaults=True))
    expected = here.run()[-1].result["model"]
    monkeypatch.setattr(tensors, "LAZY_BYTES", 0)
    monkeypatch.setattr("aimer2.blobs.folder.SMALL_BYTES", -1)
    stored = world(TABLES, blobs=FolderStore(tmp_path), **asked(name).model_dump(exclude_defaults=True))
    assert stored.run()[-1].result["model"] == expected


@pytest.mark.parametrize("name", catalogue.names())
def test_killed_after_any_event_it_goes_on_with_the_same_bits(asked: Make, world: Any, name: str) -> None:
    fields = asked(name).model_dump(exclude_defaults=True)
    expected = world(TABLES, **fields).run()
    for count in range(1, len(expected) + 1, 3):
        made = world(TABLES, **fields)
        made.run(stop_after=count, lose_last=count % 2 == 0)
        assert made.run()[-1].result["model"] == expected[-1].result["model"], count


def test_in_secret_it_is_the_sum_in_the_clear(asked: Make) -> None:
    plain, secret = simulate(asked("random_k"), TABLES), simulate(asked("random_k", **SECRET), TABLES)
    for name, leaf in plain.model.items():
        np.testing.assert_allclose(secret.model[name], leaf, atol=1e-6)
    assert secret.result["privacy"]["secure_aggregation"]["sums"] > 0


@pytest.mark.parametrize("changes", [{}, SECRET], ids=["in the clear", "in secret"])
def test_a_bound_on_the_change_holds_for_the_restored_one(asked: Make, changes: Any) -> None:
    def moved(bound: float | None) -> float:
        method = {"rounds": 1, "largest_change": bound}
        model = simulate(asked("random_k", method=method, evaluation={"held_out": 0}, **changes), TABLES).model
        return float(np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in model.values()])))

    assert moved(None) > 0.05
    assert 0.001 < moved(0.05) <= 0.05


def test_an_answer_that_did_not_count_leaves_no_trace_in_what_a_site_keeps() -> None:
    compression = Compression(TopK(fraction=0.1), 3)
    rng, memory, kept = np.random.default_rng(1), {}, []

    def sent(number: int, counted: int) -> Any:
        task = Task(id="t", study="s", site="north", stage="train", round_number=number, counted=counted)
        change = np.random.default_rng(number).normal(size=(10, 10))
        made = compressed(compression, task, {"difference": {"w": change}, "weight": {"rows": np.ones(1)}}, memory)
        kept.append(made.memory)
        return made.sums["difference"]["values:w"]

    sent(1, 0)
    memory = kept[-1]
    without = sent(3, 1)
    sent(2, 1)
    memory = kept[-1]
    np.testing.assert_array_equal(sent(3, 1), without)
    assert (sent(3, 2) != without).any()
    memory = {name: {"w": rng.normal(size=(3, 3))} if name.endswith("after") else one for name, one in memory.items()}
    with pytest.raises(BadUpdate):
        sent(3, 2)


def test_a_site_hands_nothing_that_is_no_sum_to_be_masked() -> None:
    task = Task(id="t", study="s", site="north", stage="train", round_number=1, message="{}")
    with pytest.raises(NotAllowed):
        compressed(Compression(TopK(), 3), task, {"difference": {"w": np.ones((9, 9))}}, {})


def test_outside_training_nothing_is_compressed() -> None:
    task = Task(id="t", study="s", site="north", stage="final", round_number=1)
    sums = {"metrics": {"count": np.ones((9, 9))}}
    assert compressed(Compression(TopK(), 3), task, sums, {}).sums is sums


def _odd_places(sums: dict[str, Any]) -> dict[str, Any]:
    places = sums["difference"]["places:coefficients"]
    return {**sums, "difference": {**sums["difference"], "places:coefficients": np.full_like(places, 60_000)}}


def _whole(sums: dict[str, Any]) -> dict[str, Any]:
    return {**sums, "difference": {"coefficients": np.zeros((3, 3)), "intercept": np.zeros(3)}}


def _nothing(sums: dict[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in sums.items() if name != "difference"}


@pytest.mark.parametrize("change", [_odd_places, _whole, _nothing])
def test_a_site_whose_update_cannot_be_restored_is_left_out_and_named(asked: Make, world: Any, change: Any) -> None:
    """Sites that pack as they like, in the place of an honest agent."""
    made = world(TABLES, **asked("top_k").model_dump(exclude_defaults=True))
    honest = made.engine.inner

    class Bad:
        async def ask(self, tasks: Any) -> Any:
            async for reply in honest.ask(tasks):
                task = tasks[reply.site]
                if (reply.site, task.stage, task.round_number) == ("west", "train", 2):
                    sums = change({name: tensors.read_tree(made.blobs.open(ref)) for name, ref in reply.sums.items()})
                    yield reply.model_copy(update={"sums": {name: honest._send(one) for name, one in sums.items()}})
                else:
                    yield reply

    made.engine.inner = Bad()
    rounds = [event for event in made.run() if isinstance(event, RoundFinished) and event.stage == "train"]
    assert [event.took_part for event in rounds] == [("north", "south", "west"), ("north", "south"), *[("north", "south", "west")] * 2]
    assert [(absence.site, absence.outcome) for absence in rounds[1].absent] == [("west", "failed")]
