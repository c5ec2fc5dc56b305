"""A question in one line, over frames on this machine; and how its answer looks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from rich.console import Console

from aimer2 import ask
from aimer2.client.questions import Asked, Terms
from aimer2.client.tables import Tables
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import AimerError, BadStudy, NotFound
from aimer2.core.table import Table


def hospitals(count: int = 3) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(8)
    sex = pd.Categorical(rng.choice(["female", "male"], 300))
    whole = pd.DataFrame({"age": rng.normal(60, 9, 300), "sex": sex, "smokes": rng.random(300) < 0.4})
    whole["cost"] = 3 + 0.1 * whole["age"] + (sex == "male") * 2 + whole["smokes"] + rng.normal(0, 1, 300)
    return {f"site-{place}": whole.iloc[place::count] for place in range(count)}


def pooled() -> Any:
    whole = pd.concat(hospitals().values())
    given = pd.DataFrame({"const": 1.0, "age": whole["age"], "sex": (whole["sex"] == "male") * 1.0, "smokes": whole["smokes"] * 1.0})
    return sm.OLS(whole["cost"], given).fit()


@pytest.mark.parametrize("sites", [3, 1])
def test_categories_are_those_of_the_frames_and_one_site_needs_no_secrecy(sites: int) -> None:
    found = ask("glm", "cost ~ age + sex + smokes", hospitals(sites), disclosure=Disclosure(minimum_cell=5))
    lines = found.frame("Coefficients")
    assert lines["term"].tolist() == ["intercept", "age", "sex = male", "smokes = true"]
    np.testing.assert_allclose(lines["estimate"], pooled().params, rtol=1e-9)
    assert found.table().facts["r_squared"] == pytest.approx(pooled().rsquared, rel=1e-9)


def test_options_reach_the_method_and_faults_are_told() -> None:
    assert ask("glm", "cost ~ age", hospitals(), level=0.5).frame()["high"][1] < ask("glm", "cost ~ age", hospitals()).frame()["high"][1]
    with pytest.raises(BadStudy, match="link"):
        ask("glm", "cost ~ age", hospitals(), link="spline")
    with pytest.raises(BadStudy, match="the formula"):
        ask("glm", "cost ~", hospitals())
    with pytest.raises(AimerError, match="no column 'height'"):
        ask("glm", "cost ~ height", hospitals())


def test_the_study_of_a_question_names_its_terms() -> None:
    terms = Terms(purpose="Audit of costs", ethics="EK 3", principal_investigator="Dr Ada", sites=("a", "b", "c"), minimum_patients=30)
    study = Asked(method="glm", formula="cost ~ age", dataset="costs", terms=terms).study()
    assert (study.purpose, study.ethics, study.sites.names, study.cohort.minimum_patients) == ("Audit of costs", "EK 3", ("a", "b", "c"), 30)
    assert study.reads == ("cost", "age") and study.methods == ("glm",) and study.privacy.secure_aggregation


def test_all_answers_as_tidy_frames() -> None:
    def table(analysis: str, title: str, columns: tuple[str, ...], *rows: tuple[float, ...]) -> Table:
        return Table(analysis=analysis, method="glm", title=title, columns=columns, rows=rows)

    two = ("term", "estimate")
    tables = (table("a", "C", two, (1.0, 2.0)), table("b", "C", (*two, "p"), (3.0, 4.0, 0.5)), table("b", "D", ("x",), (5.0,)))
    frames = Tables(tables).frames()
    assert list(frames) == ["C", "D"] and list(frames["C"].columns) == ["analysis", *two, "p"]
    assert frames["C"][["analysis", *two]].to_numpy().tolist() == [["a", 1.0, 2.0], ["b", 3.0, 4.0]]
    assert frames["C"]["p"].isna().tolist() == [True, False] and frames["D"]["x"].tolist() == [5.0]


def printed(tables: Tables, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(tables)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_column_is_cut_however_narrow_the_screen(width: int) -> None:
    tables = ask("glm", "cost ~ age + sex", hospitals())
    lines = printed(tables, width)
    assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
    for name in (*(column.replace("_", " ") for column in tables.table().columns), "sex = male", "r squared"):
        assert any(name in line for line in lines), name


def test_a_notebook_shows_text_not_markup_of_strangers() -> None:
    tables = ask("glm", "cost ~ age", {site: data.assign(age=data["age"]) for site, data in hospitals().items()})
    document = tables[0].model_dump() | {"title": "<script>"}
    assert "<script>" not in Tables.of({"tables": [document]})._repr_html_()
    with pytest.raises(NotFound, match="no table"):
        tables.frame("Nonsense")
