"""One study gives the same bits wherever its blobs lie, whoever answers first, and in whatever form its data came."""

from __future__ import annotations

import asyncio
import hashlib
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aimer2.algorithms.aggregators.weighted_mean import WeightedMean
from aimer2.blobs.folder import FolderStore
from aimer2.client.simulate import made_up_key, simulate
from aimer2.connectors.frame import from_frame
from aimer2.connectors.table import load_table, save_table
from aimer2.core import tree
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadInput
from aimer2.core.study import Study
from aimer2.core.task import BlobRef
from aimer2.core.tree import FileArray
from aimer2.core.update import Update
from aimer2.engines.in_process import InProcess
from aimer2.messages import tensors
from aimer2.messages.package import digest
from aimer2.messages.tensors import read_tree
from aimer2.study import collect
from aimer2.study.checkpoint import Remembered
from aimer2.study.conduct import conduct
from aimer2.study.pack import pack
from aimer2.study.perform import open_performer

SITES = ("a", "b", "c", "d", "e")
LOGISTIC = {"framework": "numpy", "name": "logistic"}
MLP = {"framework": "torch", "name": "mlp", "options": {"hidden": [5], "dropout": 0.2}}


def study(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "parity",
        "question": "Do all ways give the same bits?",
        "purpose": "testing",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Test",
        "expires": "2090-01-01",
        "cohort": {
            "dataset": "drawn",
            "features": [{"name": "age"}, {"name": "dose"}, {"name": "sex", "kind": "category", "categories": ["female", "male"]}],
            "target": {"name": "event"},
            "missing": "mean",
        },
        "model": LOGISTIC,
        "training": {"learning_rate": 0.3, "local_steps": 3, "batch_size": 16},
        "method": {"name": "fedavgm", "rounds": 3, "parameters": {"momentum": 0.5}},
        "sites": {"minimum": 2, "block": 2},
        "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
    }
    return Study(**(fields | changes))


def frame(number: int) -> pd.DataFrame:
    rng = np.random.default_rng(number)
    rows = 40 + 7 * number
    age = rng.normal(60, 10, rows)
    age[rng.random(rows) < 0.1] = np.nan
    sex = pd.Categorical.from_codes(rng.integers(0, 2, rows), ["male", "female"])
    return pd.DataFrame({"age": age, "dose": rng.integers(1, 5, rows), "sex": sex, "event": rng.integers(0, 2, rows)})


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    return {site: frame(number) for number, site in enumerate(SITES)}


def bits(model: Any) -> dict[str, bytes]:
    return {name: np.asarray(leaf).tobytes() for name, leaf in model.items()}


@pytest.mark.parametrize("model", [LOGISTIC, MLP], ids=["numpy", "torch"])
def test_the_order_of_answers_changes_no_bit(frames: Any, model: Any) -> None:
    expected = simulate(study(model=model), frames)
    for order in list(permutations(SITES))[1::59]:
        other = simulate(study(model=model), frames, order=order)
        assert bits(other.model) == bits(expected.model)
        assert other.result["figures"] == expected.result["figures"]
        assert [event.site for event in other.events if event.kind == "reply-received"][:5] == list(order)


def test_the_order_in_which_sites_are_named_changes_no_bit(frames: Any) -> None:
    assert bits(simulate(study(), dict(reversed(frames.items()))).model) == bits(simulate(study(), frames).model)


def test_a_frame_a_table_and_a_snapshot_on_disk_are_the_same_data(frames: Any, tmp_path: Path) -> None:
    tables = {site: from_frame(data, split_key=hashlib.sha256(site.encode()).digest()) for site, data in frames.items()}
    for site, table in tables.items():
        save_table(table, tmp_path / site, clock=SystemClock())
    stored = {site: load_table(tmp_path / site, verify=True) for site in tables}
    expected = simulate(study(), frames)
    for other in (simulate(study(), tables), simulate(study(), stored)):
        assert bits(other.model) == bits(expected.model)
        assert other.result["figures"] == expected.result["figures"]


