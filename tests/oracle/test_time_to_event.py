"""Log-rank tests and what follows from counts at risk, against statsmodels on the six regions of TCGA-BRCA pooled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.duration.survfunc import CumIncidenceRight, survdiff

from aimer2.client.tables import Tables
from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadInput
from aimer2.core.study import Feature
from aimer2.statistics.aalen_johansen import AalenJohansen, aalen_johansen
from aimer2.statistics.log_rank import Excess, LogRank, Weights, compare, excess
from aimer2.statistics.nelson_aalen import NelsonAalen, nelson_aalen
from aimer2.statistics.restricted_mean import RestrictedMean, compare_means, restricted_mean


@pytest.fixture(scope="module")
def brca(data_dir: Path) -> pd.DataFrame:
    folder = data_dir / "tcga-brca-6regions"
    rows = pd.read_csv(folder / "brca.csv").merge(pd.read_csv(folder / "train_test_split.csv"), on="pid")
    group = np.digitize(rows["age_at_index"], np.quantile(rows["age_at_index"], [1 / 3, 2 / 3]))
    return pd.DataFrame({"time": rows["T"], "event": rows["E"], "group": group, "site": rows["fold2"]})


def counts(rows: pd.DataFrame, times: Any, groups: int, kinds: int = 1) -> tuple[Any, Any]:
    """At risk ``(G, T)``, and events ``(G, T)`` of any kind or of each kind of one group."""
    time, event, group = (rows[name].to_numpy() for name in ("time", "event", "group"))
    there, then = time[:, None] >= times, time[:, None] == times
    at_risk = np.array([there[group == g].sum(axis=0) for g in range(groups)], float)
    events = [then[(group == g) & (event == kind)].sum(axis=0) for kind in range(1, kinds + 1) for g in range(groups)]
    return at_risk, np.array(events, float)


WEIGHTS = [
    (None, {}, Weights()),
    ("gb", {}, Weights("gehan")),
    ("tw", {}, Weights("tarone_ware")),
    ("fh", {"fh_p": 1.5}, Weights("fleming_harrington", p=1.5)),
]


@pytest.mark.parametrize(("theirs", "options", "weights"), WEIGHTS)
@pytest.mark.parametrize("stratified", [False, True])
def test_log_rank_of_three_age_groups(brca: pd.DataFrame, theirs: Any, options: Any, weights: Weights, stratified: bool) -> None:
    """Stratified, sites send their excess; else their counts at every time are added first."""
    times = np.unique(brca.time)
    each = [counts(rows, times, 3) for _, rows in brca.groupby("site")]
    if stratified:
        parts = [excess(*one, weights) for one in each]
        found = compare(Excess(*(sum(part) for part in zip(*parts, strict=True))))
    else:
        found = compare(excess(sum(one[0] for one in each), sum(one[1] for one in each), weights))
    statistic, p = survdiff(brca.time, brca.event, brca.group, weight_type=theirs, strata=brca.site if stratified else None, **options)
    assert (found.statistic, found.p) == (pytest.approx(statistic, rel=1e-9), pytest.approx(p, rel=1e-8))
    assert found.freedom == (2,)


def test_late_weights() -> None:
    """Fleming and Harrington's q: with q = 1 a time counts 1 − S(t−), so the first counts nothing."""
    at_risk, events = np.array([[4.0, 3, 2], [4, 3, 1]]), np.array([[1.0, 0, 1], [0, 2, 0]])
    np.testing.assert_allclose(Weights("fleming_harrington", q=1.0).at(at_risk.sum(axis=0), events.sum(axis=0)), [0, 1 / 8, 1 - 7 / 8 * 4 / 6])


def test_a_group_at_one_site_only(brca: pd.DataFrame) -> None:
    """Stratified it cannot be compared with the others, and costs a degree of freedom; alone there is nothing to compare."""
    rows = brca.assign(group=np.where(brca.site == brca.site.iloc[0], 2, brca.group % 2))
    times = np.unique(rows.time)
    parts = [excess(*counts(part, times, 3)) for _, part in rows.groupby("site")]
    assert compare(Excess(*(sum(part) for part in zip(*parts, strict=True)))).freedom == (1,)
    lonely = next(part for part in parts if part.observed[2] > 0)
    with pytest.raises(BadInput, match="two groups"):
        compare(lonely)


