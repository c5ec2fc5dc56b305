"""Whether intervals hold what they promise: thousands of simulated federations of each kind of model, some of whose hospitals never answer.

Both halves of each method run as they do in a study; only the engine between them is left out. A share of 95 % of ``FEDERATIONS`` has a binomial
standard error of 0.49 percentage points, so that a right method is within 94 to 96 % of nearly all draws, and one that is off by 2 points of none.
The figures stand in docs/statistics.md; `pytest tests/oracle/test_coverage.py -m campaign -s` prints them anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from aimer2.client.tables import Tables
from aimer2.core.dataset import Frame
from aimer2.core.random import SecureBytes
from aimer2.core.study import Feature
from aimer2.core.update import Update
from aimer2.statistics.cox import Cox
from aimer2.statistics.glm import Glm
from aimer2.statistics.kaplan_meier import KaplanMeier
from aimer2.statistics.mantel_haenszel import MantelHaenszel
from aimer2.statistics.meta_analysis import MetaAnalysis
from aimer2.statistics.private import AbstractPrivate
from aimer2.statistics.private_describe import PrivateDescribe
from aimer2.statistics.private_glm import PrivateGlm
from aimer2.statistics.propensity_weighting import PropensityWeighting
from aimer2.statistics.random_intercept import RandomIntercept
from aimer2.statistics.restricted_mean import RestrictedMean
from aimer2.statistics.statistic import AbstractStatistic, loaded
from aimer2.statistics.t_test import TTest
from aimer2.study.analysing import local_of

FEDERATIONS = 2000
DROPS_OUT = 0.2
"""A hospital's chance never to answer; three always do."""

Site = dict[str, Any]
Drawn = Callable[[np.random.Generator, int, float], Site]
"""A hospital's columns: of so many patients, with an effect of its own."""

GROUP = Feature(name="group", kind="category", categories=("control", "treated"))


@dataclass(frozen=True, slots=True)
class Model:
    """``truth``: what the interval of the row ``where`` (its first columns), or of the last row up to the time ``at``, is to hold; ``hospitals`` and
    their ``size`` before drop-outs."""

    method: AbstractStatistic
    draw: Drawn
    title: str
    where: tuple[Any, ...]
    truth: float
    at: float | None = None
    hospitals: int = 6
    size: tuple[int, int] = (40, 160)


def numbers(*names: str) -> tuple[Feature, ...]:
    return tuple(Feature(name=name) for name in names)


def skewed(rng: np.random.Generator, rows: int, own: float) -> Site:
    return {"y": rng.gamma(2, 1, rows)}


def linear(rng: np.random.Generator, rows: int, own: float) -> Site:
    x, z = rng.normal(0.3 * own, 1, rows), rng.normal(size=rows)
    return {"x": x, "z": z, "y": 1 + 0.5 * x - 0.4 * z + rng.normal(0, 2, rows)}


def logistic(rng: np.random.Generator, rows: int, own: float) -> Site:
    x, z = rng.normal(0.3 * own, 1, rows), rng.normal(size=rows)
    return {"x": x, "z": z, "y": 1.0 * (rng.random(rows) < 1 / (1 + np.exp(0.8 - 0.5 * x + 0.3 * z)))}


def apart(rng: np.random.Generator, rows: int, own: float) -> Site:
    """Each hospital with an intercept of its own, which goes with its case mix."""
    x = rng.normal(0.5 * own, 1, rows)
    return {"x": x, "y": 1.0 * (rng.random(rows) < 1 / (1 + np.exp(0.8 - own - 0.5 * x)))}


def poisson(rng: np.random.Generator, rows: int, own: float) -> Site:
    x, years = rng.normal(0.3 * own, 1, rows), rng.uniform(0.5, 3, rows)
    return {"x": x, "years": years, "y": rng.poisson(years * np.exp(-0.5 + 0.3 * x)) * 1.0}


def cox(rng: np.random.Generator, rows: int, own: float) -> Site:
    """Each hospital with a baseline hazard of its own."""
    x = rng.normal(0.3 * own, 1, rows)
    time, censored = rng.exponential(np.exp(-0.5 * x - 0.5 * own)), rng.uniform(0.5, 3, rows)
    return {"x": x, "time": np.minimum(time, censored), "died": 1.0 * (time <= censored)}


def months(rng: np.random.Generator, rows: int, own: float) -> Site:
    """Whole months, so that the study's intervals hold the exact times: a hazard of 4 % a month, a third of the patients lost by chance."""
    time, censored = rng.geometric(0.04, rows), rng.integers(6, 61, rows)
    return {"time": np.minimum(time, censored) * 1.0, "died": 1.0 * (time <= censored)}


