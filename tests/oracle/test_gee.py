"""Generalised estimating equations over hospitals are the pooled ones: against statsmodels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from aimer2.core.study import Feature
from aimer2.statistics.gee import Gee
from aimer2.statistics.glm import Glm

FEATURES = tuple(Feature(name=name) for name in ("y", "x", "z", "t"))


@pytest.fixture(scope="module")
def visits() -> pd.DataFrame:
    """Patients with one to six visits, alike by an effect of their own; in five hospitals."""
    rng = np.random.default_rng(12)
    patient = np.repeat(np.arange(150), rng.integers(1, 7, 150))
    own = rng.normal(0, 0.8, 150)[patient]
    data = pd.DataFrame({"patient": patient, "site": patient % 5, "x": rng.normal(size=len(patient)), "z": (patient % 3 == 0) * 1.0})
    eta = 0.3 + 0.6 * data["x"] - 0.5 * data["z"] + own
    data["t"] = np.log(rng.uniform(1, 3, len(data)))
    data["number"], data["event"] = eta + rng.normal(size=len(data)), (rng.random(len(data)) < 1 / (1 + np.exp(-eta))) * 1.0
    data["count"], data["cost"] = rng.poisson(np.exp(eta / 2 + data["t"])) * 1.0, rng.gamma(2.0, np.exp(eta / 2)) + 0.01
    return data


CASES = {
    "gaussian": ("number", sm.families.Gaussian()),
    "binomial": ("event", sm.families.Binomial()),
    "poisson": ("count", sm.families.Poisson()),
    "gamma": ("cost", sm.families.Gamma(sm.families.links.Log())),
}


@pytest.mark.parametrize("clusters", ["patients", "sites"])
@pytest.mark.parametrize("family", CASES)
def test_exchangeable_correlation(visits: pd.DataFrame, ask: Any, family: str, clusters: str) -> None:
    column, known = CASES[family]
    data = visits.assign(y=visits[column])
    offset = data["t"] if family == "poisson" else None
    formula = "y ~ x + z + offset(t)" if family == "poisson" else "y ~ x + z"
    method = Gee(formula=formula, features=FEATURES, family=family, clusters=clusters, rounds=200)  # type: ignore[arg-type]
    sites = [one for _, one in data.groupby("site")]
    found = ask(method, sites, patients=[one["patient"].to_numpy() for one in sites])
    groups = data["patient"] if clusters == "patients" else data["site"]
    model = sm.GEE(data["y"], sm.add_constant(data[["x", "z"]]), groups=groups, family=known, cov_struct=sm.cov_struct.Exchangeable(), offset=offset)
    pooled = model.fit(maxiter=500, ctol=1e-12, params_niter=1)
    lines, facts = found.frame(), found.table().facts
    np.testing.assert_allclose(lines["estimate"], pooled.params, rtol=1e-6)
    np.testing.assert_allclose(lines["standard_error"], pooled.bse, rtol=1e-6)
    assert facts["alpha"] == pytest.approx(model.cov_struct.dep_params, rel=1e-6)
    if family in ("gaussian", "gamma"):
        assert facts["dispersion"] == pytest.approx(pooled.scale, rel=1e-6)
    assert any("clusters" in note for note in found.table().notes) == (clusters == "sites")


@pytest.mark.parametrize("clusters", ["patients", "sites"])
@pytest.mark.parametrize("family", ["gaussian", "binomial", "poisson"])
def test_bias_reduced_errors_of_few_clusters(visits: pd.DataFrame, ask: Any, family: str, clusters: str) -> None:
    """Of 15 patients, or of 5 hospitals: Mancl and DeRouen's, as statsmodels computes them with matrices as large as a cluster."""
    column, known = CASES[family]
    data = visits.assign(y=visits[column])
    data = data[data["patient"] < 15] if clusters == "patients" else data
    offset = data["t"] if family == "poisson" else None
    formula = "y ~ x + z + offset(t)" if family == "poisson" else "y ~ x + z"
    method = Gee(formula=formula, features=FEATURES, family=family, clusters=clusters, errors="bias_reduced", rounds=200)  # type: ignore[arg-type]
    sites = [one for _, one in data.groupby("site")]
    table = ask(method, sites, patients=[one["patient"].to_numpy() for one in sites])
    groups = data["patient"] if clusters == "patients" else data["site"]
    model = sm.GEE(data["y"], sm.add_constant(data[["x", "z"]]), groups=groups, family=known, cov_struct=sm.cov_struct.Exchangeable(), offset=offset)
    pooled = model.fit(maxiter=500, ctol=1e-12, params_niter=1, cov_type="bias_reduced")
    plain = model.fit(maxiter=500, ctol=1e-12, params_niter=1)
    np.testing.assert_allclose(table.frame()["standard_error"], pooled.bse, rtol=1e-6)
    assert (pooled.bse > 1.02 * plain.bse).all()
    assert any("even so" in note for note in table.table().notes) == (clusters == "sites")


def test_what_one_cluster_alone_determines_has_no_error_to_be_seen(visits: pd.DataFrame, ask: Any) -> None:
    data = visits.assign(y=visits["number"], z=(visits["site"] == 3) * 1.0)
    method = Gee(formula="y ~ x + z", features=FEATURES, clusters="sites", errors="bias_reduced", correlation="independence")
    lines = ask(method, [one for _, one in data.groupby("site")]).frame()
    assert np.isfinite(lines["standard_error"]).all() and (lines["standard_error"] > 0).all()


def test_patients_spread_over_sites_anyhow_are_the_same(visits: pd.DataFrame, ask: Any) -> None:
    data = visits.assign(y=visits["event"])
    method = Gee(formula="y ~ x + z", features=FEATURES, family="binomial", rounds=100)
    by = [[one for _, one in data.groupby(key)] for key in (data["site"], data["patient"] < 2, data["z"])]
    answers = [ask(method, sites, patients=[one["patient"].to_numpy() for one in sites]).frame() for sites in by]
    for other in answers[1:]:
        np.testing.assert_allclose(other[["estimate", "standard_error"]], answers[0][["estimate", "standard_error"]], rtol=1e-9)


def test_independence_is_the_linear_model_with_errors_over_patients(visits: pd.DataFrame, ask: Any) -> None:
    data = visits.assign(y=visits["event"])
    patients = [data["patient"].to_numpy()]
    found = ask(Gee(formula="y ~ x + z", features=FEATURES, family="binomial", correlation="independence"), [data], patients=patients)
    other = ask(Glm(formula="y ~ x + z", features=FEATURES, family="binomial", errors="patients"), [data], patients=patients)
    np.testing.assert_allclose(found.frame()["estimate"], other.frame()["estimate"], rtol=1e-8)
    n, clusters = len(data), 150
    factor = np.sqrt(clusters / (clusters - 1) * (n - 1) / (n - 3))
    np.testing.assert_allclose(found.frame()["standard_error"] * factor, other.frame()["standard_error"], rtol=1e-7)


def test_patients_of_one_row_each_have_no_correlation(visits: pd.DataFrame, ask: Any) -> None:
    data = visits.drop_duplicates("patient").assign(y=lambda whole: whole["number"])
    table = ask(Gee(formula="y ~ x", features=FEATURES), [data.iloc[::2], data.iloc[1::2]], patients=[range(75), range(75, 150)]).table()
    assert table.facts["alpha"] == 0 and any("too few pairs" in note for note in table.notes)
