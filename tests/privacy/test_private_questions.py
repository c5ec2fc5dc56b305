"""Statistical questions under differential privacy: how far one patient reaches, what it costs, and how uncertain noise makes the answers."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimer2.client.simulate import simulate
from aimer2.client.tables import Tables
from aimer2.connectors.frame import from_frame
from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadStudy, BadUpdate, NotAllowed
from aimer2.core.random import SecureBytes
from aimer2.core.study import Feature, Study
from aimer2.core.task import Task
from aimer2.core.update import Update, total
from aimer2.privacy.accounting import epsilon
from aimer2.statistics.glm import Glm
from aimer2.statistics.private import NOISY, AbstractPrivate
from aimer2.statistics.private_describe import PrivateDescribe
from aimer2.statistics.private_glm import PrivateGlm
from aimer2.statistics.private_surveillance import PrivateSurveillance
from aimer2.statistics.statistic import AbstractStatistic, loaded
from aimer2.statistics.surveillance import Surveillance
from aimer2.study import preflight
from aimer2.study.analysing import analyses_of, local_of
from aimer2.study.check import promises
from aimer2.study.spending import spending
from aimer2.study.statistician import Statistician

AGE = Feature(name="age", minimum=18, maximum=98)
PRESSURE = Feature(name="pressure", minimum=60, maximum=240)
SEX = Feature(name="sex", kind="category", categories=("f", "m"))
ILL = Feature(name="ill")
PLAIN: dict[str, Any] = {"secure_aggregation": False, "why_not_secure": "a test"}
DESCRIBE = {"name": "who", "method": "private_describe", "formula": "~ age + sex"}
REGRESS = {"name": "why", "method": "private_glm", "formula": "ill ~ age + sex", "options": {"family": "binomial", "steps": 3}}


def methods(noise: float = 1.0) -> list[AbstractPrivate]:
    return [
        PrivateDescribe(formula="~ age + pressure + sex", features=(AGE, PRESSURE, SEX), noise=noise),
        PrivateGlm(formula="pressure ~ age + sex", features=(AGE, PRESSURE, SEX), noise=noise),
        PrivateGlm(formula="ill ~ age + sex", features=(AGE, ILL, SEX), family="binomial", noise=noise),
    ]


WEEKLY = PrivateSurveillance(formula="~ age + strata(sex)", features=(AGE, SEX), years=1, per_year=20, noise=1.0)
"""Of 81 weeks."""


def frame(rows: int = 2000, seed: int = 3) -> Frame:
    rng = np.random.default_rng(seed)
    age, sex = rng.uniform(20, 90, rows), rng.integers(0, 2, rows) * 1.0
    pressure = np.clip(120 + 0.4 * (age - 60) + 6 * sex + rng.normal(0, 12, rows), 60, 240)
    ill = 1.0 * (rng.random(rows) < 1 / (1 + np.exp(1 - 0.05 * (age - 60) - 0.5 * sex)))
    return Frame({"age": age, "sex": sex, "pressure": pressure, "ill": ill}, np.arange(rows, dtype=np.uint64))


def answer(method: AbstractStatistic, frames: list[Frame], source: SecureBytes) -> Tables:
    state = method.init({})
    while not method.finished(state):
        received = {name: loaded(leaves) for name, leaves in method.broadcast(state).items()}
        sums = [loaded(method.local(received, local_of(one, 1, "a", state.round_number + 1)).sums["sums"]) for one in frames]
        if isinstance(method, AbstractPrivate):
            sums = [method.noised(one, source) for one in sums]
        state = method.update(state, total([Update({"sums": one}) for one in sums]))
    return Tables(method.tables("main", loaded(state.values)))


ANY = st.floats(allow_nan=True, allow_infinity=False, width=64)


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(ANY, ANY, st.sampled_from([0.0, 1.0, float("nan")]), ANY, st.integers(0, 3)), min_size=1, max_size=8),
    beta=st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
)
def test_a_patient_with_any_values_moves_a_sum_by_at_most_one(rows: Any, beta: Any) -> None:
    """Values out of range, missing ones, several rows: whatever the data hold, and wherever Newton's steps have got to."""
    columns = {name: np.array(values) for name, values in zip(("age", "pressure", "sex", "ill"), list(zip(*rows, strict=True))[:4], strict=True)}
    patients = np.array([row[4] for row in rows], np.uint64)
    whole = Frame(columns, patients)
    for method in (*methods(), WEEKLY):
        values = {"beta": np.array(beta)}
        with np.errstate(over="ignore"):
            for patient in np.unique(patients):
                less = whole.at(patients != patient)
                moved = np.asarray(method.sums(values, whole, 1)[NOISY]) - np.asarray(method.sums(values, less, 1)[NOISY])
                assert np.linalg.norm(moved) <= 1 + 1e-9


