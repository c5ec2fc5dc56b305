"""Data quality over hospitals: counts of the pooled rows, scipy's distance, and a gate that shuts out whom it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from aimer2 import ask as question
from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import AimerError
from aimer2.core.study import Feature
from aimer2.statistics.data_quality import DataQuality

FEATURES = (
    Feature(name="age", minimum=0, maximum=100),
    Feature(name="entry"),
    Feature(name="exit"),
    Feature(name="sex", kind="category", categories=("f", "m")),
)
RULES = ("18 <= age", "entry < exit")


def quality(**options: Any) -> DataQuality:
    return DataQuality(formula="~ age + entry + exit + sex", features=FEATURES, **({"rules": RULES, "bins": 50} | options))


@pytest.fixture
def whole() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    entry = rng.integers(0, 900, 600) * 1.0
    data = pd.DataFrame({"age": rng.normal(60, 12, 600).clip(20, 95).round(2), "entry": entry, "exit": entry + rng.integers(1, 400, 600)})
    data["sex"] = rng.choice(["f", "m"], 600)
    data.loc[::20, "age"] = np.nan
    data.loc[[3, 5, 8], "exit"] = data.loc[[3, 5, 8], "entry"]
    data.loc[[11, 12], "age"] = 12.0
    return data


def test_counts_are_those_of_all_rows(whole: pd.DataFrame, ask: Any, part: Any) -> None:
    found = ask(quality(), part(whole, "age"))
    columns, rules = found.frame("Columns").set_index("column"), found.frame("Rules").set_index("rule")
    assert columns["missing"].tolist() == [30, 0, 0, 0] and columns["missing_share"]["age"] == 0.05
    assert rules.loc["18 <= age"].tolist() == [570, 2, 2 / 570] and rules.loc["entry < exit"].tolist() == [600, 3, 3 / 600]
    assert found.frame("Doubles")["count"].tolist() == [0, 0]


def test_doubles_within_a_patient_and_between_patients(whole: pd.DataFrame, ask: Any) -> None:
    data = pd.concat([whole, whole.iloc[[1, 2, 4]], whole.iloc[[6]]])
    # three rows repeat those of their own patients; the fourth, that of a patient of another number
    ids = [*range(600), 1, 2, 4, 9999]
    found = ask(quality(), [data], patients=[ids])
    assert found.frame("Doubles")["count"].tolist() == [3, 2]
    assert found.table().facts["verdict"] == "fit"


def test_distances_of_hospitals_are_kolmogorov_s_and_their_variance_anova_s(whole: pd.DataFrame, ask: Any) -> None:
    sites = [whole.iloc[:200], whole.iloc[200:400], whole.iloc[400:].assign(age=lambda rows: (rows["age"] + 25).clip(upper=99))]
    found = ask(quality(bins=200), sites)
    line = found.frame("Between hospitals").set_index("column").loc["age"]
    known = [site["age"].dropna() for site in sites]
    pooled = np.concatenate(known)
    distances = [stats.ks_2samp(site, pooled).statistic for site in known]
    classes = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
    assert line["largest_at_most"] == next(one for one in classes if one >= max(distances))
    assert line["hospitals_beyond"] == sum(one > 0.3 for one in distances) == 1
    between = sum(len(site) * (site.mean() - pooled.mean()) ** 2 for site in known) / ((pooled - pooled.mean()) ** 2).sum()
    assert line["variance_between"] == pytest.approx(between, rel=1e-9)
    table = found.table("Columns")
    assert table.facts["verdict"] == "not fit" and any("hospitals differ in age" in note for note in table.notes)


def test_categories_differ_by_their_shares(whole: pd.DataFrame, ask: Any) -> None:
    sites = [whole[whole["sex"] == "f"], whole[whole["sex"] == "m"]]
    line = ask(quality(), sites).frame("Between hospitals").set_index("column").loc["sex"]
    # each has one sex alone, and about half of all have it
    assert line["hospitals_beyond"] == 2 and line["largest_at_most"] == 1.0


def asked(sites: dict[str, pd.DataFrame], **options: Any) -> Any:
    known = [feature.model_dump(exclude_unset=True) for feature in FEATURES]
    given = {site: data.assign(sex=pd.Categorical(data["sex"], categories=["f", "m"])) for site, data in sites.items()}
    limits = Disclosure(minimum_cell=5)
    return question("data_quality", "~ age + entry + exit + sex", given, columns=known, rules=RULES, disclosure=limits, **options)


def test_a_hospital_beyond_a_limit_takes_no_part_or_is_reported(whole: pd.DataFrame) -> None:
    sites = {f"site-{place}": whole.iloc[place::4] for place in range(4)}
    sites["site-1"] = sites["site-1"].assign(exit=sites["site-1"]["entry"] - 1)
    assert asked(sites).table("Columns").facts["hospitals"] == 3
    reported = asked(sites, gate=False).table("Columns")
    assert reported.facts["hospitals"] == 4 and reported.facts["verdict"] == "not fit"
    with pytest.raises(AimerError, match=r"'entry < exit' does not hold in more than 1\.0% of the rows"):
        asked({site: data.assign(exit=data["entry"]) for site, data in sites.items()})
    with pytest.raises(AimerError, match="more than 20% of age is missing"):
        asked({site: data.assign(age=data["age"].where(np.arange(len(data)) % 2 == 0)) for site, data in sites.items()})


def test_small_counts_leave_in_secret_only(whole: pd.DataFrame) -> None:
    method, rows = quality(), whole.assign(sex=(whole["sex"] == "m") * 1.0)
    given = Frame({name: rows[name].to_numpy(np.float64) for name in rows.columns}, np.arange(len(rows), dtype=np.uint64))
    assert any("in some count" in reason for reason in method.against(given, Disclosure(), secure=False))
    assert not list(method.against(given, Disclosure(), secure=True))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"rules": ("age",)}, "is none"),
        ({"rules": ("height < 3",)}, "no number of the formula"),
        ({"rules": ("sex < 3",)}, "no number of the formula"),
        ({"rules": ("< 3",)}, "is none"),
    ],
)
def test_rules_that_are_none(changes: Any, fault: str) -> None:
    assert [fault in sentence for sentence in quality(**changes).faults()] == [True]
