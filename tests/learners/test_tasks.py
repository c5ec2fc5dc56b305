"""What a study may not ask for at once."""

from __future__ import annotations

from typing import Any

import pytest

from aimer2.core.errors import NotAvailable
from aimer2.core.study import Method, Study
from aimer2.learners.catalogue import faults, make_vectorised

LABELS = {"name": "findings", "kind": "multilabel", "labels": ["effusion", "nodule"]}
COX = {"name": "time", "kind": "survival", "event": "death"}
DISCRETE = COX | {"intervals": [1, 2, 4]}
CLASSES = {"name": "y", "kind": "multiclass", "categories": ["a", "b", "c"]}


def make(target: dict[str, Any], *, framework: str = "torch", model: dict[str, Any] | None = None, **training: Any) -> Study:
    return Study(
        name="x",
        question="Does it fit together?",
        purpose="testing",
        ethics="none",
        principal_investigator="Test",
        expires="2090-01-01",
        cohort={"dataset": "x", "features": [{"name": "age"}], "target": target},
        model={"framework": framework, **(model or {"name": "mlp"})},
        training=training,
    )


@pytest.mark.parametrize(
    ("study", "place"),
    [
        (make(LABELS, framework="numpy", model={"code": "model.py"}), "cohort.target.kind"),
        (make(COX, framework="numpy", model={"code": "model.py"}), "cohort.target.kind"),
        (make({"name": "y"}, framework="numpy", model={"name": "logistic"}, accumulation=2), "training.accumulation"),
        (make({"name": "y"}, framework="numpy", model={"name": "logistic"}, class_weights=[1, 2]), "training.class_weights"),
        (make({"name": "y"}, framework="numpy", model={"name": "logistic"}, patience=2, local_epochs=5), "training.patience"),
        (make({"name": "y"}, class_weights=[1, 2, 3]), "training.class_weights"),
        (make(CLASSES, class_weights=[1, 2]), "training.class_weights"),
        (make(LABELS, class_weights=[1]), "training.class_weights"),
        (make(COX, class_weights=[1]), "training.class_weights"),
        (make(DISCRETE, ties="breslow"), "training.ties"),
        (make({"name": "y"}, ties="efron"), "training.ties"),
        (make(COX, accumulation=4), "training.accumulation"),
        (make({"name": "y"}, optimiser="module"), "training.optimiser"),
        (make({"name": "y"}, model={"code": "model.py"}, optimiser="module", learning_rate=0.01), "training.learning_rate"),
        (make({"name": "y"}, model={"code": "model.py"}, optimiser="module", schedule="cosine"), "training.schedule"),
        (make(LABELS, model={"name": "linear"}), "model.name"),
        (make(COX, model={"name": "logistic"}), "model.name"),
    ],
)
def test_each_fault_has_its_place_and_a_remedy(study: Study, place: str) -> None:
    (fault,) = faults(study)
    assert fault.place == place
    assert fault.remedy


@pytest.mark.parametrize(
    "study",
    [
        make(LABELS, class_weights=[1, 2], accumulation=4),
        make(LABELS, model={"name": "logistic"}),
        make(COX, model={"name": "linear"}, ties="breslow"),
        make(DISCRETE, accumulation=4, patience=2, local_epochs=5),
        make(CLASSES, class_weights=[1, 2, 3]),
        make({"name": "y"}, model={"code": "model.py"}, optimiser="module", accumulation=2),
    ],
)
def test_what_goes_together_has_none(study: Study) -> None:
    assert faults(study) == []


@pytest.mark.parametrize(
    ("study", "why"),
    [
        (make({"name": "y"}, framework="numpy", model={"name": "logistic"}), "PyTorch"),
        (make({"name": "y"}, patience=2, local_epochs=5), "early stopping"),
        (make({"name": "y"}, accumulation=2), "accumulation"),
        (make({"name": "y"}, mixed_precision=True), "mixed precision"),
        (make({"name": "y"}, model={"code": "model.py"}, optimiser="module"), "trains"),
        (make(COX), "Cox"),
        (make({"name": "y"}).model_copy(update={"method": Method(name="lora")}), "lora"),
        (make({"name": "y"}, model={"name": "mlp", "options": {"dropout": 0.2}}), "dropout"),
    ],
)
def test_sites_that_cannot_be_trained_in_one_computation_are_refused_before_any_is_asked(study: Study, why: str) -> None:
    with pytest.raises(NotAvailable, match=why):
        make_vectorised(study, feature_shape=(1,), files={})
