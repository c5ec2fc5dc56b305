"""A researcher who asks statistical questions in order to learn of single patients: each attack succeeds where the hospital's limits are off, and is
refused, with the reason, as they are without a word of the hospital."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aimer2.client.simulate import simulate
from aimer2.client.tables import Tables
from aimer2.connectors.frame import from_frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import AimerError
from aimer2.core.study import Study
from aimer2.site.questions import Asking, Questions
from aimer2.statistics.statistic import loaded
from aimer2.study.analysing import analyses_of, local_of
from aimer2.study.asked import Asked, asked_of, cohorts_of
from aimer2.study.statistician import frame_of

PLAIN: dict[str, Any] = {"secure_aggregation": False, "why_not_secure": "a test"}
OFF = Disclosure(minimum_cell=1, patients_per_parameter=1, together="always", questions=10_000)
GUARDED = Disclosure()


def study(*analyses: dict[str, Any], investigator: str = "Dr Eve Example") -> Study:
    return Study(
        name="asked",
        question="Who of them is ill, one by one?",
        purpose="a test",
        ethics="none needed",
        principal_investigator=investigator,
        expires=datetime.date(2100, 1, 1),
        cohort={"dataset": "d", "minimum_patients": 1},
        sites={"minimum": 1},
        privacy=PLAIN,
        analyses=[{"name": f"q{place}", **one} for place, one in enumerate(analyses)],
    )


def regression(formula: str, **options: Any) -> dict[str, Any]:
    return {"method": "glm", "formula": formula, "options": options}


class Hospital:
    """One site with its memory of questions; whether it answers is its own code's word, the answer that of the method's two halves."""

    def __init__(self, data: pd.DataFrame, limits: Disclosure, path: Path) -> None:
        self.table = from_frame(data, split_key=bytes(16))
        self.limits = limits
        self.memory = Questions(path / "questions.sqlite")
        self.now = 0.0

    def ask(self, asked: Study, *, secure: bool = False) -> Tables:
        frame, analyses = frame_of(asked, self.table), analyses_of(asked)
        reasons = [reason for method in analyses.methods.values() for reason in method.against(frame, self.limits, secure=secure)]
        questions = asked_of(asked, cohorts_of(analyses.methods, frame), np.unique(frame.patients))
        asking = Asking(str(hash(asked.model_dump_json())), "d", asked.principal_investigator, questions)
        reasons += [often] if (often := self.memory.too_many(asking, self.limits, self.now)) else []
        reasons += [] if self.limits.allows_together(secure=secure) else self.memory.together(asking, self.limits)
        if reasons:
            raise PermissionError("; ".join(reasons))
        self.memory.remember(asking, self.now)
        state = analyses.init({})
        while not analyses.finished(state):
            received = {name: loaded(values) for name, values in analyses.broadcast(state).items()}
            state = analyses.update(state, analyses.local(received, local_of(frame, 1, "a", state.round_number + 1)))
        return Tables(analyses.tables(analyses.model(state)))


def patients(rows: int, known: int = 0) -> pd.DataFrame:
    """``ill`` is what nobody may learn of one patient; the columns k1, k2, … are what the researcher knows of each from elsewhere."""
    rng = np.random.default_rng(7)
    columns = {f"k{place + 1}": rng.normal(size=rows) for place in range(known)}
    return pd.DataFrame({"age": rng.normal(60, 9, rows).round(), "ill": (rng.random(rows) < 0.3) * 1.0, **columns})


def test_a_cell_of_three_patients() -> None:
    data = patients(60).assign(hiv=pd.Categorical(["yes"] * 3 + ["no"] * 57, categories=["no", "yes"]))
    asked = study({"method": "describe", "formula": '~ C(hiv, "no", "yes")', "options": {"quantiles": []}})
    assert 3 in simulate(asked, {"a": data}, disclosure=OFF).tables.frame("Categories")["count"].tolist()
    with pytest.raises(AimerError, match="fewer than 10 patients have hiv = yes"):
        simulate(asked, {"a": data}, disclosure=GUARDED)


def test_a_hospital_of_one_patient() -> None:
    data = patients(1)
    asked = study({"method": "describe", "formula": "~ age", "options": {"quantiles": []}})
    assert simulate(asked, {"a": data}, disclosure=OFF).tables.frame("Numbers")["mean"].tolist() == data["age"].tolist()
    with pytest.raises(AimerError, match="fewer than 10 patients"):
        simulate(asked, {"a": data}, disclosure=GUARDED)


def test_a_rare_category_as_a_term() -> None:
    """The category's coefficient is the outcome of the one patient who has it."""
    data = patients(80).assign(job=pd.Categorical(["mayor"] + ["other"] * 79, categories=["other", "mayor"]))
    asked = study(regression('ill ~ C(job, "other", "mayor")'))
    found = simulate(asked, {"a": data}, disclosure=OFF).tables.frame()["estimate"]
    assert found.sum() == pytest.approx(data["ill"][0], abs=1e-9)
    with pytest.raises(AimerError, match="fewer than 10 patients have job = mayor"):
        simulate(asked, {"a": data}, disclosure=GUARDED)