@pytest.mark.parametrize("model", [LOGISTIC, MLP], ids=["numpy", "torch"])
def test_files_read_slice_by_slice_give_the_bits_of_memory(frames: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = simulate(study(model=model), frames)
    monkeypatch.setattr(tensors, "LAZY_BYTES", 0)
    monkeypatch.setattr("aimer2.blobs.folder.SMALL_BYTES", -1)
    asked = study(model=model)
    asked = asked.model_copy(update={"sites": asked.sites.model_copy(update={"names": SITES})})
    blobs = FolderStore(tmp_path)
    package = pack(asked, tmp_path, {site: made_up_key(site).public.text for site in SITES}, blobs)
    performers = {
        site: open_performer(asked, from_frame(data, split_key=hashlib.sha256(site.encode()).digest()), site=site, files={})
        for site, data in frames.items()
    }
    seen: list[type] = []
    monkeypatch.setattr(collect, "read_tree", lambda blob, lazy: seen.extend(map(type, (t := read_tree(blob, lazy=lazy)).values())) or t)

    async def run() -> Any:
        past = Remembered()
        async for event in conduct(package, digest(package), InProcess(performers, blobs), blobs, past, clock=SystemClock()):
            past.past.append(event)
        return past.past[-1].result  # type: ignore[union-attr]

    result = asyncio.run(run())
    assert set(seen) == {FileArray}
    assert result["model"] == expected.result["model"]
    assert result["study"] == expected.result["study"]
    final = read_tree(blobs.open(BlobRef(**result["model"])), lazy=True)
    assert bits({name: tree.load(leaf) for name, leaf in final.items()}) == bits(expected.model)
    assert result["figures"] == expected.result["figures"]
    assert result["lineage"] == expected.result["lineage"]


def test_a_study_twice_is_one_study(frames: Any) -> None:
    first, second = simulate(study(model=MLP), frames), simulate(study(model=MLP), frames)
    assert bits(first.model) == bits(second.model)
    assert first.result["study"] == second.result["study"]
    assert bits(simulate(study(model=MLP, seed=2), frames).model) != bits(first.model)


GROUPINGS = {
    1: lambda a, b, c, d, e: (((a + b) + c) + d) + e,
    2: lambda a, b, c, d, e: ((a + b) + (c + d)) + e,
    3: lambda a, b, c, d, e: ((a + b) + c) + (d + e),
}


@pytest.mark.parametrize("block", GROUPINGS)
def test_the_block_fixes_the_order_of_every_sum(frames: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sums: list[tuple[list[Update], Update]] = []
    whole = WeightedMean.__call__

    def noted(self: WeightedMean, updates: Any) -> Update:
        given = list(updates)
        sums.append((given, whole(self, given)))
        return sums[-1][1]

    monkeypatch.setattr(WeightedMean, "__call__", noted)
    simulate(study(sites={"minimum": 2, "block": block}, method={"rounds": 1}), frames)
    checked = 0
    for given, total in sums:
        for name, leaves in total.sums.items():
            for leaf, array in leaves.items():
                by_hand = GROUPINGS[block](*(np.asarray(update.sums[name][leaf]) for update in given))
                assert np.asarray(array).tobytes() == by_hand.tobytes(), (name, leaf)
                checked += 1
    assert checked > 8


def test_another_block_gives_other_bits(frames: Any) -> None:
    models = {block: bits(simulate(study(sites={"minimum": 2, "block": block}), frames).model)["coefficients"] for block in (1, 2, 3)}
    assert len(set(models.values())) > 1, "the sums of this test do not depend on their order"


def heard(simulation: Any) -> list[tuple[str, str]]:
    return [(event.kind, getattr(event, "site", "")) for event in simulation.events]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
@pytest.mark.parametrize("model", [LOGISTIC, MLP], ids=["numpy", "torch"])
def test_the_number_of_workers_changes_no_bit_and_no_event(frames: Any, model: Any, secure: bool) -> None:
    privacy = {"secure_aggregation": True} if secure else {"secure_aggregation": False, "why_not_secure": "a test"}
    asked = study(model=model, method={"name": "scaffold", "rounds": 3}, privacy=privacy)
    one, *others = (simulate(asked, frames, workers=workers) for workers in ((1, 2) if secure else (1, 2, 3)))
    for other in others:
        assert bits(other.model) == bits(one.model)
        assert other.result["figures"] == one.result["figures"]
        assert heard(other) == heard(one)


def test_sites_trained_in_one_computation_differ_in_rounding_alone(frames: Any) -> None:
    """Over tables, with everything else that a study has: federated standardisation, held-out patients, the sites' memory, secure sums, children."""
    asked = study(model=MLP | {"options": {"hidden": [5]}}, method={"name": "scaffold", "rounds": 3}, privacy={"secure_aggregation": True})
    expected = simulate(asked, frames, workers=1)
    for workers in (1, 2):
        together = simulate(asked, frames, workers=workers, vectorised=True)
        assert heard(together) == heard(expected)
        for name, leaf in expected.model.items():
            np.testing.assert_allclose(together.model[name], leaf, atol=2e-5)
        for mine, figure in zip(together.figures, expected.figures, strict=True):
            assert (mine.name, mine.n) == (figure.name, figure.n)
            assert mine.value == pytest.approx(figure.value, abs=1e-4)


def test_workers_that_cannot_be_are_refused(frames: Any) -> None:
    with pytest.raises(BadInput, match="from 1"):
        simulate(study(), frames, workers=0)
    keras = study(model={"framework": "keras", "name": "logistic"})
    with pytest.raises(BadInput, match="TensorFlow"):
        simulate(keras, frames, workers=2)
