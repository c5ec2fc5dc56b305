from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aimer2.connectors.table import Column, Table, pseudonyms
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadData
from aimer2.core.study import Cohort
from aimer2.core.update import total
from aimer2.statistics.moments import Moments as FederatedMoments
from aimer2.study import cohort as cohorts
from aimer2.study.cohort import Moments, complete, design, design_names, design_width, own_moments, split

KEY = bytes(range(32))


def ids(count: int, prefix: str = "p") -> np.ndarray[Any, np.dtype[np.uint64]]:
    return pseudonyms([f"{prefix}{number}" for number in range(count)], KEY)


def number(*values: float, unit: str | None = None) -> Column:
    return Column("number", np.array(values, float), unit=unit)


def category(levels: tuple[str, ...], *codes: int) -> Column:
    return Column("category", np.array(codes, np.int32), levels)


AGE = {"name": "age", "unit": "a", "minimum": 0, "maximum": 120}
PAIN = {"name": "pain", "kind": "category", "categories": ["none", "mild", "strong"]}


def asks(*features: dict[str, Any], target: dict[str, Any] | None = None, **other: Any) -> Cohort:
    return Cohort.model_validate({"dataset": "heart", "features": features, "target": target or {"name": "y"}, **other})


def holds(**columns: Column) -> Table:
    return Table(columns, ids(len(next(iter(columns.values())).values)))


def example() -> Table:
    # The site lists the categories in another order than the study.
    pain = category(("strong", "none", "mild"), 0, 1, 2, -1)
    return holds(y=number(0, 1, np.nan, 1), age=number(50, np.nan, 60, 70, unit="a"), pain=pain, other=number(1, 2, 3, 4))


def test_the_design_has_the_studys_columns_in_its_order() -> None:
    made = design(asks(PAIN, AGE), example())
    assert made.names == design_names(asks(PAIN, AGE)) == ("pain = mild", "pain = strong", "age")
    assert design_width(asks(PAIN, AGE)) == 3
    assert made.numeric.tolist() == [False, False, True]
    np.testing.assert_array_equal(made.features, [[0, 1, 50], [0, 0, np.nan], [np.nan, np.nan, 70]])
    assert made.targets.dtype == np.int64
    assert made.targets.tolist() == [0, 1, 1]
    assert made.patient.tolist() == ids(4)[[0, 1, 3]].tolist()
    assert made.dropped == 1


def test_groups_keep_to_their_rows_and_are_no_input() -> None:
    """In the study's order of categories; a row of no known group is in none; rows that are left out take their group along."""
    grouped = asks(AGE, group=PAIN, missing="drop", standardise="none")
    made = design(grouped, example())
    assert made.names == ("age",)
    assert made.groups is not None
    assert made.groups.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    rows = complete(made, grouped, own_moments(made))
    assert rows.features.tolist() == [[50], [70]]
    assert rows.groups is not None
    assert rows.groups.tolist() == [[0, 0, 1], [0, 0, 0]]
    assert design(asks(AGE), example()).groups is None
    with pytest.raises(BadData, match="no column 'scanner'"):
        design(asks(AGE, group={**PAIN, "name": "scanner"}), example())