def test_a_saturated_model() -> None:
    """Of forty patients with as many known numbers the fitted values are the outcomes."""
    data = patients(40, known=39)
    known = [f"k{place + 1}" for place in range(39)]
    asked = study(regression("ill ~ " + " + ".join(known)))
    found = simulate(asked, {"a": data}, disclosure=OFF).tables.frame().set_index("term")["estimate"]
    fitted = found["intercept"] + data[known] @ found[known]
    np.testing.assert_allclose(fitted, data["ill"], atol=1e-6)
    with pytest.raises(AimerError, match="40 coefficients are too many"):
        simulate(asked, {"a": data}, disclosure=GUARDED)


def three_without_crp() -> pd.DataFrame:
    data = patients(100)
    return data.assign(crp=np.where(np.arange(100) < 3, np.nan, 5.0 + data["age"] / 9))


def differenced(hospital: Hospital) -> float:
    """How many of the three patients without a CRP are ill: offsets of 0 leave out who has none."""
    whole, part = (hospital.ask(study(regression(formula))) for formula in ("ill ~ 1", "ill ~ 1 + offset(crp)"))
    crp = three_without_crp()["crp"].dropna()
    return float(100 * whole.frame()["estimate"][0] - 97 * part.frame()["estimate"][0] - crp.sum())


def test_a_pair_of_questions_that_differ_by_three_patients(tmp_path: Path) -> None:
    data = three_without_crp()
    assert differenced(Hospital(data, OFF, tmp_path)) == pytest.approx(data["ill"][:3].sum(), abs=1e-6)
    (tmp_path / "guarded").mkdir()
    guarded = Hospital(data, GUARDED, tmp_path / "guarded")
    with pytest.raises(PermissionError, match="those of another question but for fewer than 10"):
        differenced(guarded)
    guarded.ask(study(regression("ill ~ 1 + offset(crp)")), secure=True)
    guarded.ask(study(regression("ill ~ age")))


def test_the_same_question_of_a_snapshot_with_one_patient_more(tmp_path: Path) -> None:
    data = patients(101)
    first, second = (Hospital(data.iloc[:rows], GUARDED, tmp_path) for rows in (100, 101))
    first.ask(study(regression("ill ~ age")))
    with pytest.raises(PermissionError, match="fewer than 10"):
        second.ask(study(regression("ill ~ age")))
    first.ask(study(regression("ill ~ age"), investigator="Dr Bob Example"))


def broken(hospital: Hospital, *rules: str) -> Any:
    asked = study({"method": "data_quality", "formula": "~ age", "options": {"rules": list(rules), "gate": False}})
    return hospital.ask(asked).frame("Rules")["broken"].to_numpy()


@pytest.mark.parametrize("second", ["age <= 61", "62 <= age"])
def test_two_rules_that_part_few_patients_differently(tmp_path: Path, second: str) -> None:
    """How many patients are 61, as the difference of two counts; in one question or in two, and the other way round."""
    data = patients(200).assign(age=lambda one: one["age"].where(one["age"] != 61, 62))
    data.loc[:2, "age"] = 61.0
    above, other = broken(Hospital(data, OFF, tmp_path), "age <= 60", second)
    assert above - (other if second == "age <= 61" else 200 - other) == 3
    (tmp_path / "guarded").mkdir()
    guarded = Hospital(data, GUARDED, tmp_path / "guarded")
    with pytest.raises(PermissionError, match="those of another question but for fewer than 10"):
        broken(guarded, "age <= 60", second)
    broken(guarded, "age <= 60", "60 < age")
    with pytest.raises(PermissionError, match="those of another question but for fewer than 10"):
        broken(guarded, second)


