"""What a study costs in privacy, against the accounting itself; and every demand that would break the guarantee is refused, with a remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from aimer2.core.errors import BadStudy
from aimer2.core.study import Study
from aimer2.privacy.accounting import Accountant, Spent, epsilon, gaussian, subsampled_gaussian
from aimer2.privacy.terms import terms
from aimer2.study.differential_privacy import calibration, faults
from aimer2.study.spending import spending

PRIVACY = {"epsilon": 3.0, "delta": 1e-5, "clip_norm": 1.0, "sampling_rate": 0.1}


def asked(privacy: Mapping[str, Any] | None = None, **changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "heart",
        "question": "Does this patient have a heart disease?",
        "purpose": "testing",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Test",
        "expires": "2090-01-01",
        "cohort": {
            "dataset": "heart",
            "minimum_patients": 100,
            "standardise": "range",
            "features": [{"name": "age", "minimum": 0, "maximum": 120}],
            "target": {"name": "disease"},
        },
        "model": {"name": "logistic"},
        "training": {"local_steps": 5},
        "method": {"rounds": 20},
        "privacy": {"differential_privacy": PRIVACY if privacy is None else privacy},
    }
    for place, change in changes.items():
        fields[place] = {**fields.get(place, {}), **change}
    return Study(**fields)


def whole(study: Study) -> list[Spent]:
    """What a site spends that does every task of the study once."""
    train, final = spending(study, "train"), spending(study, "final")
    assert train is not None
    return [train] * study.method.rounds + ([] if final is None else [final])


@pytest.mark.parametrize(("target", "held_out"), [(3.0, 0.2), (1.0, 0.2), (8.0, 0.0)])
def test_all_tasks_together_keep_to_the_stated_epsilon_and_use_it_up(target: float, held_out: float) -> None:
    study = asked(PRIVACY | {"epsilon": target, "evaluation_noise": 10.0}, evaluation={"held_out": held_out})
    # One by one, as a site's ledger has them, each entry's loss is rounded up once more.
    assert 0.97 * target < Accountant(whole(study)).epsilon(1e-5) <= target + 0.02
    assert terms(study).epsilon(20, evaluations=terms(study).evaluations) <= target


def test_the_noise_that_a_study_states_is_the_noise_it_spends() -> None:
    stated = {"noise_multiplier": 1.1, "delta": 1e-5, "clip_norm": 1.0, "sampling_rate": 0.01}
    study = asked(stated, method={"rounds": 100}, training={"local_steps": 10})
    assert spending(study, "train") == subsampled_gaussian(0.01, 1.1, 10)
    assert spending(study, "final") == gaussian(5.0)
    # Known answer J of dp-accounting: 1000 steps at q = 0.01, σ = 1.1.
    assert terms(study).epsilon(100) == pytest.approx(1.5154, abs=0.01)
    assert terms(study).epsilon_by_renyi(100) == pytest.approx(1.7118, abs=0.01)
    assert terms(study).epsilon(100, evaluations=1) == epsilon([subsampled_gaussian(0.01, 1.1, 1000), gaussian(5.0)], 1e-5)


def test_stages_that_tell_nothing_cost_nothing() -> None:
    assert spending(asked(), "preflight") is None
    assert spending(asked(), "moments") is None
    assert spending(asked(evaluation={"held_out": 0}), "final") is None
    assert spending(Study(**(asked().model_dump() | {"privacy": {}})), "train") is None


def test_a_smaller_epsilon_takes_more_noise_and_so_do_more_rounds() -> None:
    noise = [terms(study).noise_multiplier for study in (asked(), asked(PRIVACY | {"epsilon": 1.0}), asked(method={"rounds": 200}))]
    assert noise[0] < noise[1]
    assert noise[0] < noise[2]


def test_every_site_of_a_study_takes_the_same_rounded_noise() -> None:
    noise = terms(asked()).noise_multiplier
    assert noise == float(f"{noise:.3e}")


def test_nothing_true_of_a_single_site_is_in_the_expected_batch() -> None:
    assert terms(asked()).expected_batch == pytest.approx(10.0)


def test_the_calibration_is_told_in_lines_for_a_person() -> None:
    lines = calibration(asked())
    assert lines["privacy"].startswith("ε = 2.99")
    assert "assertion" not in lines["privacy"]
    assert lines["after rounds"].startswith("5: ε = 1.4")
    assert calibration(Study(**(asked().model_dump() | {"privacy": {}}))) == {}


def test_sound_terms_have_no_fault() -> None:
    assert faults(asked()) == []
    assert faults(asked(method={"name": "scaffold"})) == []
    assert faults(asked(model={"name": None, "code": "model.py"}, privacy=PRIVACY | {"asserted": True})) == []
    assert faults(Study(**(asked().model_dump() | {"privacy": {}}))) == []


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"delta": None}, {}, "privacy.differential_privacy.delta"),
    ({"clip_norm": None}, {}, "privacy.differential_privacy.clip_norm"),
    ({"sampling_rate": None}, {}, "privacy.differential_privacy.sampling_rate"),
    ({"epsilon": None}, {}, "privacy.differential_privacy"),
    ({"noise_multiplier": 1.0}, {}, "privacy.differential_privacy"),
    ({"clip_quantile": 0.5}, {}, "privacy.differential_privacy.clip_quantile"),
    ({"delta": 0.01}, {}, "privacy.differential_privacy.delta"),
    ({"sampling_rate": 0.001}, {}, "privacy.differential_privacy.sampling_rate"),
    ({"epsilon": 1000.0}, {}, "privacy.differential_privacy.epsilon"),
    ({"evaluation_noise": 0.5}, {}, "privacy.differential_privacy.epsilon"),
    ({"asserted": True}, {}, "privacy.differential_privacy.asserted"),
    ({}, {"training": {"local_steps": None}}, "training.local_steps"),
    ({}, {"training": {"local_steps": None, "local_epochs": 1}}, "training.local_epochs"),
    ({}, {"training": {"batch_size": 64}}, "training.batch_size"),
    ({}, {"training": {"mixed_precision": True}}, "training.mixed_precision"),
    ({}, {"model": {"framework": "numpy"}}, "model.framework"),
    ({}, {"model": {"name": "mlp", "options": {"batch_norm": True}}}, "model.options.batch_norm"),
    ({}, {"model": {"name": None, "code": "model.py"}}, "model.code"),
    ({}, {"method": {"name": "qfedavg"}}, "method.name"),
    ({}, {"method": {"name": "fedsgd"}}, "method.name"),
    ({}, {"method": {"name": "scaffold", "parameters": {"option": 1}}}, "method.parameters.option"),
    ({}, {"method": {"name": "fednova", "parameters": {"mu": 0.1}}}, "method.parameters.mu"),
    ({}, {"cohort": {"standardise": "federated"}}, "cohort.standardise"),
    ({}, {"cohort": {"standardise": "site"}}, "cohort.standardise"),
    ({}, {"cohort": {"missing": "mean"}}, "cohort.missing"),
    ({}, {"evaluation": {"metrics": ["log_loss"]}}, "evaluation.metrics"),
    ({}, {"evaluation": {"release_per_site": True}}, "evaluation.release_per_site"),
    ({}, {"training": {"accumulation": 2}}, "training.accumulation"),
    ({}, {"training": {"patience": 2}}, "training.patience"),
    ({}, {"training": {"optimiser": "module"}}, "training.optimiser"),
    ({}, {"cohort": {"target": {"name": "years", "kind": "survival", "event": "died"}}}, "cohort.target"),
    ({}, {"cohort": {"target": {"name": "age at death", "kind": "regression"}}}, "cohort.target.minimum"),
]


@pytest.mark.parametrize(("privacy", "changes", "place"), BAD, ids=[f"{place} {number}" for number, (_, _, place) in enumerate(BAD)])
def test_what_would_break_the_guarantee_is_refused_with_a_remedy(privacy: dict[str, Any], changes: dict[str, Any], place: str) -> None:
    found = {fault.place: fault for fault in faults(asked(PRIVACY | privacy, **changes))}
    assert place in found
    assert found[place].remedy


def test_terms_that_are_incomplete_cost_nothing_that_could_be_told() -> None:
    with pytest.raises(BadStudy):
        spending(asked(PRIVACY | {"delta": None}), "train")


@pytest.mark.parametrize("stage", ["preflight", "moments", "train", "final"])
def test_a_site_gets_no_price_for_a_study_that_nobody_checked(stage: Any) -> None:
    """So it refuses every task of it: sums of the columns, say, would leave without noise and without a charge."""
    with pytest.raises(BadStudy):
        spending(asked(cohort={"standardise": "federated"}), stage)
