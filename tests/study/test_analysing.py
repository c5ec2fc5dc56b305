"""Statistical questions as a study: whole, in one process, plain and in secret; and what a hospital refuses."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.duration.hazard_regression import PHReg

from aimer2.blobs.memory import MemoryStore
from aimer2.client.simulate import simulate
from aimer2.connectors.frame import from_frame
from aimer2.core.clock import SystemClock
from aimer2.core.dataset import Samples
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import AimerError, BadStudy, BadUpdate
from aimer2.core.study import Study
from aimer2.core.update import total
from aimer2.messages.package import Package, digest
from aimer2.site.check import expect
from aimer2.study.analysing import analyses_of, expected, local_of
from aimer2.study.check import check
from aimer2.study.pack import pack
from aimer2.study.plan import plan_of
from aimer2.study.statistician import frame_of

PLAIN: dict[str, Any] = {"secure_aggregation": False, "why_not_secure": "a test"}
DESCRIBE = {"name": "who", "method": "describe", "formula": '~ age + C(sex, "f", "m")'}


def study(*analyses: Mapping[str, Any], **fields: Any) -> Study:
    given = {
        "name": "asked",
        "question": "How are these patients?",
        "purpose": "a test",
        "ethics": "none needed",
        "principal_investigator": "Dr Ada Example",
        "expires": datetime.date(2100, 1, 1),
        "cohort": {"dataset": "d"},
        "analyses": analyses or (DESCRIBE,),
    }
    return Study(**{**given, **fields})


def hospitals(rows: int = 240) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(2)
    whole = pd.DataFrame({"age": rng.normal(60, 9, rows).round(1), "bmi": rng.gamma(9, 3, rows), "sex": pd.Categorical(rng.choice(["f", "m"], rows))})
    return {f"site-{place}": whole.iloc[place::3] for place in range(3)}


def pooled() -> pd.DataFrame:
    return pd.concat(hospitals().values())


@pytest.mark.parametrize("privacy", [{}, PLAIN], ids=["secret", "plain"])
def test_cox_regression_in_secret_follows_days_and_in_the_clear_intervals_with_enough_events(privacy: Any) -> None:
    rng = np.random.default_rng(4)
    age = rng.normal(60, 9, 300)
    time = np.ceil(rng.exponential(200 * np.exp(-(age - 60) / 20)))
    whole = pd.DataFrame({"age": age, "time": np.minimum(time, 300), "died": (time < 300) * 1.0})
    sites = {f"site-{place}": whole.iloc[place::3] for place in range(3)}
    days = [float(day) for day in range(1, 301)]
    asked = {"method": "cox", "formula": "Surv(time, died) ~ age", "options": {"sites": "pooled", "edges": days}}
    if privacy:
        with pytest.raises(AimerError, match="fewer than 10 patients have the event in some interval"):
            simulate(study(asked, privacy=privacy), sites)
        asked["options"] = {"sites": "pooled", "edges": [50.0, 100.0, 150.0, 300.0]}
    found = simulate(study(asked, privacy=privacy), sites).tables.frame()
    pooled = PHReg(whole["time"], whole[["age"]], whole["died"], ties="efron").fit(disp=0)
    np.testing.assert_allclose(found["estimate"], pooled.params, rtol=0.15 if privacy else 1e-8)


def test_a_saturated_model_and_a_rare_outcome_are_refused() -> None:
    rng = np.random.default_rng(1)
    sites = {f"site-{place}": pd.DataFrame({f"x{n}": rng.normal(size=40) for n in range(14)} | {"y": np.arange(40) < 3}) * 1.0 for place in range(3)}
    many = {"method": "glm", "formula": "x0 ~ " + " + ".join(f"x{n}" for n in range(1, 14))}
    with pytest.raises(AimerError, match="14 coefficients are too many"):
        simulate(study(many), sites)
    with pytest.raises(AimerError, match="fewer than 10 patients have one of the outcomes"):
        simulate(study({"method": "glm", "formula": "y ~ x0", "options": {"family": "binomial"}}), sites)
    with pytest.raises(AimerError, match="values that a binomial response cannot have"):
        simulate(study({"method": "glm", "formula": "x1 ~ x0", "options": {"family": "binomial"}}), sites)


@pytest.mark.parametrize("privacy", [{}, PLAIN], ids=["secret", "plain"])
def test_a_regression_in_secret_and_in_the_clear_are_one(privacy: Any) -> None:
    sites = {site: data.assign(heavy=(data["bmi"] + data["age"] > 85) * 1.0) for site, data in hospitals().items()}
    found = simulate(study({"method": "glm", "formula": "heavy ~ age", "options": {"family": "binomial"}}, privacy=privacy), sites).tables.frame()
    whole = pd.concat(sites.values())
    pooled = sm.Logit(whole["heavy"], sm.add_constant(whole[["age"]])).fit(disp=0, tol=1e-14)
    np.testing.assert_allclose(found["estimate"], pooled.params, rtol=1e-9)
    np.testing.assert_allclose(found["standard_error"], pooled.bse, rtol=1e-9)


@pytest.mark.parametrize("privacy", [{}, PLAIN], ids=["secret", "plain"])
def test_the_answers_are_the_pooled_ones(privacy: Any) -> None:
    two = (
        {**DESCRIBE, "options": {} if not privacy else {"quantiles": []}},
        {"name": "weight", "method": "describe", "formula": "~ log(bmi)", "options": {"quantiles": []}},
    )
    found = simulate(study(*two, privacy=privacy), hospitals())
    numbers = found.tables.frame("Numbers", analysis="who").iloc[0]
    assert numbers["mean"] == pytest.approx(pooled()["age"].mean(), rel=1e-13)
    assert found.tables.frame("Numbers", analysis="weight")["variance"][0] == pytest.approx(np.log(pooled()["bmi"]).var(), rel=1e-12)
    if not privacy:
        assert numbers["q50"] == pytest.approx(pooled()["age"].median(), rel=1e-8)
    assert [item["version"] for item in found.result["analyses"]] == [1, 1]
    assert json.loads(json.dumps(found.result, allow_nan=False)) == found.result
    assert not any(item["figures"] for item in found.result["rounds"])
    assert "45" in str(found.tables) or "mean" in str(found.tables)


def test_an_analysis_that_has_its_answer_asks_no_more() -> None:
    slow, fast = ({"name": name, "method": "describe", "formula": formula} for name, formula in (("slow", "~ age"), ("fast", '~ C(sex, "f", "m")')))
    analyses, sites = analyses_of(study(slow, fast)), hospitals()
    frames = [frame_of(study(slow, fast), from_frame(data, split_key=bytes(16))) for data in sites.values()]
    state, asked = analyses.init({}), []
    while not analyses.finished(state):
        received = analyses.broadcast(state)
        asked.append(set(received))
        number = state.round_number + 1
        state = analyses.update(state, total([analyses.local(received, local_of(frame, 1, "a", number)) for frame in frames]))
    assert asked[0] == {"slow", "fast"} and all(later == {"slow"} for later in asked[1:]) and len(asked) > 3
    assert {table.analysis for table in analyses.tables(analyses.model(state))} == {"slow", "fast"}


@pytest.mark.parametrize(
    ("changes", "limits", "reason"),
    [
        ({"privacy": PLAIN}, Disclosure(), "quantiles follow single patients"),
        ({}, Disclosure(minimum_cell=100), "fewer than 100 patients"),
        ({}, Disclosure(exact_values="never"), "quantiles follow single patients"),
        ({"analyses": ({**DESCRIBE, "options": {"quantiles": [0.0, 1.0]}},)}, Disclosure(), "minimum and maximum are single"),
        ({"cohort": {"dataset": "d", "minimum_patients": 500}}, Disclosure(), "fewer usable patients than the 500"),
        ({"analyses": ({**DESCRIBE, "formula": "~ weight"},)}, Disclosure(), "no column 'weight'"),
        ({"analyses": ({**DESCRIBE, "formula": '~ C(sex, "f", "x")'},)}, Disclosure(), "a category that the study does not list"),
        ({"analyses": ({**DESCRIBE, "formula": "~ age + log(zero)"},)}, Disclosure(), "has no value for some patients"),
    ],
)
def test_what_a_hospital_refuses(changes: Any, limits: Disclosure, reason: str) -> None:
    sites = {site: data.assign(zero=0.0) for site, data in hospitals().items()}
    with pytest.raises(AimerError, match=reason):
        simulate(study(**changes), sites, disclosure=limits)


def test_a_rare_category_is_refused_where_it_is_rare_and_the_others_answer() -> None:
    sites = hospitals()
    sites["site-1"] = sites["site-1"].assign(sex=pd.Categorical(["f"] * 3 + ["m"] * 77, categories=["f", "m"]))
    found = simulate(study(sites={"minimum": 2}, privacy=PLAIN, analyses=({**DESCRIBE, "options": {"quantiles": []}},)), sites)
    assert found.tables.table("Numbers").facts["patients"] == 160
    [absence] = found.result["sites"]["site-1"]["absences"]
    assert "fewer than 10 patients have sex = f" in absence["reason"]


@pytest.mark.parametrize(
    ("changes", "place", "problem"),
    [
        ({"model": {"name": "logistic"}}, "study", "leave out model"),
        ({"evaluation": {"held_out": 0.5}}, "study", "leave out evaluation"),
        ({"cohort": {"dataset": "d", "target": {"name": "y"}}}, "study", "leave out cohort.target"),
        ({"analyses": (DESCRIBE, DESCRIBE)}, "study", "same `name`"),
        ({"analyses": ({**DESCRIBE, "formula": "~ C(sex)"},)}, "study", "categories of sex are not given"),
        ({"analyses": ({**DESCRIBE, "formula": "age"},)}, "analyses[1]", "the formula ends"),
    ],
)
def test_faults_of_form(changes: Any, place: str, problem: str) -> None:
    with pytest.raises(BadStudy, match=problem) as caught:
        study(**changes)
    assert [fault.place for fault in caught.value.faults] == [place]


def test_faults_of_the_questions_are_told_all_at_once() -> None:
    asked = study(
        {"name": "a", "method": "divine", "formula": "~ age"},
        {"name": "b", "method": "describe", "formula": "y ~ age"},
        {"name": "c", "method": "describe", "formula": "~ age", "options": {"bins": -1, "colour": "red"}},
    )
    found = [(fault.place, fault.problem) for fault in check(asked, None, SystemClock())]  # type: ignore[arg-type]
    assert [place for place, _ in found] == [
        "analyses[1].method",
        "analyses[2].formula",
        "analyses[3].options.bins",
        "analyses[3].options.colour",
    ]


def packed(asked: Study) -> tuple[Package, MemoryStore]:
    blobs = MemoryStore()
    return pack(asked, None, {f"site-{place}": "key" for place in range(3)}, blobs), blobs  # type: ignore[arg-type]


def test_a_package_says_nothing_of_training_and_comes_back_the_same() -> None:
    package, _ = packed(study())
    written = json.loads(package.model_dump_json())
    assert not {"model", "training", "method", "evaluation"} & written["study"].keys() and written["versions"] == {"describe": 1}
    assert digest(Package.model_validate_json(package.model_dump_json())) == digest(package)


def test_the_agent_takes_the_sums_of_the_approved_questions_only() -> None:
    """The worker may be in a stranger's hand: names and shapes are those that nobody's data would give."""
    asked = study(privacy=PLAIN)
    package, blobs = packed(asked)
    plan = plan_of(package, digest(package), blobs)
    part = plan.parts[-1]
    received = {name: dict(leaves) for name, leaves in part.algorithm.broadcast(part.algorithm.init({})).items()}
    wanted = expect(asked, "analyse", {})
    assert wanted.names == frozenset() and wanted.layouts == {}
    sums = expected(asked, received, 1)
    assert sums["who"]["count"].shape == (1, 1) and sums["who"]["levels"].shape == (1, 3)
    with pytest.raises(BadUpdate, match="does not have"):
        expected(asked, {"another": {}}, 1)
    with pytest.raises(BadUpdate, match="not what the analyses send"):
        expected(asked, {"who": {"mean": np.zeros(7)}}, 2)


def test_rows_without_names_are_no_data_for_a_question() -> None:
    with pytest.raises(AimerError, match="named columns"):
        simulate(study(), {f"site-{place}": Samples(np.zeros((20, 2)), np.zeros(20)) for place in range(3)})