@pytest.mark.parametrize("beta", [[np.inf, 0, 0], [0, -np.inf, 0], [0, np.nan, 0], [0, 1001, 0], [0, 0], [[0, 0, 0]], 0])
@pytest.mark.parametrize("rows", [0, 20])
def test_a_site_takes_no_coefficients_that_make_one_patient_s_value_tell(beta: Any, rows: int) -> None:
    """With an infinite slope a site fails where a patient's scaled age is 0, and answers where none is: so it refuses, whoever its patients are."""
    with pytest.raises(BadUpdate, match="none that this question comes to"):
        methods()[2].sums({"beta": np.array(beta, float)}, frame(rows), 2)


def test_a_patient_s_part_is_finite_at_the_steepest_coefficients() -> None:
    steep = methods()[2].sums({"beta": np.array([1e3, -1e3, 1e3])}, frame(), 2)
    assert np.isfinite(steep[NOISY]).all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 5e-324), (-1.7e308, 1.7e308)])
def test_a_range_that_no_number_can_be_scaled_by_is_refused(low: float, high: float) -> None:
    narrow = Feature(name="age", minimum=low, maximum=high)
    assert any("age needs a `minimum`" in fault for fault in PrivateDescribe(formula="~ age", features=(narrow,)).faults())


def test_with_next_to_no_noise_the_answers_are_those_without() -> None:
    parts = [frame().at(np.arange(start, 2000, 2)) for start in range(2)]
    source, rows = SecureBytes(bytes(32)), frame()
    describe, linear, logistic = (answer(replace(method, noise=1e-9), parts, source) for method in methods())
    means = describe.frame("Means").set_index("column")
    assert means.loc["age", "mean"] == pytest.approx(rows.columns["age"].mean(), rel=1e-9)
    assert means.loc["age", "standard_error"] == pytest.approx(rows.columns["age"].std() / np.sqrt(2000), rel=1e-9)
    assert describe.frame("Categories")["count"].tolist() == pytest.approx([(rows.columns["sex"] == code).sum() for code in (0, 1)])
    for found, formula, family in ((linear, "pressure ~ age + sex", "gaussian"), (logistic, "ill ~ age + sex", "binomial")):
        clear = answer(Glm(formula=formula, features=(AGE, PRESSURE, SEX, ILL), family=family), parts, source).frame()
        np.testing.assert_allclose(found.frame()["estimate"], clear["estimate"], rtol=1e-4)
        np.testing.assert_allclose(found.frame()["standard_error"], clear["standard_error"], rtol=1e-3)


def test_quantiles_lie_in_their_intervals_which_are_about_a_bin_wide() -> None:
    found = answer(methods(1.0)[0], [frame(4000)], SecureBytes(bytes(32))).frame("Quantiles").query("column == 'age'")
    true = np.quantile(frame(4000).columns["age"], found["share"])
    assert ((found["low"] <= true) & (true <= found["high"]) & (found["high"] - found["low"] <= 3 * 4.0)).all()
    np.testing.assert_allclose(found["estimate"], true, atol=2.0)


def test_intervals_hold_the_noise() -> None:
    """With noise as large as chance: of 300 draws 95 % ± 1.3 hold the truth, and without their noise 84 % would."""
    method, source, held, bare = methods(12.0)[0], SecureBytes(bytes(31) + b"1"), 0, 0
    for seed in range(300):
        [line] = answer(method, [frame(500, seed)], source).frame("Means").query("column == 'age'").to_dict("records")
        held += line["low"] <= 55 <= line["high"]
        bare += abs(line["mean"] - 55) <= 1.96 * line["standard_deviation"] / np.sqrt(500)
    assert 0.91 <= held / 300 <= 0.985 and bare / 300 < 0.9


def cases(seed: int = 5, weeks: int = 81) -> Frame:
    """About twenty a week in either sex, and an outbreak of 120 women in the last week but two."""
    rng = np.random.default_rng(seed)
    week = np.concatenate([rng.integers(18, 18 + weeks, 40 * weeks), np.full(120, 18 + weeks - 3)]) * 1.0
    sex = np.concatenate([rng.integers(0, 2, 40 * weeks), np.zeros(120)]) * 1.0
    return Frame({"age": week, "sex": sex}, np.arange(len(week), dtype=np.uint64))