def arms(rng: np.random.Generator, rows: int, own: float) -> Site:
    """The same in two groups, 4 and 6 % a month."""
    group = rng.integers(0, 2, rows)
    time, censored = rng.geometric(np.where(group, 0.06, 0.04)), rng.integers(12, 61, rows)
    return {"time": np.minimum(time, censored) * 1.0, "died": 1.0 * (time <= censored), "group": group * 1.0}


def means(rng: np.random.Generator, rows: int, own: float) -> Site:
    group = rng.integers(0, 2, rows)
    return {"group": group * 1.0, "y": 3 + 0.5 * group + rng.gamma(4, 1 + 0.5 * group, rows) - 4 - 2 * group}


def odds(rng: np.random.Generator, rows: int, own: float) -> Site:
    """An odds ratio of 2 in every hospital; how often the event is differs."""
    group = rng.integers(0, 2, rows)
    return {"group": group * 1.0, "y": 1.0 * (rng.random(rows) < 1 / (1 + np.exp(1 - 0.6 * own - np.log(2) * group)))}


def intercepts(rng: np.random.Generator, rows: int, own: float) -> Site:
    x = rng.normal(size=rows)
    return {"x": x, "y": 2 + 0.5 * x + 1.5 * own + rng.normal(0, 2, rows)}


def effects(rng: np.random.Generator, rows: int, own: float) -> Site:
    """The effect itself differs between hospitals, with a standard deviation of 0.4 about 0.5."""
    group = rng.integers(0, 2, rows)
    return {"group": group * 1.0, "y": (0.5 + 0.4 * own) * group + rng.normal(0, 1, rows)}


def treated(rng: np.random.Generator, rows: int, own: float) -> Site:
    """Not randomised: who is older is treated more often and has a larger outcome."""
    age = rng.normal(0.3 * own, 1, rows)
    group = rng.random(rows) < 1 / (1 + np.exp(-0.7 * age))
    return {"age": age, "group": group * 1.0, "y": 1 + 1.0 * group + 0.8 * age + rng.normal(0, 1, rows)}


def bounded(rng: np.random.Generator, rows: int, own: float) -> Site:
    """Within public ranges, for noise."""
    x, g = rng.uniform(-1, 1, rows), 1.0 * (rng.random(rows) < 0.4)
    ill = rng.random(rows) < 1 / (1 + np.exp(0.5 - 0.8 * x - 0.5 * g))
    return {"x": x, "group": g, "y": np.clip(0.2 + 0.3 * x - 0.2 * g + rng.normal(0, 0.25, rows), -2, 2), "ill": 1.0 * ill}


