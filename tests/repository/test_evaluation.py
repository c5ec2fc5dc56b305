"""A version measured by a study of its own: the very model, the very inputs, and the patients that it says."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_versions import COORDINATOR, Made, frame, packed, signed, study_of
from sklearn.metrics import accuracy_score, roc_auc_score

from aimer2 import Study, evaluate
from aimer2.blobs.memory import MemoryStore
from aimer2.client.simulate import Simulation
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadStudy, NotFound, Tampered, VersionMismatch
from aimer2.core.task import FigureDocument
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import digest
from aimer2.messages.record import StudyRecord
from aimer2.repository.card import as_markdown, card
from aimer2.repository.compare import compare
from aimer2.repository.evaluation import Terms, evaluation_of
from aimer2.repository.prediction import predict
from aimer2.repository.verify import verify
from aimer2.repository.version import Version, open_version
from aimer2.site import approved
from aimer2.site.description import describe_request, what_leaves
from aimer2.study.check import check
from aimer2.study.evaluating import faults_of_package
from aimer2.study.events import RoundFinished, StageStarted
from aimer2.study.pack import pack
from aimer2.study.weights import read_origin

Make = Callable[..., Made]
TERMS = Terms(ethics="none needed: drawn numbers", principal_investigator="Dr Eva Test", expires=datetime.date(2090, 1, 1))
TREES = {
    "model": {"framework": "trees", "name": "boosted", "options": {"trees": 2, "max_depth": 2}},
    "method": {"name": "boosted_trees", "rounds": 5},
    "training": {},
}
COHORT = study_of().cohort.model_dump()


def measured(found: Simulation) -> dict[str, FigureDocument]:
    return {figure.name: figure for figure in found.figures}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"framework": "torch", "name": "mlp", "options": {"hidden": [4], "batch_norm": True}}, "cohort": COHORT | {"missing": "drop"}},
        {"cohort": COHORT | {"standardise": "site"}},
        {"model": {"framework": "numpy", "name": "logistic"}, "cohort": COHORT | {"standardise": "none"}},
        TREES,
    ],
    ids=["federated", "running means", "each site's own", "common mean alone", "trees"],
)
def test_on_the_patients_held_out_it_finds_what_the_study_found_that_made_it(make: Make, changes: dict[str, Any]) -> None:
    """The same weights, inputs and patients: another standardisation, split or model would show in the loss."""
    made = make(**changes)
    found = evaluate(made.version, {site: frame(number) for number, site in enumerate(("east", "north", "west"))}, terms=in_the_clear())
    assert found.result["figures"] == made.simulation.result["figures"]
    assert found.result["evaluation"] == {"of": made.version.digest, "dataset": "heart", "held_out": 0.2}
    assert found.result["model"]["sha256"] == made.version.model.sha256, "it stays as it is"
    assert [(event.stage, event.round_number) for event in found.events if isinstance(event, RoundFinished)] == [("preflight", 1), ("final", 1)]
    assert not any(isinstance(event, StageStarted) and event.stage == "train" for event in found.events)


def in_the_clear(**changes: Any) -> Terms:
    return replace(TERMS, why_not_secure="a test", **changes)


def new_hospitals() -> dict[str, pd.DataFrame]:
    """Older patients than those it was trained on: standardised by their own mean they would look like those."""
    found = {name: frame(seed) for name, seed in (("oslo", 11), ("pisa", 12), ("york", 13))}
    return {name: data.assign(age=data["age"] + 4 * place) for place, (name, data) in enumerate(found.items())}


def test_hospitals_that_are_new_to_it_measure_all_patients_in_secret(make: Make, tmp_path: Path) -> None:
    made, hospitals = make(), new_hospitals()
    found = evaluate(made.version, hospitals, terms=TERMS)
    assert found.result["privacy"]["secure_aggregation"]["sites"] == 3
    assert not found.result["released"]
    pooled = pd.concat(hospitals.values())
    pooled.to_csv(tmp_path / "pooled.csv", index=False)
    _, scores = predict(made.version, tmp_path / "pooled.csv")
    truth, figures = pooled["disease"].to_numpy(), measured(found)
    assert figures["accuracy"].n == len(pooled) == 240
    assert figures["accuracy"].value == pytest.approx(accuracy_score(truth, scores[:, 0] >= 0.5), abs=1e-9)
    assert figures["auc"].value == pytest.approx(roc_auc_score(truth, scores[:, 0]), abs=2e-3)
    plain = measured(evaluate(made.version, hospitals, terms=in_the_clear()))
    for name, figure in figures.items():
        assert figure.value == pytest.approx(plain[name].value, rel=1e-6), name


def test_each_site_s_own_figures_are_told_only_where_the_study_says_so(make: Make) -> None:
    made, hospitals = make(), new_hospitals()
    assert evaluate(made.version, hospitals, terms=in_the_clear()).result["released"] == {}
    told = evaluate(made.version, hospitals, terms=in_the_clear(release_per_site=True, metrics=("auc",))).result["released"]
    assert told.keys() == hospitals.keys()
    assert {figure["name"] for figures in told.values() for figure in figures} == {"auc"}
    assert all(figure["n"] % 5 == 0 for figures in told.values() for figure in figures)


def test_who_is_measured_follows_from_whom_it_was_trained_on(make: Make) -> None:
    version = make().version
    shares = {
        ("oslo", "york"): 1.0,
        ("north", "york"): 0.2,
        (): 0.2,
    }
    for sites, share in shares.items():
        assert evaluation_of(version, replace(TERMS, sites=sites)).evaluation.held_out == share
    assert evaluation_of(version, replace(TERMS, sites=("north",), patients="all")).evaluation.held_out == 1
    assert evaluation_of(version, replace(TERMS, sites=("york",), patients="held-out")).evaluation.held_out == 0.2
    nobody = make("nobody", evaluation={"held_out": 0}).version
    assert evaluation_of(nobody, replace(TERMS, patients="held-out")).evaluation.held_out == 1, "it was trained on all"


def drafted(version: Version, **changes: Any) -> Study:
    document = evaluation_of(version, replace(TERMS, sites=("oslo", "pisa", "york"))).model_dump()
    return Study(**(document | changes))


def test_its_document_says_that_nothing_is_trained_and_can_be_read_again(make: Make) -> None:
    version = make().version
    study = drafted(version)
    assert "method" not in study.model_dump(mode="json")
    assert study.methods == ("evaluation",) and study.rounds == 1
    assert Study(**study.model_dump()) == study
    assert version.weights is not None
    assert check(study, version.weights.parent, SystemClock()) == []
    with pytest.raises(BadStudy, match="leave out method"):
        drafted(version, method={"name": "fedprox"})
    assert "evaluates" not in study_of().model_dump(), "older studies keep their digests"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"cohort": COHORT | {"standardise": "none"}}, "cohort.standardise"),
        ({"cohort": COHORT | {"missing": "drop"}}, "cohort.missing"),
        ({"cohort": COHORT | {"features": COHORT["features"][:2]}}, "cohort.features"),
        ({"cohort": COHORT | {"target": {"name": "death"}}}, "cohort.target"),
        ({"cohort": COHORT | {"group": COHORT["features"][1]}}, "cohort.group"),
        ({"model": {"framework": "torch", "name": "mlp", "options": {"hidden": [9]}, "weights": "model.safetensors"}}, "model"),
        ({"model": {"framework": "keras", "name": "mlp", "options": {"hidden": [8]}, "weights": "model.safetensors"}}, "model.framework"),
        ({"model": {"framework": "torch", "name": "mlp", "options": {"hidden": [8]}}}, "model.weights"),
        ({"model": {"framework": "torch", "name": "mlp", "options": {"hidden": [8]}, "weights": "o.safetensors"}}, "model.weights (o.safetensors)"),
        ({"evaluates": "5e" * 32}, "evaluates"),
        ({"evaluation": {"held_out": 0}}, "evaluation.held_out"),
        ({"privacy": {"group_size": 3}}, "privacy.group_size"),
        ({"privacy": {"differential_privacy": {"epsilon": 3, "delta": 1e-4}}}, "privacy.differential_privacy"),
    ],
)
def test_what_it_cannot_measure_so_is_refused_with_its_place(make: Make, changes: dict[str, Any], place: str) -> None:
    version = make().version
    assert version.weights is not None
    found = check(drafted(version, **changes), version.weights.parent, SystemClock())
    assert [fault.place for fault in found] == [place]
    assert all(fault.remedy for fault in found)


def test_a_hospital_reads_what_is_measured_on_whom_and_what_leaves(make: Make) -> None:
    made = make()
    package = pack(drafted(made.version), made.weights.parent, {"oslo": "a", "pisa": "b", "york": "c"}, MemoryStore())
    text = "\n".join(describe_request(package, digest(package)))
    for said in ("nothing is trained", made.version.digest, made.version.model.sha256, "all patients", "shown with the model", "masked"):
        assert said in text
    for unsaid in ("difference", "each round", "fedavg", "before the first round: of each column", "under its name"):
        assert unsaid not in text
    document = drafted(made.version).model_dump() | {"evaluation": {"held_out": 0.2, "release_per_site": True}}
    assert "once, at the end: this site's own figures, under its name" in map(str, what_leaves(Study(**document)))
    assert [approved.rounds(package.study, stage) for stage in ("preflight", "moments", "train", "final")] == [1, 0, 0, 1]
    with pytest.raises(VersionMismatch, match="measured"):
        approved.require_methods(package.model_copy(update={"method_version": 99}))
    assert digest(package) != digest(package.model_copy(update={"moments": package.initial})), "what was approved is measured with"


def test_a_training_leaves_somebody_to_train_on() -> None:
    found = check(study_of(evaluation={"held_out": 1}), Path(), SystemClock())
    assert [fault.place for fault in found] == ["evaluation.held_out"]


def test_a_coordinator_that_knows_the_model_takes_no_other_weights_code_or_moments(make: Make) -> None:
    made = make()
    folder, blobs = made.weights.parent, MemoryStore()
    package = pack(drafted(made.version), folder, {}, blobs)
    assert package.initial.sha256 == made.version.model.sha256
    assert package.moments in package.blobs
    origin = read_origin(made.weights)
    assert faults_of_package(package, origin) == []
    other = pack(drafted(make("other", seed=2).version), folder.parent / "other", {}, blobs)
    changes: dict[str, dict[str, Any]] = {
        "initial": {"initial": other.initial},
        "moments": {"moments": other.initial},
        "files": {"files": {"model.py": other.initial}},
    }
    for place, change in changes.items():
        assert [fault.place for fault in faults_of_package(package.model_copy(update=change), origin)] == [place]
    for known in (origin, None):
        assert [fault.place for fault in faults_of_package(package.model_copy(update={"moments": None}), known)] == ["moments"]
    assert faults_of_package(package, None) == [], "a version of another coordinator"


def test_weights_must_be_at_hand(make: Make) -> None:
    with pytest.raises(NotFound, match="not at hand"):
        evaluate(replace(make().version, weights=None), new_hospitals())


def recorded(made: Made, *results: dict[str, Any], key: SigningKey = COORDINATOR) -> Version:
    evaluations = [signed(result, key) for result in results]
    record = StudyRecord.model_validate(made.record.model_dump() | {"evaluations": evaluations})
    return open_version(record, COORDINATOR.public, made.weights)


def test_the_card_and_the_comparison_tell_it_with_the_version(make: Make) -> None:
    first, second = make(), make("second", seed=2)
    ends = [evaluate(made.version, new_hospitals(), terms=in_the_clear()).result for made in (first, second)]
    inside = evaluate(first.version, {site: frame(9) for site in ("east", "north")}, terms=in_the_clear(patients="all")).result
    versions = recorded(first, ends[0], inside), recorded(second, ends[1])
    text = as_markdown(card(versions[0]))
    assert "Evaluated by heart-evaluation" in text and "oslo, pisa, york" in text
    assert ends[0]["study"] in text
    assert text.count("may flatter it") == 1, "of the sites whose patients it was trained on"
    value = next(figure["value"] for figure in ends[0]["figures"] if figure["name"] == "auc")
    assert f"{value:.3f}" in text
    assert all(finding.holds for finding in verify(versions[0]))
    found = compare(*versions).evaluations
    pair = found["auc (oslo, pisa, york: heart, all patients)"]
    assert pair[0] is not None and pair[0].value == value
    assert pair[1] is not None and pair[1].value == next(figure["value"] for figure in ends[1]["figures"] if figure["name"] == "auc")
    assert found["auc (east, north: heart, all patients)"][1] is None


def test_an_evaluation_of_another_model_or_of_somebody_else_is_not_believed(make: Make) -> None:
    first, second = make(), make("second", seed=2)
    other = evaluate(second.version, new_hospitals(), terms=in_the_clear()).result
    with pytest.raises(Tampered, match="another model"):
        recorded(first, other)
    with pytest.raises(Tampered, match="another model"):
        recorded(first, first.simulation.result)
    own = evaluate(first.version, new_hospitals(), terms=in_the_clear()).result
    with pytest.raises(Tampered, match="another model"):
        recorded(first, own | {"model": other["model"]})
    with pytest.raises(Exception, match="not known"):
        recorded(first, own, key=SigningKey.generate())


def test_a_record_without_evaluations_is_as_it_was(make: Make) -> None:
    assert "evaluations" not in make().record.model_dump(mode="json")
    assert "moments" not in packed(study_of()).model_dump(mode="json")
    assert np.isfinite(make("again").version.result["figures"][0]["value"])