@pytest.mark.parametrize("detector", ["farrington", "cusum", "ears_c1", "ears_c2", "ears_c3", "none"])
def test_weeks_with_next_to_no_noise_are_those_without(detector: Any) -> None:
    parts = [cases().at(np.arange(start, len(cases()), 2)) for start in range(2)]
    method = replace(WEEKLY, detector=detector, baseline=30, noise=1e-9)
    [noisy] = answer(method, parts, SecureBytes(bytes(32)))
    options = {"detector": detector, "years": 1, "per_year": 20, "baseline": 30}
    [clear] = answer(Surveillance(formula=method.formula, features=method.features, **options), parts, SecureBytes(bytes(32)))
    assert [row[:2] for row in noisy.rows] == [row[:2] for row in clear.rows]
    assert [row[2] for row in noisy.rows] == pytest.approx([row[2] for row in clear.rows], abs=1e-6)
    assert noisy.columns[-1] == clear.columns[-1] == "alarm"
    if detector != "cusum":  # with noise its scores are others
        assert [row[-1] for row in noisy.rows] == [row[-1] for row in clear.rows]
    assert any(row[-1] for row in noisy.rows) == (detector != "none")


def test_weeks_hold_their_noise_and_still_show_an_outbreak() -> None:
    found = answer(replace(WEEKLY, noise=8.0, detector="ears_c2"), [cases()], SecureBytes(bytes(32))).frame("Weeks")
    true = [(cases().columns["age"][cases().columns["sex"] == code] == week).sum() for code in (0, 1) for week in range(18, 99)]
    held = (found["low"] <= true) & (true <= found["high"])
    assert 0.9 <= held.mean() < 1
    np.testing.assert_allclose(found["high"] - found["low"], 2 * 1.959964 * 8, rtol=1e-6)
    assert (96, "sex = f") in set(zip(found["week"][found["alarm"] != ""], found["stratum"][found["alarm"] != ""], strict=True))


@pytest.mark.parametrize(("detector", "at_most"), [("farrington", 0.01), ("cusum", 0.01), ("ears_c1", 0.02), ("ears_c3", 0.05)])
def test_noise_makes_no_alarms(detector: Any, at_most: float) -> None:
    """Of weeks that are all alike: detectors that took the counts for exact would alarm in up to a quarter of them."""
    rng, alarms = np.random.default_rng(7), []
    for _ in range(6):
        clean = rng.poisson(6.0, 300)
        method = PrivateSurveillance(formula="~ w", features=(Feature(name="w", minimum=1, maximum=300),), detector=detector, years=3, noise=10.0)
        [table] = method.tables("main", {"sites": np.array([1.0]), "told": clean + rng.normal(0, 10.0, 300)})
        alarms += [bool(row[-1]) for row in table.rows if row[-2] is not None]
    assert len(alarms) > 800 and np.mean(alarms) <= at_most


def test_a_case_outside_the_weeks_counts_nowhere() -> None:
    columns = {"age": np.array([17.0, 18.0, 98.9, 99.0, np.nan, 50.0]), "sex": np.array([0.0, 0, 1, 1, 0, np.nan])}
    told = WEEKLY.sums({}, Frame(columns, np.arange(6, dtype=np.uint64)), 1)[NOISY]
    assert np.flatnonzero(told).tolist() == [0, 161] and told.sum() == 2


def test_what_weeks_with_noise_cannot_be_asked() -> None:
    assert any("no reporting delay" in fault for fault in replace(WEEKLY, formula="pressure ~ age", features=(AGE, PRESSURE)).faults())
    assert any("whole `minimum`" in fault for fault in replace(WEEKLY, formula="~ ill", features=(ILL,)).faults())
    assert list(WEEKLY.faults()) == []


def test_where_the_noise_is_as_large_as_what_patients_tell_there_is_no_answer() -> None:
    found = answer(methods(60.0)[1], [frame(200)], SecureBytes(bytes(32)))
    assert found.table().title == "No answer" and "noise is as large" in found.table().notes[0]


def study(*analyses: dict[str, Any], noise: Any = None, **privacy: Any) -> Study:
    return Study(
        name="asked",
        question="How are these patients?",
        purpose="a test",
        ethics="none needed",
        principal_investigator="Dr Ada Example",
        expires=datetime.date(2100, 1, 1),
        cohort={"dataset": "d", "features": [one.model_dump(exclude_unset=True) for one in (AGE, SEX, ILL)]},
        analyses=analyses or (DESCRIBE, REGRESS),
        privacy={"differential_privacy": {"epsilon": 2.0, "delta": 1e-5} if noise is None else noise, **privacy},
    )


