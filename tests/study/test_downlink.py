"""Which way a model takes to a site, what that costs, and that it changes no bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aimer2.blobs.memory import MemoryStore
from aimer2.client.simulate import simulate
from aimer2.connectors.table import Column, Table, pseudonyms
from aimer2.core.errors import Tampered
from aimer2.core.task import BlobRef, Task
from aimer2.messages.wire import ATTACHED_BYTES
from aimer2.study.downlink import Sent, bytes_of, offers, unpacked
from aimer2.study.events import RoundFinished

World = Callable[..., Any]


def put(blobs: MemoryStore, data: bytes) -> BlobRef:
    writer = blobs.create()
    writer.write(data)
    return writer.commit()


BLOBS = MemoryStore()
RNG = np.random.default_rng(1)
OLD = bytes(2 * ATTACHED_BYTES)
MODEL = {"old": put(BLOBS, OLD), "new": put(BLOBS, OLD[:-100] + RNG.bytes(100)), "longer": put(BLOBS, OLD + bytes(8))}
NOISE, SMALL = put(BLOBS, RNG.bytes(2 * ATTACHED_BYTES)), put(BLOBS, bytes(ATTACHED_BYTES))
SENT = Sent({"model": MODEL["old"], "base": MODEL["longer"]}, frozenset({"a"}))


def test_a_site_that_has_the_last_model_gets_the_change_and_others_the_whole() -> None:
    found = offers("changes", {"model": MODEL["new"]}, ("a", "b"), SENT, BLOBS)
    assert found["a"]["model"].base == MODEL["old"].sha256
    assert found["b"]["model"].base is None
    packed = offers("zstd", {"model": MODEL["new"]}, ("a", "b"), SENT, BLOBS)
    assert packed["a"] == packed["b"] == found["b"]
    assert offers(None, {"model": MODEL["new"]}, ("a", "b"), SENT, BLOBS) == {"a": {}, "b": {}}


def test_what_would_gain_nothing_is_not_packed() -> None:
    assert offers("changes", {"model": NOISE, "small": SMALL}, ("b",), SENT, BLOBS) == {"b": {}}
    assert offers("changes", {"model": MODEL["longer"]}, ("c",), SENT, BLOBS)["c"]["model"].base is None
    other = offers("changes", {"model": MODEL["longer"]}, ("a",), Sent({"model": MODEL["old"]}, frozenset({"a"})), BLOBS)
    assert other["a"]["model"].base is None, "of another size"
    missing = Sent({"model": MODEL["new"].model_copy(update={"sha256": "0" * 64})}, frozenset({"a"}))
    gone = offers("changes", {"model": MODEL["new"]}, ("a",), missing, BLOBS)
    assert gone["a"]["model"].base is None, "no longer here"


def test_what_a_site_has_is_neither_packed_nor_counted() -> None:
    inputs = {"model": MODEL["new"], "base": MODEL["longer"], "small": SMALL}
    found = offers("changes", inputs, ("a", "b"), SENT, BLOBS)
    assert found["a"].keys() == {"model"} and found["b"].keys() == {"model", "base"}
    tasks = {site: Task(id="t", study="s", site=site, stage="train", round_number=2, inputs=inputs, packed=found[site]) for site in ("a", "b")}
    assert bytes_of(tasks["a"], SENT) == found["a"]["model"].blob.size + SMALL.size
    assert bytes_of(tasks["b"], SENT) == sum(one.blob.size for one in found["b"].values()) + SMALL.size
    whole = tasks["b"].model_copy(update={"packed": {}})
    assert bytes_of(whole, SENT) == sum(ref.size for ref in inputs.values())
    assert Sent.of(Sent.by(tasks, ["a"]).document()) == Sent(inputs, frozenset({"a"}))
    assert Sent.of({}) == Sent()


def test_bytes_of_another_model_are_refused_and_not_kept() -> None:
    one = offers("changes", {"model": MODEL["new"]}, ("b",), SENT, BLOBS)["b"]["model"]
    blobs = MemoryStore()
    wrong = MODEL["new"].model_copy(update={"sha256": "1" * 64})
    with pytest.raises(Tampered):
        unpacked(BLOBS.open(one.blob), None, wrong, blobs)
    assert not blobs._blobs
    assert bytes(unpacked(BLOBS.open(one.blob), None, MODEL["new"], blobs).view()) == bytes(BLOBS.open(MODEL["new"]).view())


CODES, KINDS = tuple(f"code-{number}" for number in range(4000)), ("mild", "moderate", "severe")
COHORT = {
    "dataset": "codes",
    "features": [{"name": "code", "kind": "category", "categories": CODES}],
    "target": {"name": "kind", "kind": "multiclass", "categories": KINDS},
    "standardise": "none",
}


def table(seed: int) -> Table:
    rng = np.random.default_rng(seed)
    columns = {
        "code": Column("category", rng.integers(0, len(CODES), 80).astype(np.int32), CODES),
        "kind": Column("category", rng.integers(0, 3, 80).astype(np.int32), KINDS),
    }
    return Table(columns, pseudonyms([f"{seed}-{row}" for row in range(80)], b"0123456789abcdef"))


@pytest.mark.parametrize("kind", ["zstd", "changes"])
@pytest.mark.parametrize("stop_after", [None, 22], ids=["undisturbed", "killed on the way"])
def test_a_study_has_the_bits_of_one_without_and_leaves_the_same_blobs(world: World, kind: str, stop_after: int | None) -> None:
    tables = {site: table(number) for number, site in enumerate(("north", "south", "west"))}
    terms: dict[str, Any] = {"cohort": COHORT, "model": {"framework": "numpy", "name": "multinomial"}}
    whole = world(tables, method={"rounds": 4}, **terms)
    expected = whole.run()[-1].result
    made = world(tables, method={"rounds": 4, "downlink": kind}, **terms)
    if stop_after is not None:
        made.run(stop_after=stop_after)
    result = made.run()[-1].result
    assert result["model"] == expected["model"]
    assert result["figures"] == expected["figures"]
    assert set(made.blobs._blobs) == set(whole.blobs._blobs)
    trained = {task.round_number: task for task in made.engine.asked if task.stage == "train" and task.site == "north"}
    bases = [trained[number].packed["model"].base for number in range(1, 5)]
    assert bases == ([None] * 4 if kind == "zstd" else [None, *(trained[number].inputs["model"].sha256 for number in range(1, 4))])
    assert result["bytes_sent"] < expected["bytes_sent"] / 5
    assert result["bytes_received"] == expected["bytes_received"]
    shared = simulate(made.study, tables, workers=2).result
    assert shared["model"] == expected["model"]
    assert shared["bytes_sent"] == result["bytes_sent"]


def test_the_steps_of_a_sum_in_secret_offer_nothing_packed(world: World) -> None:
    tables = {site: table(number) for number, site in enumerate(("north", "south", "west"))}
    terms: dict[str, Any] = {"cohort": COHORT, "model": {"framework": "numpy", "name": "multinomial"}, "privacy": {"secure_aggregation": True}}
    packed = world(tables, method={"rounds": 3, "downlink": "changes"}, **terms).study
    whole = world(tables, method={"rounds": 3}, **terms).study
    # a worker that looks up what the packed bytes are the change of must find it in every task
    one, two = (simulate(asked, tables, workers=2).result for asked in (packed, whole))
    assert one["model"] == two["model"]
    assert one["bytes_sent"] < two["bytes_sent"] / 2


def test_bytes_of_each_site_and_round_are_told_and_recorded(world: World, acts: Any) -> None:
    made = world(method={"rounds": 3})
    made.tell("west", "train", 2, acts["fail"])
    events = made.run()
    rounds = [event for event in events if isinstance(event, RoundFinished)]
    result = events[-1].result
    second = next(event for event in rounds if event.stage == "train" and event.round_number == 2)
    assert second.traffic["west"].received == 0 < second.traffic["north"].received
    assert second.traffic["west"].sent == second.traffic["north"].sent > 0
    for event in rounds:
        assert event.bytes_received == sum(one.received for one in event.traffic.values())
        assert event.bytes_sent == sum(one.sent for one in event.traffic.values())
    for name in ("bytes_received", "bytes_sent"):
        assert result[name] == sum(getattr(event, name) for event in rounds) == sum(site[name] for site in result["sites"].values())
        assert [getattr(event, name) for event in rounds] == [told[name] for told in result["rounds"]]