def test_cumulative_incidence(brca: pd.DataFrame) -> None:
    kind = np.where(brca.event == 1, 1 + (np.arange(len(brca)) % 3 == 0), 0)
    rows = brca.assign(event=kind, group=0)
    oracle: Any = CumIncidenceRight(rows.time.to_numpy(), kind)
    at_risk, events = counts(rows, oracle.times, 1, kinds=2)
    curves = aalen_johansen(oracle.times, at_risk[0], events)
    for number, curve in enumerate(curves):
        np.testing.assert_allclose(curve.values, oracle.cinc[number], rtol=1e-10, atol=1e-15)
        np.testing.assert_allclose(curve.errors, oracle.cinc_se[number], rtol=1e-6, atol=1e-9)
        assert ((curve.low <= curve.values) & (curve.values <= curve.high) & (curve.high <= 1)).all()


def test_cumulative_incidence_without_censoring_is_a_proportion() -> None:
    """Its variance is the binomial one, and with one kind of event it is one minus Kaplan and Meier's curve."""
    times, at_risk = np.arange(1.0, 6.0), np.array([10.0, 8, 6, 4, 2])
    first, second = aalen_johansen(times, at_risk, np.array([[1.0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]))
    np.testing.assert_allclose(first.values, np.arange(1, 6) / 10)
    np.testing.assert_allclose(first.errors, np.sqrt(first.values * (1 - first.values) / 10))
    middle, z = 0.3, stats.norm.ppf(0.975)
    spread = z * np.sqrt(0.3 * 0.7 / 10) / (middle * np.log(middle))
    np.testing.assert_allclose([first.low[2], first.high[2]], [middle ** np.exp(-spread), middle ** np.exp(spread)])
    np.testing.assert_array_equal(first.values, second.values)


def test_nelson_aalen_of_the_leukaemia_trial() -> None:
    """The 6-MP arm of Freireich et al. 1963, as Klein and Moeschberger (2003) print it in table 4.2."""
    times, at_risk = np.array([6.0, 7, 10, 13, 16, 22, 23]), np.array([21.0, 17, 15, 12, 11, 7, 6])
    curve = nelson_aalen(times, at_risk, np.array([3.0, 1, 1, 1, 1, 1, 1]))
    np.testing.assert_allclose(curve.values, [0.1429, 0.2017, 0.2683, 0.3517, 0.4426, 0.5854, 0.7521], atol=1e-4)
    np.testing.assert_allclose(curve.low * curve.high, curve.values**2)
    np.testing.assert_allclose(curve.errors**2, [0.0068, 0.0103, 0.0147, 0.0217, 0.0299, 0.0503, 0.0781], atol=6e-5)


def test_restricted_mean_by_its_definition(brca: pd.DataFrame) -> None:
    """The area under the curve, and as its variance the double integral of Greenwood's covariance S(s) S(t) Σ d/(n(n − d)) up to min(s, t)."""
    rows = brca.assign(group=0)
    times = np.unique(rows.time)
    at_risk, events = counts(rows, times, 1)
    horizon = 1500.0
    found = restricted_mean(times, at_risk[0], events[0], horizon)
    inside = times < horizon
    n, d = at_risk[0][inside], events[0][inside]
    survival = np.concatenate(([1.0], np.cumprod(1 - d / n)))
    sums = np.concatenate(([0.0], np.cumsum(d / (n * (n - d)))))
    widths = np.diff(np.concatenate(([0.0], times[inside], [horizon])))
    weighted = survival * widths
    covariance = np.minimum.outer(sums, sums)
    assert found.lived.estimate == pytest.approx(weighted.sum(), rel=1e-12)
    assert found.lived.error == pytest.approx(np.sqrt(weighted @ covariance @ weighted), rel=1e-10)
    assert found.lost.estimate == pytest.approx(horizon - found.lived.estimate)


def test_restricted_mean_without_censoring_is_the_mean_of_the_shortened_times() -> None:
    lives, horizon = np.array([1.0, 2, 4, 4, 7, 9, 12, 20]), 10.0
    times = np.unique(lives)
    at_risk, events = np.array([(lives >= t).sum() for t in times], float), np.array([(lives == t).sum() for t in times], float)
    found = restricted_mean(times, at_risk, events, horizon)
    shortened = np.minimum(lives, horizon)
    assert found.lived.estimate == pytest.approx(shortened.mean())
    assert found.lived.error == pytest.approx(shortened.std() / np.sqrt(len(lives)))
    beyond = restricted_mean(times, at_risk, events, 30.0)
    assert beyond.lived.estimate == pytest.approx(lives.mean())
    shorter = restricted_mean(times, at_risk, events, 5.0)
    with pytest.raises(BadInput, match="one horizon"):
        compare_means(found, shorter)
    with pytest.raises(BadInput, match="Nobody is under observation"):
        restricted_mean(times, at_risk, np.where(times == 20, 0.0, events), 30.0)


def test_restricted_means_compared() -> None:
    """survRM2's vignette (Uno et al., primary biliary cirrhosis to 10 years): 7.146 (0.283) against 7.283 (0.295) years; difference −0.137, −0.939
    to 0.665, p 0.738; ratio of lived 0.981, 0.878 to 1.096; of lost 1.050, 0.787 to 1.402."""
    times = np.array([1.0])
    one, other = (restricted_mean(times, np.array([9.0]), np.array([1.0]), 1.0) for _ in range(2))
    first, second = (
        type(one)(10.0, one.lived._replace(estimate=lived, error=error), one.lost._replace(estimate=10 - lived, error=error))
        for lived, error in ((7.146, 0.283), (7.283, 0.295))
    )
    found = compare_means(first, second)
    np.testing.assert_allclose([found.difference.estimate, found.difference.low, found.difference.high], [-0.137, -0.939, 0.665], atol=1.5e-3)
    np.testing.assert_allclose([found.lived_ratio.estimate, found.lived_ratio.low, found.lived_ratio.high], [0.981, 0.878, 1.096], atol=1.5e-3)
    np.testing.assert_allclose([found.lost_ratio.estimate, found.lost_ratio.low, found.lost_ratio.high], [1.050, 0.787, 1.402], atol=1.5e-3)
    assert other == one


@pytest.mark.parametrize(("sites", "edges"), [("strata", ()), ("pooled", tuple(range(1, 9001))), ("pooled", (300.0, 900, 1500, 4000))])
def test_hospitals_are_asked_for_a_log_rank_test(brca: pd.DataFrame, ask: Any, sites: Any, edges: tuple[float, ...]) -> None:
    """Days are whole, so edges at every day give the exact test; with wide intervals it is that of the times moved to their ends."""
    rows = brca[brca.time > 0]
    group = Feature(name="group", kind="category", categories=("0", "1", "2"))
    method = LogRank(formula="Surv(time, event) ~ group", features=(Feature(name="time"), Feature(name="event"), group), sites=sites, edges=edges)
    found = ask(method, [part for _, part in rows.groupby("site")])
    time, event = rows.time.to_numpy(), rows.event.to_numpy()
    if len(edges) == 4:
        ends = np.array([0, *edges])
        place = np.searchsorted(ends, time)
        event = np.where(place > 4, 0, event)
        time = np.where(place > 4, ends[-1], np.where((event == 1) | np.isin(time, ends), ends[np.minimum(place, 4)], ends[place - 1]))
    statistic, p = survdiff(time, event, rows.group, strata=rows.site if sites == "strata" else None)
    line = found.frame("Test").iloc[0]
    assert (line["statistic"], line["p"]) == (pytest.approx(statistic, rel=1e-9), pytest.approx(p, rel=1e-8))
    assert found.frame("Groups")["events"].sum() == rows.event.sum()


def test_strata_within_hospitals(brca: pd.DataFrame, ask: Any) -> None:
    rows = brca[brca.time > 0].assign(half=lambda data: np.where(np.arange(len(data)) % 2, "b", "a"))
    group, half = Feature(name="group", kind="category", categories=("0", "1", "2")), Feature(name="half", kind="category", categories=("a", "b"))
    features = (Feature(name="time"), Feature(name="event"), group, half)
    found = ask(LogRank(formula="Surv(time, event) ~ group + strata(half)", features=features), [part for _, part in rows.groupby("site")])
    statistic, _ = survdiff(rows.time, rows.event, rows.group, strata=rows.site.astype(str) + rows.half)
    assert found.frame("Test")["statistic"][0] == pytest.approx(statistic, rel=1e-9)
    pooled = LogRank(formula="Surv(time, event) ~ group + strata(half)", features=features, sites="pooled", edges=tuple(range(1, 9001)))
    statistic, _ = survdiff(rows.time, rows.event, rows.group, strata=rows.half)
    assert ask(pooled, [rows.iloc[::2], rows.iloc[1::2]]).frame("Test")["statistic"][0] == pytest.approx(statistic, rel=1e-9)


def test_few_events_are_refused() -> None:
    times, event = np.arange(1.0, 101.0), (np.arange(100) < 24).astype(float)
    frame = Frame({"t": times, "e": event, "g": np.arange(100.0) % 2}, np.arange(100, dtype=np.uint64))
    features = (Feature(name="t"), Feature(name="e"), Feature(name="g", kind="category", categories=("a", "b")))
    strata = LogRank(formula="Surv(t, e) ~ g", features=features)
    pooled = LogRank(formula="Surv(t, e) ~ g", features=features, sites="pooled", edges=(20.0, 100.0))
    assert not list(strata.against(frame, Disclosure(minimum_cell=12), secure=False))
    assert "have the event" in next(iter(strata.against(frame, Disclosure(minimum_cell=13), secure=True)))
    assert "in some interval" in next(iter(pooled.against(frame, Disclosure(minimum_cell=12), secure=False)))
    assert not list(pooled.against(frame, Disclosure(minimum_cell=12), secure=True))
    assert list(pooled.against(frame, Disclosure(minimum_cell=12, exact_values="never"), secure=True))


DAYS = tuple(float(day) for day in range(1, 9001))


QUESTION = (Feature(name="time"), Feature(name="event"), Feature(name="group", kind="category", categories=("0", "1", "2")))


def test_hospitals_are_asked_for_curves(brca: pd.DataFrame, ask: Any) -> None:
    """Days are whole, so edges at every day give the curves of the exact times: least and most are the estimate, but for those lost on a day."""
    rows = brca[brca.time > 0]
    kinds = np.where(rows.event == 1, 1 + (np.arange(len(rows)) % 3 == 0), 0)
    sites = [part for _, part in rows.assign(event=np.array(["none", "one", "other"])[kinds]).groupby("site")]
    event = Feature(name="event", kind="category", categories=("none", "one", "other"))
    method = AalenJohansen(formula="Surv(time, event) ~ 1", features=(Feature(name="time"), event), edges=DAYS)
    found = ask(method, sites).frame()
    oracle: Any = CumIncidenceRight(rows.time.to_numpy(), kinds)
    for number, kind in enumerate(("one", "other")):
        lines = found[found["event"] == kind].set_index("time").loc[oracle.times]
        np.testing.assert_allclose(lines["incidence"], oracle.cinc[number], rtol=1e-10, atol=1e-15)
        assert ((lines["at_least"] <= lines["incidence"] + 1e-12) & (lines["incidence"] <= lines["at_most"] + 1e-12)).all()
    hazard = ask(NelsonAalen(formula="Surv(time, event) ~ group", features=QUESTION, edges=DAYS), [part for _, part in rows.groupby("site")]).frame()
    own = rows[rows.group == 1]
    times = np.unique(own.time)
    at_risk, events = counts(own.assign(group=0), times, 1)
    expected = np.cumsum(events[0] / at_risk[0])
    np.testing.assert_allclose(hazard[hazard["group"] == "1"].set_index("time").loc[times, "hazard"], expected, rtol=1e-12, atol=1e-15)


def test_mean_times_of_hospitals(brca: pd.DataFrame, ask: Any, part: Any) -> None:
    rows = brca[brca.time > 0]
    method = RestrictedMean(formula="Surv(time, event) ~ group", features=QUESTION, edges=DAYS[:1500])
    found = ask(method, part(rows, "time"))
    lines = found.frame("Time lived").set_index("group")
    alone = {}
    for group in range(3):
        own = rows[rows.group == group]
        times = np.unique(np.append(own.time, 1500.0))
        at_risk, events = counts(own.assign(group=0), times, 1)
        alone[group] = restricted_mean(times, at_risk[0], events[0], 1500.0).lived
        line = lines.loc[str(group)]
        np.testing.assert_allclose(line[["estimate", "standard_error"]].to_numpy(float), alone[group][:2], rtol=1e-10)
        assert line["at_least"] <= line["estimate"] <= line["at_most"] <= line["at_least"] + 1.5
    against = found.frame("2 against 0").set_index("term")
    difference, error = alone[2].estimate - alone[0].estimate, np.hypot(alone[2].error, alone[0].error)
    assert against.loc["difference", "estimate"] == pytest.approx(difference)
    assert against.loc["difference", "p"] == pytest.approx(2 * stats.norm.sf(abs(difference) / error))


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 2)), min_size=12, max_size=60))
def test_the_exact_curves_lie_where_the_answer_says(patients: list[tuple[int, int]]) -> None:
    """Whatever the times: at the edges the exact cumulative incidence, hazard and mean keep within the bounds that the binned counts give."""
    time, kind = np.array(patients, float).T
    edges = (10.0, 25.0, 40.0)
    frame = Frame({"t": time, "e": kind}, np.arange(len(time), dtype=np.uint64))
    features = (Feature(name="t"), Feature(name="e", kind="category", categories=("none", "one", "other")))
    method = AalenJohansen(formula="Surv(t, e) ~ 1", features=features, edges=edges)
    lines = Tables(method.tables("main", method.sums({}, frame, 1))).frame()
    times = np.unique(time)
    n = np.array([(time >= t).sum() for t in times], float)
    events = np.array([[((time == t) & (kind == k)).sum() for t in times] for k in (1, 2)], float)
    for number, name in enumerate(("one", "other")):
        exact = np.append(0.0, aalen_johansen(times, n, events)[number].values)[np.searchsorted(times, edges, side="right")]
        own = lines[lines["event"] == name]
        assert (own["at_least"] <= exact + 1e-9).all() and (exact <= own["at_most"] + 1e-9).all()
    either = Frame({"t": time, "e": (kind > 0).astype(float)}, frame.patients)
    plain = (Feature(name="t"), Feature(name="e"))
    hazard_of, mean_of = (kind_of(formula="Surv(t, e) ~ 1", features=plain, edges=edges) for kind_of in (NelsonAalen, RestrictedMean))
    hazard = Tables(hazard_of.tables("main", hazard_of.sums({}, either, 1))).frame()
    exact = np.append(0.0, np.cumsum(events.sum(axis=0) / n))[np.searchsorted(times, edges, side="right")]
    assert (hazard["at_least"] <= exact + 1e-9).all() and (exact <= hazard["at_most"] + 1e-9).all()
    mean = Tables(mean_of.tables("main", mean_of.sums({}, either, 1))).table()
    if times[-1] > 40 and mean.rows:
        lived = restricted_mean(times, n, events.sum(axis=0), 40.0).lived.estimate
        assert mean.rows[0][-2] <= lived + 1e-9 and lived <= mean.rows[0][-1] + 1e-9  # type: ignore[operator]
