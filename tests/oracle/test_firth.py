"""Firth's logistic regression: closed forms, and the penalised likelihood of the pooled data maximised by scipy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import minimize

from aimer2.core.dataset import Frame
from aimer2.core.study import Feature
from aimer2.statistics.firth import Firth

Part = Callable[..., list[pd.DataFrame]]
FEATURES = (Feature(name="y"), Feature(name="x"), Feature(name="rare"))


def firth(formula: str, rounds: int = 100) -> Firth:
    return Firth(formula=formula, features=FEATURES, rounds=rounds)


@pytest.fixture(scope="module")
def rare() -> pd.DataFrame:
    """Everybody with the rare finding has the event: maximum likelihood has no estimate."""
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"x": rng.normal(50, 10, 120), "rare": (np.arange(120) % 17 == 0) * 1.0})
    data["y"] = np.where(data["rare"] == 1, 1.0, (rng.random(120) < 1 / (1 + np.exp(4 - 0.05 * data["x"]))) * 1.0)
    return data


def penalised(beta: Any, matrix: Any, y: Any) -> float:
    eta = matrix @ beta
    weight = 1 / (1 + np.exp(-eta)) / (1 + np.exp(eta))
    return float(y @ eta - np.logaddexp(0, eta).sum() + np.linalg.slogdet(matrix.T @ (matrix * weight[:, None]))[1] / 2)


def highest(matrix: Any, y: Any, fixed: dict[int, float], begin: Any) -> tuple[float, Any]:
    """The maximum with some coefficients fixed."""
    free = [place for place in range(matrix.shape[1]) if place not in fixed]

    def whole(part: Any) -> Any:
        beta = np.zeros(matrix.shape[1])
        beta[free] = part
        for place, value in fixed.items():
            beta[place] = value
        return beta

    found = minimize(lambda part: -penalised(whole(part), matrix, y), np.asarray(begin)[free], method="BFGS", options={"gtol": 1e-9})
    return -float(found.fun), whole(found.x)


def test_a_table_of_two_by_two_has_half_a_patient_more_in_each_cell(ask: Any, part: Part) -> None:
    """Of a saturated model with Jeffreys' penalty (Firth 1993, section 3): also where a cell is empty."""
    counts = {(0, 0): 20, (0, 1): 12, (1, 0): 0, (1, 1): 9}
    data = pd.DataFrame([{"x": float(x), "y": float(y), "rare": 0.0} for (x, y), n in counts.items() for _ in range(n)])
    lines = ask(firth("y ~ x"), part(data, "y")).frame().set_index("term")
    assert lines["estimate"]["x"] == pytest.approx(np.log(9.5 * 20.5 / (0.5 * 12.5)), rel=1e-8)
    assert lines["estimate"]["intercept"] == pytest.approx(np.log(12.5 / 20.5), rel=1e-8)


def test_estimates_tests_and_intervals_are_those_of_the_pooled_penalised_likelihood(rare: pd.DataFrame, ask: Any, part: Part) -> None:
    found = ask(firth("y ~ x + rare", rounds=16), part(rare, "x"))
    lines, facts = found.frame().set_index("term"), found.table().facts
    matrix = np.column_stack([np.ones(len(rare)), (rare["x"] - 50) / 10, rare["rare"]])
    y = rare["y"].to_numpy()
    most, beta = highest(matrix, y, {}, np.zeros(3))
    np.testing.assert_allclose(lines["estimate"], [beta[0] - 5 * beta[1], beta[1] / 10, beta[2]], rtol=2e-5)
    own = lines["estimate"].to_numpy()
    assert penalised([own[0] + 50 * own[1], 10 * own[1], own[2]], matrix, y) >= most - 1e-10
    weight = 1 / (1 + np.exp(-matrix @ beta)) / (1 + np.exp(matrix @ beta))
    errors = np.sqrt(np.diag(np.linalg.inv(matrix.T @ (matrix * weight[:, None]))))
    np.testing.assert_allclose(lines["standard_error"].iloc[1:], [errors[1] / 10, errors[2]], rtol=2e-5)
    for term, place, unit in (("x", 1, 10), ("rare", 2, 1)):
        without, _ = highest(matrix, y, {place: 0.0}, beta)
        assert lines["chi2"][term] == pytest.approx(2 * (most - without), rel=1e-6)
        assert lines["p"][term] == pytest.approx(stats.chi2.sf(2 * (most - without), 1), rel=1e-5)
        # at either end of the interval the profile has fallen by half the quantile
        for end in ("low", "high"):
            there, _ = highest(matrix, y, {place: lines[end][term] * unit}, beta)
            assert most - there == pytest.approx(stats.chi2.ppf(0.95, 1) / 2, rel=1e-6)
        assert lines["low"][term] < lines["estimate"][term] < lines["high"][term]
    none, _ = highest(matrix, y, {1: 0.0, 2: 0.0}, beta)
    assert facts["likelihood_ratio_chi2"] == pytest.approx(2 * (most - none), rel=1e-6)
    # moving a column changes no determinant, its unit does
    assert facts["penalised_log_likelihood"] == pytest.approx(most + np.log(10), rel=1e-9)
    assert found.table().notes == ("tests by ratios of penalised likelihoods, intervals by their profile; the intercept has neither",)