@pytest.mark.parametrize(
    ("target", "column", "expected"),
    [
        ({"categories": ["no", "yes"]}, category(("yes", "no"), 0, 1, -1, 0), [1, 0, 1]),
        ({}, category(("1", "0"), 0, 1, -1, 0), [1, 0, 1]),
        ({}, number(1, 0, np.nan, 1), [1, 0, 1]),
        ({"kind": "multiclass", "categories": ["a", "b", "c"]}, category(("c", "a"), 0, 1, -1, 0), [2, 0, 2]),
        ({"kind": "regression", "unit": "kg"}, number(1.5, -2, np.nan, 3, unit="kg"), [1.5, -2, 3]),
    ],
)
def test_targets_are_classes_in_the_studys_order_or_values(target: dict[str, Any], column: Column, expected: list[float]) -> None:
    made = design(asks(AGE, target={"name": "y", **target}), holds(y=column, age=number(1, 2, 3, 4, unit="a")))
    assert made.targets.tolist() == expected
    assert made.targets.dtype == (np.float64 if target.get("kind") == "regression" else np.int64)


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (None, "no column 'x'"),
        (category(("a", "b"), *[0] * 40), "'x' is a category, the study asks for a number"),
        (number(*[1.0] * 40, unit="mmol/L"), "'x' is in mmol/L, the study asks for mg/dL"),
        (number(*[1.0] * 40), "no declared unit, the study asks for mg/dL"),
        (number(*[1.0] * 31, *[-5.0] * 9, unit="mg/dL"), "range from 0 to 4 for fewer than 10 patients"),
        (number(*[1.0] * 17, *[5.0] * 23, unit="mg/dL"), "range from 0 to 4 for about 25 patients"),
    ],
)
def test_a_feature_that_is_not_as_asked_is_refused(column: Column | None, sentence: str) -> None:
    feature = {"name": "x", "unit": "mg/dL", "minimum": 0, "maximum": 4}
    columns = {"y": number(*[0.0] * 40)} | ({} if column is None else {"x": column})
    with pytest.raises(BadData, match=sentence):
        design(asks(feature), holds(**columns))


def test_no_unit_in_the_study_means_any() -> None:
    assert len(design(asks({"name": "x"}), holds(x=number(1, unit="mmol/L"), y=number(0)))) == 1


def test_an_unknown_category_is_counted_by_patient_and_an_unused_one_is_no_fault() -> None:
    table = Table({"pain": category(("mild", "awful"), *[0] * 5, *[1] * 30), "y": number(*[0] * 35)}, np.resize(ids(2), 35))
    with pytest.raises(BadData, match="'pain' has a category that the study does not list, for fewer than 10 patients") as caught:
        design(asks(PAIN), table)
    assert "awful" not in caught.value.sentence
    assert len(design(asks(PAIN), Table({"pain": category(("mild", "awful"), 0), "y": number(0)}, ids(1)))) == 1


@pytest.mark.parametrize("column", [number(0, 2), number(0, 0.5), category(("0", "1", "2"), 0, 2)])
def test_a_binary_target_is_nothing_but_0_and_1(column: Column) -> None:
    with pytest.raises(BadData, match="'y'"):
        design(asks({"name": "x"}), holds(x=number(1, 2), y=column))


def bare(patient: np.ndarray[Any, np.dtype[np.uint64]]) -> cohorts.Design:
    rows = np.arange(len(patient), dtype=float)
    return cohorts.Design(("x",), np.array([True]), rows[:, None], rows, patient)


patients = st.lists(st.integers(0, 60), max_size=80)
fractions = st.floats(0, 1, exclude_max=True)


@given(patients, fractions)
def test_every_row_is_on_one_side_and_no_patient_on_both(who: list[int], fraction: float) -> None:
    whole = bare(ids(61)[np.array(who, int)])
    train, held_out = split(whole, fraction)
    assert sorted([*train.targets.tolist(), *held_out.targets.tolist()]) == whole.targets.tolist()
    assert not set(train.patient.tolist()) & set(held_out.patient.tolist())
    assert fraction > 0 or len(held_out) == 0


@given(st.permutations(range(60)), fractions, st.integers(0, 60))
def test_neither_order_nor_newcomers_move_a_patient(order: list[int], fraction: float, present: int) -> None:
    everyone = ids(60)
    held_out = set(split(bare(everyone), fraction)[1].patient.tolist())
    some = everyone[np.array(order, int)][:present]
    assert set(split(bare(some), fraction)[1].patient.tolist()) == held_out & set(some.tolist())


@given(fractions, fractions)
def test_a_larger_fraction_holds_out_all_that_a_smaller_does(one: float, other: float) -> None:
    small, large = (set(split(bare(ids(200)), fraction)[1].patient.tolist()) for fraction in sorted((one, other)))
    assert small <= large