def test_rules_add_up_as_coefficients(tmp_path: Path) -> None:
    """Each cuts twelve patients or more off the others: 60 patients are too few for more than 20 terms of a column."""
    data = patients(60).assign(age=np.repeat([30.0, 40, 50, 60, 70], 12))
    wanted = [f"age <= {cut + place / 10}" for cut in (30, 40, 50) for place in range(7)]
    hospital = Hospital(data, GUARDED, tmp_path)
    broken(hospital, *wanted[:18])
    with pytest.raises(PermissionError, match="21 coefficients would be told of age"):
        broken(hospital, wanted[18])


def counted(hospital: Hospital, highest: float = 100.0) -> None:
    """How many patients are in each of ten bins of age, and how many have none."""
    asked = study({"method": "data_quality", "formula": "~ age", "options": {"gate": False}}).model_dump(exclude_unset=True)
    asked["cohort"]["features"] = [{"name": "age", "minimum": 0, "maximum": highest}]
    hospital.ask(Study.model_validate(asked))


def test_histograms_with_other_edges_add_up_as_coefficients(tmp_path: Path) -> None:
    """Twelve patients of each age, in bins of ten: 60 patients are too few for the edges of three histograms."""
    data = patients(60).assign(age=np.repeat([25.0, 35, 45, 55, 65], 12))
    hospital = Hospital(data, GUARDED, tmp_path)
    for highest in (100.0, 100.0, 101.0):
        counted(hospital, highest)
    with pytest.raises(PermissionError, match="29 coefficients would be told of age"):
        counted(hospital, 102.0)


def test_two_counts_of_missing_values_that_differ_by_few(tmp_path: Path) -> None:
    """After a refresh one patient's value is gone: that it was hers, the difference of two counts tells."""
    data = patients(200).assign(age=np.repeat([25.0, 35, 45, 55, np.nan], 40))
    counted(Hospital(data, GUARDED, tmp_path))
    with pytest.raises(PermissionError, match="those of another question but for fewer than 10"):
        counted(Hospital(data.assign(age=data["age"].where(data.index != 50)), GUARDED, tmp_path))


def test_two_questions_of_one_plan_are_compared_too(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="q1: its patients, or those of a category"):
        Hospital(three_without_crp(), GUARDED, tmp_path).ask(study(regression("ill ~ age"), regression("ill ~ age + crp")))


def test_columns_that_have_nothing_in_common_are_not_compared(tmp_path: Path) -> None:
    hospital = Hospital(three_without_crp(), GUARDED, tmp_path)
    hospital.ask(study(regression("ill ~ age")))
    hospital.ask(study({"method": "describe", "formula": "~ crp", "options": {"quantiles": []}}), secure=False)


TERMS = [f"k{place + 1}" for place in range(180)]
OF_ONE_QUESTION = 60


def equations(hospital: Hospital, data: pd.DataFrame, questions: int) -> tuple[Any, Any]:
    """What the answers tell of the secret column: known products, and their sums over the patients, question by question until one is refused."""
    left: list[Any] = []
    right: list[Any] = []
    for place in range(questions):
        terms = TERMS[place * OF_ONE_QUESTION : (place + 1) * OF_ONE_QUESTION]
        try:
            found = hospital.ask(study(regression("ill ~ 0 + " + " + ".join(terms)))).frame()["estimate"].to_numpy()
        except PermissionError as refused:
            assert "too many for the patients here" in str(refused)
            break
        products = data[terms].to_numpy().T
        left.append(products)
        right.append(products @ products.T @ found)
    return np.concatenate(left), np.concatenate(right)


def guessed(known: Sequence[Any]) -> Any:
    left, right = known
    return np.linalg.lstsq(left, right, rcond=1e-10)[0]


def test_many_questions_give_a_secret_column_back_and_are_refused_in_time(tmp_path: Path) -> None:
    """Linear reconstruction (Dinur and Nissim 2003): 180 patients, as many things known of each, three regressions of sixty terms."""
    data = patients(180, known=180)
    everything = guessed(equations(Hospital(data, OFF, tmp_path), data, 3))
    np.testing.assert_array_equal(everything > 0.5, data["ill"] > 0.5)
    (tmp_path / "guarded").mkdir()
    some = equations(Hospital(data, GUARDED, tmp_path / "guarded"), data, 3)
    assert len(some[1]) == OF_ONE_QUESTION
    right = float(((guessed(some) > 0.5) == (data["ill"] > 0.5)).mean())
    nobody = float((data["ill"] < 0.5).mean())
    assert right <= nobody + 0.1, "a third of the equations guesses little better than that nobody is ill: by 0.06 on average over draws"