@pytest.mark.parametrize(
    ("asked", "place", "problem"),
    [
        (study({**DESCRIBE, "method": "describe"}), "analyses[1].method", "describe adds no noise"),
        (study(noise={"delta": 1e-5}), "privacy.differential_privacy", "needs `epsilon` or"),
        (study(noise={"epsilon": 1.0}), "privacy.differential_privacy.delta", "is missing"),
        (study(noise={"epsilon": 1.0, "delta": 0.5}), "privacy.differential_privacy.delta", "lose all privacy"),
        (study(noise={"epsilon": 1.0, "delta": 1e-5, "clip_norm": 1.0}), "privacy.differential_privacy.clip_norm", "is of training"),
        (study(noise={"epsilon": 1.0, "delta": 1e-5, "level": "site"}), "privacy.differential_privacy.level", "protect patients"),
        (study({**DESCRIBE, "formula": "~ ill"}), "analyses[1].formula", "needs a `minimum` and a `maximum`"),
        (study({**DESCRIBE, "formula": "~ log(age)"}), "analyses[1].formula", "without functions"),
        (study({**DESCRIBE, "options": {"noise": 0.1}}), "analyses[1].options.noise", "is no option"),
    ],
)
def test_what_a_plan_cannot_have(asked: Study, place: str, problem: str) -> None:
    [fault] = [fault for fault in promises(asked) if problem in fault.problem]
    assert fault.place == place


def test_a_private_method_needs_terms() -> None:
    asked = study().model_copy(update={"privacy": study().privacy.model_copy(update={"differential_privacy": None})})
    with pytest.raises(BadStudy, match="the study states none"):
        analyses_of(asked)


def test_all_rounds_together_cost_no_more_than_the_study_says() -> None:
    """One sum of the description, three of the regression; the rounds after the last needed one are not free."""
    charged = [spending(study(), "analyse", number) for number in (1, 2, 3)]
    assert [one.count for one in charged if one is not None] == [2, 1, 1]
    assert 1.9 <= epsilon([one for one in charged if one is not None], 1e-5) <= 2.0
    assert spending(study(), "preflight") is None
    later = spending(study(), "analyse", 4)
    assert later is not None and later.count == 2


def hospitals() -> dict[str, pd.DataFrame]:
    whole = pd.DataFrame({name: values for name, values in frame(30_000).columns.items() if name != "pressure"})
    whole = whole.assign(sex=pd.Categorical.from_codes(whole["sex"].astype(int), categories=["f", "m"]))
    return {f"site-{place}": whole.iloc[place::3] for place in range(3)}


@pytest.mark.parametrize("privacy", [{}, PLAIN], ids=["secret", "plain"])
def test_a_whole_study_says_what_it_cost(privacy: Any) -> None:
    found = simulate(study(**privacy), hospitals())
    stated = found.result["privacy"]["differential_privacy"]
    assert 1.9 <= stated["epsilon"] <= 2.0 and (stated["sums"], stated["questions"], stated["rounds"]) == (4, 2, 3)
    assert "the answers, is (" in found.result["privacy"]["statement"]
    line = found.tables.frame("Coefficients").set_index("term").loc["age"]
    assert line["low"] <= 0.05 <= line["high"] + 0.01 and line["standard_error"] > 0
    again = simulate(study(**privacy), hospitals()).tables.frame("Means")["mean"][0]
    assert again != found.tables.frame("Means")["mean"][0], "noise is not drawn from the study's seed"


def test_a_sum_that_nobody_pays_for_is_refused() -> None:
    asked = study(**PLAIN)
    site = Statistician(asked, from_frame(hospitals()["site-0"], split_key=bytes(16)), site="a", disclosure=Disclosure())
    task = Task(id="t", study="f" * 64, site="a", stage="analyse", round_number=2)
    with pytest.raises(NotAllowed, match="who needs no such sum"):
        site.perform(task, {"who": {}}, {})


def test_whether_a_patient_is_out_of_range_is_not_told() -> None:
    """It would be told exactly, of a range that the researcher chooses; the questions clip values to their ranges instead."""
    data = hospitals()["site-0"]
    data.loc[data.index[0], "age"] = 120.0
    table = from_frame(data, split_key=bytes(16))
    environment = preflight.Environment({}, 1 << 40, None)
    told = {check.name: check for check in preflight.statistical_checks(study(), table, environment)}
    assert "ranges" not in told and told["columns"].passed and told["patients"].passed
    clear = study().model_copy(update={"privacy": study().privacy.model_copy(update={"differential_privacy": None})})
    assert not {check.name: check for check in preflight.statistical_checks(clear, table, environment)}["ranges"].passed
