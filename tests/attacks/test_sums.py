"""What un-noised sums say by themselves: of one hospital everything, of several what they have in common, of all but one everything again."""

from __future__ import annotations

import numpy as np
import pytest

from aimer2.attacks.sums import columns_of, rest
from aimer2.core.dataset import Samples
from aimer2.core.protocols import Local
from aimer2.core.tree import Tree
from aimer2.core.update import Update, total
from aimer2.statistics.moments import Moments


def passes(hospitals: list[np.ndarray], joint: list[np.ndarray]) -> tuple[list[Update], list[Update]]:
    """What each hospital sends in both passes, the second about the mean of ``joint``."""
    method, width = Moments(), hospitals[0].shape[1]
    state = method.init({name: np.zeros(width) for name in ("count", "mean", "deviation")})

    def sent(rows: np.ndarray, number: int, received: dict[str, Tree]) -> Update:
        local = Local(Samples(rows, np.zeros(len(rows))), None, {}, np.random.default_rng(0), number, 1, None)  # type: ignore[arg-type]
        return method.local(received, local)

    first = [sent(rows, 1, dict(method.broadcast(state))) for rows in hospitals]
    state = method.update(state, total([sent(rows, 1, dict(method.broadcast(state))) for rows in joint]))
    return first, [sent(rows, 2, dict(method.broadcast(state))) for rows in hospitals]


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_sums_in_the_clear_say_count_mean_and_deviation_of_each_hospital_exactly(n: int) -> None:
    rng = np.random.default_rng(n)
    hospitals = [rng.normal(rng.normal(100, 30), 5, (20 + place, 3)) for place in range(n)]
    first, second = passes(hospitals, hospitals)
    for rows, one, other in zip(hospitals, first, second, strict=True):
        found = columns_of(one.sums, other.sums)
        assert np.allclose(found.mean, rows.mean(axis=0)) and np.allclose(found.deviation, rows.std(axis=0, ddof=1))
        assert (found.count == len(rows)).all()


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_sum_says_what_all_have_in_common_and_whoever_knows_the_others_the_rest(n: int) -> None:
    rng = np.random.default_rng(n)
    hospitals = [rng.normal(50 * place, 5, (30, 3)) for place in range(n)]
    first, second = passes(hospitals, hospitals)
    pooled = columns_of(total(first).sums, total(second).sums)
    together = np.concatenate(hospitals)
    assert np.allclose(pooled.mean, together.mean(axis=0)) and np.allclose(pooled.deviation, together.std(axis=0, ddof=1))
    # as a guess at the first hospital it is off by more than that one's own deviation
    assert (np.abs(pooled.mean - hospitals[0].mean(axis=0)) > 5).all()
    left = [{name: rest(total(sent).sums[name], [one.sums[name] for one in sent[1:]]) for name in sent[0].sums} for sent in (first, second)]
    assert np.allclose(columns_of(*left).mean, hospitals[0].mean(axis=0)) and np.allclose(
        columns_of(*left).deviation, hospitals[0].std(axis=0, ddof=1)
    )


def test_of_one_patient_the_sum_is_the_patient() -> None:
    record = np.array([[63.0, 145.0, 233.0]])
    first, second = passes([record], [record])
    assert (columns_of(first[0].sums, second[0].sums).mean == record[0]).all()