def test_what_follows_from_other_terms_and_too_few_rounds_are_named(rare: pd.DataFrame, ask: Any) -> None:
    data = rare.assign(x=2 * rare["rare"] + 1)
    table = ask(firth("y ~ rare + x"), [data]).table()
    assert table.rows[2][1] is None and table.notes[0].endswith("have no estimate: x")
    short = ask(firth("y ~ x + rare", rounds=4), [rare]).table()
    assert any("not converged in 4 rounds" in note for note in short.notes)


@pytest.fixture(scope="module")
def two_hills() -> pd.DataFrame:
    """Almost separated by x, with a skewed column: the penalised likelihood has two maxima, and the way from no terms leads to the lower."""
    rng = np.random.default_rng(1462)
    n = int(rng.integers(25, 150))
    x = rng.normal(size=n) * 10 ** rng.uniform(-3, 3)
    rare = (rng.random(n) < rng.uniform(0.02, 0.5)) * 1.0
    skewed = rng.lognormal(0, rng.uniform(0.5, 2.5), n)
    y = (rng.random(n) < 1 / (1 + np.exp(1 - 8 * x / x.std()))) * 1.0
    return pd.DataFrame({"y": y, "x": x, "rare": rare, "skewed": skewed})


def test_the_whole_model_leaves_a_hill_that_is_lower_than_a_part_of_it(two_hills: pd.DataFrame, ask: Any, part: Part) -> None:
    found = ask(Firth(formula="y ~ x + rare + skewed", features=(*FEATURES, Feature(name="skewed")), rounds=150), part(two_hills, "rare"))
    lines = found.frame().set_index("term")
    terms = two_hills[["x", "rare", "skewed"]]
    centre, spread = terms.mean().to_numpy(), terms.std(ddof=0).to_numpy()
    matrix, y = np.column_stack([np.ones(len(terms)), (terms - centre) / spread]), two_hills["y"].to_numpy()
    most, beta = highest(matrix, y, {}, np.zeros(4))
    np.testing.assert_allclose(lines["estimate"].iloc[1:] * spread, beta[1:], rtol=1e-4)
    for place, term in enumerate(terms, 1):
        without, _ = highest(matrix, y, {place: 0.0}, beta)
        assert lines["chi2"][term] == pytest.approx(2 * (most - without), rel=1e-5)
        assert lines["low"][term] < lines["estimate"][term] < lines["high"][term]
    assert len(found.table().notes) == 1


def test_a_whole_model_that_lies_lower_than_a_part_of_it_has_not_converged(two_hills: pd.DataFrame) -> None:
    method, values = firth("y ~ x + rare", rounds=60), dict[str, Any]()
    frame = Frame({name: two_hills[name].to_numpy() for name in ("y", "x", "rare")}, np.arange(len(two_hills), dtype=np.uint64))
    for number in range(1, method.rounds + 1):
        values, is_done = method.step(values, method.sums(method.told(values), frame, number), number)
        if is_done:
            break
    assert is_done and len(method.tables("main", values)[0].notes) == 1
    lower = values["objective"].copy()
    lower[0] = lower[1:4].max() - 1e-3
    assert "has not converged" in method.tables("main", values | {"objective": lower})[0].notes[0]
