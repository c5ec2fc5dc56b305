"""What a diagnosis reads from sums: the analysis of variance of the pooled rows, and the part of the sites' disagreement that is no chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import f_oneway

from aimer2.algorithms.diagnosis import Diagnosis, Measured, _told, measured
from aimer2.algorithms.fedavg import FedAvg
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadData
from aimer2.core.protocols import Local
from aimer2.core.study import Target, Training
from aimer2.core.update import Update, total
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.models.linear import Logistic

METHOD = Diagnosis()


def learner(features: int) -> NumpyLearner:
    recipe = Recipe(Training(learning_rate=0.3), Target(name="y"), 3, (features,), ("auc",))
    return NumpyLearner(lambda: Logistic(features), recipe)


def sent(data: Samples, *, site: int = 0, steps: int = 5, batch_size: int | None = None) -> Update:
    made = learner(data.feature_shape[0])
    made.initialise(np.random.default_rng(1))
    model = made.parameters()
    local = Local(data=data, learner=made, memory={}, rng=np.random.default_rng(site), round_number=1, steps=steps, batch_size=batch_size)
    return METHOD.local({"model": model}, local)


def read(*parts: Samples, **options: Any) -> Measured:
    return measured(total([sent(data, site=number, **options) for number, data in enumerate(parts)]).sums)


def drawn(seed: int, rows: int = 60, *, shift: float = 0.0, sign: float = 1.0, patients: Any = None, groups: Any = None) -> Samples:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 2))
    targets = (sign * features[:, 0] + rng.logistic(size=rows) / 2 > 0).astype(np.int64)
    return Samples(features + shift, targets, patients, groups)


def test_its_common_model_is_fedavgs_bit_for_bit() -> None:
    """Whatever it measures beside: the batches, which are drawn too, are the same."""
    parts, plain = [drawn(1), drawn(2, rows=40, shift=0.5)], FedAvg(rounds=3)
    made = learner(2)
    made.initialise(np.random.default_rng(1))
    mine, theirs = METHOD.init(made.parameters()), plain.init(made.parameters())
    for number in range(1, 4):
        totals = []
        for method, state in ((METHOD, mine), (plain, theirs)):
            sites = [
                Local(data=data, learner=made, memory={}, rng=np.random.default_rng((number, site)), round_number=number, steps=3, batch_size=8)
                for site, data in enumerate(parts)
            ]
            totals.append(total([method.local(method.broadcast(state), site) for site in sites]))
        mine, theirs = METHOD.update(mine, totals[0]), plain.update(theirs, totals[1])
    for name, leaf in plain.model(theirs).items():
        assert np.array_equal(METHOD.model(mine)[name], leaf)


def epsilon_squared(groups: list[np.ndarray]) -> float:
    """Of the rows themselves, from the F statistic: ε² = (F − 1)·df_b / (F·df_b + df_w)."""
    statistic = f_oneway(*groups).statistic
    between, within = len(groups) - 1, sum(map(len, groups)) - len(groups)
    return max(0.0, (statistic - 1) * between / (statistic * between + within))


@settings(max_examples=20, deadline=None)
@given(shifts=st.lists(st.floats(-1, 1), min_size=3, max_size=5), seed=st.integers(0, 1000))
def test_shares_between_sites_are_those_of_the_pooled_rows(shifts: list[float], seed: int) -> None:
    sites = [drawn(seed + number, 40 + 10 * number, shift=shift) for number, shift in enumerate(shifts)]
    found = measured(total([sent(data, site=number, steps=1) for number, data in enumerate(sites)]).sums)
    for column in range(2):
        all_rows = epsilon_squared([data.features[:, column] for data in sites])
        assert found.feature_shift[column] <= all_rows + 1e-9
        among_classes = found.feature_shift[column] + found.answer_shift[column]
        assert among_classes <= 1
        if among_classes > found.feature_shift[column]:
            assert found.feature_shift[column] == pytest.approx(all_rows, abs=1e-9)


def test_rows_of_one_class_are_compared_with_rows_of_that_class() -> None:
    """Two sites whose features follow from the class alone, and whose classes are not as frequent."""
    rng = np.random.default_rng(1)

    def site(events: int) -> Samples:
        targets = np.repeat([1, 0], [events, 200 - events])
        return Samples(rng.normal(size=(200, 2)) + 3 * targets[:, None], targets)

    found = read(site(40), site(160))
    assert found.label_shift == pytest.approx(0.36, abs=0.01)
    assert epsilon_squared([site(40).features[:, 0], site(160).features[:, 0]]) > 0.2
    assert max(found.feature_shift) < 0.02


def test_other_answers_to_the_same_features_are_no_shift_of_the_features() -> None:
    found = read(*(drawn(number, 400, sign=sign) for number, sign in enumerate((1, -1, 1, -1))))
    assert max(found.feature_shift) < 0.02
    assert found.answer_shift[0] > 0.2
    assert found.label_shift == pytest.approx(0, abs=0.02)
    assert found.disagreement is not None and found.disagreement > 0.9


def test_where_sites_are_alike_their_disagreement_is_chance_and_is_taken_off() -> None:
    """Few rows and one step on a small batch: B² says that steps differ, D that they do not."""
    found = [read(*(drawn(10 * trial + number, 40) for number in range(6)), steps=1, batch_size=4) for trial in range(30)]
    assert np.mean([one.dissimilarity for one in found]) > 1.5
    assert np.median([one.disagreement for one in found if one.disagreement is not None]) < 0.15


def test_the_disagreement_of_known_steps() -> None:
    """Two sites of equal size that step to (1, 0) and (0, 1): products across halves 1 and 1, of the sums 1/2, so half of it cancels."""
    base = total([sent(drawn(1)), sent(drawn(2))]).sums
    rows = 120.0
    half = {"coefficients": np.array([60.0, 60.0]), "intercept": np.zeros(1)}
    sums = {
        **base,
        "difference": half,
        "first_half": half,
        "second_half": half,
        "agreement": {"across": np.array([rows]), "length": np.array([rows])},
    }
    found = measured(sums)
    assert found.disagreement == pytest.approx(0.5)
    assert found.dissimilarity == pytest.approx(2.0)


def test_sizes_and_steps() -> None:
    found = measured(total([sent(drawn(1, 30), steps=2), sent(drawn(2, 90), steps=6)]).sums)
    assert (found.sites, found.rows) == (2, 120)
    assert found.size_spread == pytest.approx(0.5)
    assert found.step_spread == pytest.approx(0.5)
    assert not found.has_running_means


def test_groups_are_compared_across_sites() -> None:
    """Each site has both scanners, so sites do not differ and scanners do."""
    sites = []
    for number in range(3):
        data, second = drawn(number, 100), np.arange(100) % 2
        sites.append(Samples(data.features + 2 * second[:, None], data.targets, None, np.eye(2)[second]))
    found = read(*sites)
    assert found.group_shift[0] > 0.3
    assert max(found.feature_shift) < 0.05


@given(count=st.integers(0, 200), rows=st.integers(20, 200))
def test_a_count_of_fewer_than_ten_or_all_but_fewer_than_ten_is_not_told(count: int, rows: int) -> None:
    count = min(count, rows)
    (told,) = _told(np.array([float(count)]), float(rows))
    if min(count, rows - count) < 10:
        others = [other for other in range(rows + 1) if (other < 10) == (count < 10) and (rows - other < 10) == (rows - count < 10)]
        assert {_told(np.array([float(other)]), float(rows))[0] for other in others} == {told}
    else:
        assert told % 5 == 0 and abs(told - count) <= 2.5


def test_a_class_of_fewer_than_ten_patients_is_left_out_whatever_its_rows() -> None:
    data = drawn(1, 100)
    events = int(data.targets.sum())
    patients = np.arange(100, dtype=np.uint64)
    patients[data.targets == 1] = np.arange(events) % 9  # nine patients, many rows each
    features = sent(Samples(data.features, data.targets, patients)).sums["features"]
    assert features["cells"].tolist() == [1, 0]
    assert not np.asarray(features["sum"])[1].any()
    assert np.asarray(features["rows"])[0] == 100 - events


def test_halves_are_of_patients() -> None:
    """With one patient's rows in both halves products across them would not be free of chance."""
    with pytest.raises(BadData, match="too few patients"):
        sent(drawn(1, 20, patients=np.zeros(20, np.uint64)))
    with pytest.raises(BadData, match="too few rows"):
        sent(drawn(1, 3))
