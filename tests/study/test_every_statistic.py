"""Every statistical method as a study of three hospitals: codec, disclosure control, the agent's checks; in secret and in the clear."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aimer2.client.simulate import simulate
from aimer2.client.tables import Tables
from aimer2.core.disclosure import Disclosure
from aimer2.core.study import Study
from aimer2.statistics import catalogue
from aimer2.statistics.private import AbstractPrivate
from aimer2.statistics.statistic import AbstractStatistic

PLAIN: dict[str, Any] = {"secure_aggregation": False, "why_not_secure": "a test"}
ROWS = 900


def hospitals(method: AbstractStatistic) -> dict[str, pd.DataFrame]:
    """Drawn columns: categories, numbers within their range, 0 or 1 as the last of the response, else numbers above 1, few of them different."""
    rng = np.random.default_rng(8)
    response = {one.name for one in method.parsed.response[-1:]}

    def column(feature: Any) -> Any:
        if feature.categories:
            return pd.Categorical(rng.choice(feature.categories, ROWS))
        if feature.name in response and feature.maximum is None:
            return rng.integers(0, 2, ROWS).astype(float)
        if feature.minimum is not None and feature.maximum is not None:
            return rng.uniform(feature.minimum, feature.maximum, ROWS).round(0 if feature.maximum - feature.minimum > 10 else 1)
        return 1 + rng.integers(1, 9, ROWS).astype(float)

    whole = pd.DataFrame({feature.name: column(feature) for feature in method.features})
    return {f"site-{place}": whole.iloc[place::3] for place in range(3)}


def study(name: str, method: AbstractStatistic, privacy: dict[str, Any]) -> Study:
    own = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.name in catalogue.options(name)}
    return Study(
        name="asked",
        question="Is it the same in secret?",
        purpose="a test",
        ethics="none needed",
        principal_investigator="Dr Ada Example",
        expires=datetime.date(2100, 1, 1),
        cohort={"dataset": "d", "features": [feature.model_dump(exclude_unset=True) for feature in method.features]},
        analyses=[{"name": "main", "method": name, "formula": method.formula, "rounds": method.rounds, "options": own}],
        privacy=privacy,
    )


FURTHER: list[tuple[str, dict[str, Any]]] = [
    ("gee", {"clusters": "sites", "family": "binomial", "errors": "bias_reduced"}),
    ("glm", {"family": "binomial", "lasso": 2.0, "ridge": 1.0}),
    ("glm", {"family": "binomial", "sites": "fixed"}),
    ("cox", {"errors": "robust", "proportionality": "log", "concordance": True}),
    ("cox", {"sites": "pooled", "edges": tuple(range(1, 10)), "errors": "sites", "proportionality": "km", "concordance": True}),
]
"""Options by which a method sends other sums."""


WITHOUT_NOISE = [name for name in catalogue.names() if not isinstance(catalogue.example(name), AbstractPrivate)]
"""Those with noise are never the same twice: tests/privacy/test_private_questions.py asks them both ways."""


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in WITHOUT_NOISE), *FURTHER])
def test_in_secret_as_in_the_clear(name: str, options: dict[str, Any]) -> None:
    method = dataclasses.replace(catalogue.example(name), **options)
    sites = hospitals(method)
    clear = simulate(study(name, method, PLAIN), sites, disclosure=Disclosure(exact_values="always")).tables
    secret = simulate(study(name, method, {}), sites).tables
    assert clear and all(table.title != "No answer" for table in clear)
    assert [(table.title, table.columns, table.notes) for table in clear] == [(table.title, table.columns, table.notes) for table in secret]
    for one, other in zip(cells(clear), cells(secret), strict=True):
        assert one == (pytest.approx(other, rel=1e-8, abs=1e-10) if isinstance(one, float) else other)


def cells(tables: Tables) -> list[Any]:
    return [cell for table in tables for line in (*table.rows, tuple(table.facts.values())) for cell in line]