@pytest.mark.parametrize("patient", [ids(20_000), np.arange(20_000, dtype=np.uint64), np.arange(20_000, dtype=np.uint64) << np.uint64(40)])
def test_the_share_held_out_is_the_fraction_whatever_the_pseudonyms(patient: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
    # Five standard deviations of a binomial share.
    assert len(split(bare(patient), 0.2)[1]) / 20_000 == pytest.approx(0.2, abs=5 * np.sqrt(0.2 * 0.8 / 20_000))


def test_the_side_depends_on_the_key_of_the_site() -> None:
    other = pseudonyms([f"p{n}" for n in range(500)], KEY[::-1])
    sides = [(cohorts._mixed(patient) < np.uint64(2**63)).tolist() for patient in (ids(500), other)]
    assert 150 < sum(a == b for a, b in zip(*sides, strict=True)) < 350


def test_the_side_of_known_pseudonyms_never_changes() -> None:
    # SplitMix64's finaliser: java.util.SplittableRandom's mix64 of its increment.
    assert cohorts._mixed(np.array([0x9E3779B97F4A7C15], np.uint64)).tolist() == [0xE220A8397B1DCDAF]


def two_columns(features: Any) -> cohorts.Design:
    cells = np.array(features, float)
    rows = len(cells)
    return cohorts.Design(("age", "pain = mild"), np.array([True, False]), cells, np.arange(rows), ids(rows))


MILD = {"name": "pain", "kind": "category", "categories": ["none", "mild"]}
GIVEN = Moments(np.array([3.0, 3.0]), np.array([10.0, 0.5]), np.array([2.0, 0.25]))
INCOMPLETE = two_columns([[12, 1], [np.nan, 0], [8, np.nan]])


@pytest.mark.parametrize(
    ("missing", "standardise", "expected"),
    [
        ("drop", "federated", [[1, 1]]),
        ("drop", "none", [[12, 1]]),
        ("mean", "site", [[1, 1], [0, 0], [-1, 0]]),
        ("mean", "none", [[12, 1], [10, 0], [8, 0]]),
        ("zero", "federated", [[1, 1], [-5, 0], [-1, 0]]),
        ("zero", "none", [[12, 1], [0, 0], [8, 0]]),
    ],
)
def test_missing_cells_follow_the_rule_and_only_numbers_are_standardised(missing: str, standardise: str, expected: list[list[float]]) -> None:
    samples = complete(INCOMPLETE, asks(AGE, MILD, missing=missing, standardise=standardise), GIVEN)
    assert samples.features.tolist() == expected
    assert samples.features.dtype == np.float64
    assert samples.features.flags.c_contiguous
    assert samples.targets.tolist() == list(range(len(expected)))
    assert np.isnan(INCOMPLETE.features).sum() == 2


def test_refusing_names_the_features_and_no_exact_small_number() -> None:
    with pytest.raises(BadData, match="Missing in 'age', 'pain', for fewer than 10 patients"):
        complete(INCOMPLETE, asks(AGE, MILD, missing="refuse"), GIVEN)
    assert len(complete(two_columns([[1, 0]]), asks(AGE, MILD, missing="refuse"), GIVEN)) == 1


@given(arrays(np.float64, (7, 2), elements=st.floats(-1e6, 1e6)))
def test_standardised_by_its_own_moments_a_column_has_mean_0_and_deviation_1(cells: Any) -> None:
    whole = cohorts.Design(("a", "b"), np.array([True, True]), cells, np.arange(7), ids(7))
    samples = complete(whole, asks({"name": "a"}, {"name": "b"}), own_moments(whole))
    for before, after in zip(cells.T, samples.features.T, strict=True):
        if before.std() > 1e-6 * max(1.0, abs(before.mean())):
            assert after.mean() == pytest.approx(0, abs=1e-6)
            assert after.std(ddof=1) == pytest.approx(1)
        if (before == before[0]).all():
            assert np.abs(after).max() < 1e-6


def test_own_moments_leave_missing_cells_out_and_survive_a_column_of_nothing_else() -> None:
    moments = own_moments(two_columns([[1, np.nan], [np.nan, np.nan], [5, np.nan]]))
    assert moments.count.tolist() == [2, 0]
    assert moments.mean.tolist() == [3, 0]
    np.testing.assert_allclose(moments.deviation, [np.sqrt(8), 0])
    assert np.isfinite(complete(two_columns([[np.nan, np.nan]]), asks(AGE, MILD, missing="mean"), moments).features).all()


def test_of_one_site_the_federated_moments_are_its_own() -> None:
    whole = two_columns(np.random.default_rng(3).normal(50, 9, (40, 2)))
    method, state = FederatedMoments(), None
    state = method.init({name: np.zeros(2) for name in ("count", "mean", "deviation")})
    for round_number in (1, 2):

        class Site:
            data = Samples(whole.features, whole.targets)

        site: Any = Site()
        site.round_number = round_number
        state = method.update(state, total([method.local(method.broadcast(state), site)]))
    own = own_moments(whole)
    for name in ("count", "mean", "deviation"):
        np.testing.assert_allclose(method.model(state)[name], getattr(own, name), rtol=1e-12)


def test_a_table_without_rows_goes_through() -> None:
    empty = Table({"x": number(), "y": number()}, ids(0))
    train, held_out = split(design(asks({"name": "x"}), empty), 0.3)
    assert len(complete(train, asks({"name": "x"}), own_moments(train))) == len(held_out) == 0


LABELS = {"name": "findings", "kind": "multilabel", "labels": ["effusion", "nodule"]}
SURVIVAL = {"name": "days", "kind": "survival", "event": "death", "unit": "d", "categories": ["no", "yes"]}


def test_several_labels_are_columns_of_the_targets_and_a_row_lacking_one_is_left_out() -> None:
    table = holds(age=number(1, 2, 3, unit="a"), nodule=number(1, 0, np.nan), effusion=number(0, 1, 1))
    made = design(asks(AGE, target=LABELS), table)
    assert made.targets.dtype == np.int64
    np.testing.assert_array_equal(made.targets, [[0, 1], [1, 0]])
    assert (len(made), made.dropped) == (2, 1)
    assert complete(made, asks(AGE, target=LABELS), own_moments(made)).targets.shape == (2, 2)


def test_a_time_and_its_event_are_the_target_of_survival_whatever_order_the_site_lists_its_categories_in() -> None:
    death = category(("yes", "no"), 0, 1, -1)
    made = design(asks(AGE, target=SURVIVAL), holds(age=number(1, 2, 3, unit="a"), days=number(5.5, 6, 7, unit="d"), death=death))
    np.testing.assert_array_equal(made.targets, [[5.5, 1], [6, 0]])


@pytest.mark.parametrize(
    ("target", "columns", "sentence"),
    [
        (LABELS, {"effusion": number(0, 1)}, "no column 'nodule'"),
        (LABELS, {"effusion": number(0, 1), "nodule": number(0, 2)}, "'nodule' is to be 0 or 1"),
        (SURVIVAL, {"days": number(1, 2, unit="mo"), "death": category(("no", "yes"), 0, 1)}, "'days' is in mo"),
        (SURVIVAL, {"days": number(1, -2, unit="d"), "death": category(("no", "yes"), 0, 1)}, "'days' is a time before the start"),
        (SURVIVAL, {"days": number(1, 2, unit="d"), "death": number(0, 1)}, "'death' is a number"),
    ],
)
def test_each_column_of_the_target_is_checked(target: dict[str, Any], columns: dict[str, Column], sentence: str) -> None:
    with pytest.raises(BadData, match=sentence):
        design(asks(AGE, target=target), holds(age=number(1, 2, unit="a"), **columns))