def test_small_questions_add_up_as_a_large_one(tmp_path: Path) -> None:
    """One term each; the 21st product of the secret column is the first that 60 patients are too few for. A term that was told is no new one."""
    hospital = Hospital(patients(60, known=21), GUARDED, tmp_path)
    for term in TERMS[:20]:
        hospital.ask(study(regression(f"ill ~ 0 + {term}")))
    with pytest.raises(PermissionError, match="21 coefficients would be told of ill"):
        hospital.ask(study(regression(f"ill ~ 0 + {TERMS[20]}")))
    hospital.ask(study(regression(f"ill ~ 0 + {TERMS[4]} + {TERMS[5]}")))


def test_a_secret_column_on_the_right_side_is_told_of_too(tmp_path: Path) -> None:
    """The sums hold X'X: whoever asks for a known column gets the secret one's products with all others. A swap of sides tells nothing new."""
    hospital = Hospital(patients(60, known=41), GUARDED, tmp_path)
    hospital.ask(study(regression("k41 ~ 0 + ill + " + " + ".join(TERMS[:19]))))
    with pytest.raises(PermissionError, match="21 coefficients would be told of ill"):
        hospital.ask(study(regression(f"{TERMS[20]} ~ 0 + ill")))
    hospital.ask(study(regression(f"ill ~ 0 + {TERMS[0]} + k41")))


def test_products_of_a_secret_column_are_told_in_pairs(tmp_path: Path) -> None:
    """60 patients allow seven coefficients, but not 7 · 8 / 2 sums of the secret column times two known ones and 7 with the outcome."""
    hospital = Hospital(patients(60, known=8), GUARDED, tmp_path)
    with pytest.raises(PermissionError, match="would be told of ill"):
        hospital.ask(study(regression("k8 ~ 0 + " + " + ".join(f"ill:{term}" for term in TERMS[:7]))))


def test_a_function_of_a_secret_column_is_an_equation_more(tmp_path: Path) -> None:
    hospital = Hospital(patients(60, known=20).assign(crp=lambda one: one["age"]), GUARDED, tmp_path)
    hospital.ask(study(regression("crp ~ 0 + " + " + ".join(TERMS[:20]))))
    with pytest.raises(PermissionError, match="21 coefficients would be told of crp"):
        hospital.ask(study(regression(f"log(crp) ~ 0 + {TERMS[0]}")))


def test_the_same_patients_under_another_data_set_s_name_are_the_same(tmp_path: Path) -> None:
    limits, everybody, cut = Disclosure(minimum_cell=1), np.arange(60, dtype=np.uint64), 30

    def together(dataset: str, terms: Sequence[str], of: Any) -> list[str]:
        asked = Asked("q", {"ill": terms}, {"": of}, {"": frozenset({"ill"})})
        asking = Asking(f"{dataset}{len(of)}", dataset, "Dr Eve Example", [asked])
        if not (found := memory.together(asking, limits)):
            memory.remember(asking, 0.0)
        return found

    memory = Questions(tmp_path / "questions.sqlite")
    assert not together("first", TERMS[:20], everybody)
    assert "21 coefficients" in together("second", TERMS[20:21], everybody)[0]
    assert not together("first", TERMS[:10], everybody[:cut] + np.uint64(1000)), "of other patients nothing was told"


def test_only_so_many_questions_of_one_researcher_in_a_month(tmp_path: Path) -> None:
    hospital = Hospital(patients(90), GUARDED.model_copy(update={"questions": 3}), tmp_path)
    asked = [study(regression(f"ill ~ {term}")) for term in ("1", "age", "log(age)", "sqrt(age)")]
    for one in asked[:3]:
        hospital.ask(one)
    hospital.ask(asked[2])
    with pytest.raises(
        PermissionError, match="Dr Eve Example has had 3 questions answered of this data set in the last 30 days, and this site answers 3"
    ):
        hospital.ask(asked[3])
    hospital.ask(study(regression("ill ~ sqrt(age)"), investigator="Dr Bob Example"))
    hospital.now += 31 * 86_400
    hospital.ask(asked[3])