WITHIN = (Feature(name="x", minimum=-1, maximum=1), GROUP, Feature(name="y", minimum=-2, maximum=2), Feature(name="ill"))
MONTHS = tuple(float(month) for month in range(1, 37))
SURVIVAL = "Surv(time, died) ~ "
OVER = numbers("time", "died")
MODELS = {
    "mean": Model(Glm(formula="y ~ 1", features=numbers("y")), skewed, "Coefficients", ("intercept",), 2.0),
    "difference of means (Welch)": Model(TTest(formula="y ~ group", features=(GROUP, *numbers("y"))), means, "Welch's t test", (), 0.5),
    "linear regression": Model(Glm(formula="y ~ x + z", features=numbers("x", "y", "z")), linear, "Coefficients", ("x",), 0.5),
    "linear regression, robust errors": Model(
        Glm(formula="y ~ x + z", features=numbers("x", "y", "z"), errors="robust"), linear, "Coefficients", ("x",), 0.5
    ),
    "logistic regression": Model(Glm(formula="y ~ x + z", features=numbers("x", "y", "z"), family="binomial"), logistic, "Coefficients", ("x",), 0.5),
    "logistic regression, hospitals' own intercepts": Model(
        Glm(formula="y ~ x", features=numbers("x", "y"), family="binomial", sites="fixed"), apart, "Coefficients", ("x",), 0.5
    ),
    "Poisson regression": Model(
        Glm(formula="y ~ x + offset(log(years))", features=numbers("x", "y", "years"), family="poisson"), poisson, "Coefficients", ("x",), 0.3
    ),
    "Cox regression": Model(Cox(formula=SURVIVAL + "x", features=(*OVER, *numbers("x"))), cox, "Coefficients", ("x",), 0.5),
    "Kaplan-Meier, survival at 24 months": Model(
        KaplanMeier(formula=SURVIVAL + "1", features=OVER, edges=MONTHS), months, "Survival", (), 0.96**24, at=24.0
    ),
    "restricted mean, difference": Model(
        RestrictedMean(formula=SURVIVAL + "group", features=(*OVER, GROUP), edges=MONTHS),
        arms,
        "treated against control",
        ("difference",),
        float(sum(0.94**month - 0.96**month for month in range(36))),
    ),
    "Mantel-Haenszel odds ratio": Model(MantelHaenszel(formula="y ~ group", features=(GROUP, *numbers("y"))), odds, "Common ratios", (), 2.0),
    "random intercept": Model(RandomIntercept(formula="y ~ x", features=numbers("x", "y")), intercepts, "Coefficients", ("x",), 0.5, hospitals=10),
    "meta-analysis, Hartung and Knapp": Model(
        MetaAnalysis(formula="y ~ group", features=(GROUP, *numbers("y")), hartung_knapp=True), effects, "Common effect", (), 0.5, hospitals=12
    ),
    "mean with noise of ε = 0.9": Model(PrivateDescribe(formula="~ x", features=WITHIN[:1], noise=4.2), bounded, "Means", (), 0.0, size=(300, 700)),
    "share with noise of ε = 0.9": Model(
        PrivateDescribe(formula="~ group", features=(GROUP,), noise=4.2), bounded, "Categories", ("group", "treated"), 0.4, size=(300, 700)
    ),
    "linear regression with noise of ε = 3.5": Model(
        PrivateGlm(formula="y ~ x + group", features=WITHIN[:3], noise=1.2), bounded, "Coefficients", ("x",), 0.3, size=(300, 700)
    ),
    "logistic regression with noise of ε = 4": Model(
        PrivateGlm(formula="ill ~ x + group", features=(*WITHIN[:2], WITHIN[3]), noise=2.4, family="binomial"),
        bounded,
        "Coefficients",
        ("x",),
        0.8,
        size=(600, 1400),
    ),
    "propensity weighting": Model(
        PropensityWeighting(formula="y ~ group + age", features=(GROUP, *numbers("age", "y"))),
        treated,
        "Effect on all patients",
        ("treated − control",),
        1.0,
    ),
}


def federation(model: Model, rng: np.random.Generator) -> list[Frame]:
    sizes = rng.integers(*model.size, model.hospitals)
    effects_of = rng.normal(size=model.hospitals)
    there = rng.random(model.hospitals) >= DROPS_OUT
    there[:3] = True
    frames = []
    for rows, own, is_there in zip(sizes, effects_of, there, strict=True):
        drawn = {name: np.asarray(values, np.float64) for name, values in model.draw(rng, int(rows), float(own)).items()}
        if is_there:
            frames.append(Frame({feature.name: drawn[feature.name] for feature in model.method.features}, np.arange(rows, dtype=np.uint64)))
    return frames


def answer(method: AbstractStatistic, frames: list[Frame], source: SecureBytes) -> Tables:
    state = method.init({})
    while not method.finished(state):
        received = {name: loaded(leaves) for name, leaves in method.broadcast(state).items()}
        given = [method.local(received, local_of(frame, 1, "a", state.round_number + 1)) for frame in frames]
        if isinstance(method, AbstractPrivate):
            given = [Update({"sums": method.noised(loaded(one.sums["sums"]), source)}) for one in given]
        whole = given[0]
        for one in given[1:]:
            whole = whole + one
        state = method.update(state, whole)
    assert state.done
    return Tables(method.tables("main", loaded(state.values)))


def interval(model: Model, tables: Tables) -> tuple[float, float]:
    table = next(one for one in tables if one.title == model.title)
    if model.at is not None:
        row = [one for one in table.rows if float(one[1] or 0) <= model.at][-1]
    else:
        row = next(one for one in table.rows if one[: len(model.where)] == model.where)
    low, high = (row[table.columns.index(name)] for name in ("low", "high"))
    assert isinstance(low, float) and isinstance(high, float)
    return low, high


@pytest.mark.campaign
@pytest.mark.parametrize("name", MODELS)
def test_intervals_of_95_percent_hold_the_truth_in_94_to_96_of_100_federations(name: str) -> None:
    model, rng, source = MODELS[name], np.random.default_rng(20_261_121), SecureBytes(bytes(32))
    held = 0
    for _ in range(FEDERATIONS):
        low, high = interval(model, answer(model.method, federation(model, rng), source))
        held += low <= model.truth <= high
    share = held / FEDERATIONS
    print(f"\n{name}: {100 * share:.2f} % of {FEDERATIONS}, ± {100 * np.sqrt(share * (1 - share) / FEDERATIONS):.2f}")
    assert 0.94 <= share <= 0.96
