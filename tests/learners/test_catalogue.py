from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.core.errors import BadModel, BadStudy, NotAvailable
from aimer2.core.study import Study
from aimer2.learners import catalogue
from aimer2.learners.catalogue import faults, make_learner
from aimer2.learners.optimisers import OPTIMISERS
from aimer2.learners.recipe import WITH_MOMENTUM
from aimer2.learners.tasks import OWN_OPTIMISER
from aimer2.learners.torch_descent import _OF_TORCH

IN_TORCH = ("sgd", *_OF_TORCH)


def study(model: dict[str, Any], kind: str = "binary", **training: Any) -> Study:
    categories = ("a", "b", "c") if kind == "multiclass" else ()
    return Study(
        name="catalogue",
        question="Which learner does this study get?",
        purpose="testing",
        ethics="none needed: no data",
        principal_investigator="Test",
        expires="2030-01-01",
        cohort={"dataset": "none", "features": [{"name": "x"}], "target": {"name": "y", "kind": kind, "categories": categories}},
        model=model,
        training=training,
        privacy={"secure_aggregation": False, "why_not_secure": "a test"},
    )


def places(checked: Study) -> list[str]:
    return [fault.place for fault in faults(checked)]


def test_every_fault_is_reported_at_once() -> None:
    bad = study({"framework": "numpy", "name": "mlp"}, optimiser="adam", schedule="warm", mixed_precision=True)
    assert places(bad) == ["training.optimiser", "training.schedule", "training.mixed_precision", "model.name"]
    with pytest.raises(BadStudy) as caught:
        make_learner(bad, feature_shape=(2,), files={})
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize("optimiser", IN_TORCH)
def test_momentum_is_refused_where_it_would_be_ignored(optimiser: str) -> None:
    checked = study({"name": "mlp"}, optimiser=optimiser, momentum=0.9)
    assert places(checked) == ([] if optimiser in WITH_MOMENTUM else ["training.momentum"])
    if optimiser in WITH_MOMENTUM:
        make_learner(checked, feature_shape=(2,), files={}, device="cpu")


def test_the_table_names_the_optimisers_that_there_are() -> None:
    assert set(catalogue._FRAMEWORKS["torch"].optimisers) == {*IN_TORCH, OWN_OPTIMISER}
    assert set(catalogue._FRAMEWORKS["keras"].optimisers) == set(OPTIMISERS)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_code_of_the_study_is_built_with_its_options(tmp_path: Path, framework: str) -> None:
    path = tmp_path / "model.py"
    path.write_text(
        "from torch import nn\nfrom aimer2.models.linear import Logistic\n"
        "def build(features, classes, kind):\n"
        "    assert (features, classes) == (3, 2)\n"
        "    return Logistic(features) if kind == 'numpy' else nn.Linear(features, 1)\n"
    )
    checked = study({"framework": framework, "code": "model.py", "options": {"kind": framework}})
    learner = make_learner(checked, feature_shape=(3,), files={"model.py": path}, device="cpu")
    assert sum(leaf.size for leaf in learner.parameters().values()) == 4


def test_code_for_images_gets_their_shape(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(
        "from torch import nn\ndef build(features, classes): c, h, w = features; return nn.Sequential(nn.Flatten(), nn.Linear(c*h*w, classes))"
    )
    checked = study({"code": "model.py"}, "multiclass")
    learner = make_learner(checked, feature_shape=(1, 4, 5), files={"model.py": path}, device="cpu")
    assert learner.parameters()["1.weight"].shape == (3, 20)


@pytest.mark.parametrize(
    "body",
    [
        "raise KeyError('patient 4711')",
        "return nn.Linear(features + 1, 1)",
        "return nn.Linear(features, 1, patient_4711=1)",
        "return nn.LazyLinear(1)",
        "return None",
    ],
)
def test_code_that_fails_is_a_bad_model_without_its_words(tmp_path: Path, body: str) -> None:
    path = tmp_path / "model.py"
    path.write_text(f"from torch import nn\ndef build(features, classes):\n    {body}\n")
    with pytest.raises(BadModel) as caught:
        make_learner(study({"code": "model.py"}), feature_shape=(3,), files={"model.py": path}, device="cpu")
    assert "4711" not in str(caught.value)


def test_code_that_is_not_with_the_study_is_refused() -> None:
    with pytest.raises(BadModel, match=r"model\.py"):
        make_learner(study({"code": "model.py"}), feature_shape=(3,), files={})


def test_untrained_weights_are_the_same_at_every_call() -> None:
    one, two = (make_learner(study({"name": "mlp"}), feature_shape=(3,), files={}, device="cpu").parameters() for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_neither_the_table_nor_a_numpy_study_loads_a_framework_or_pandas() -> None:
    program = (
        "import sys; import aimer2.learners.catalogue, aimer2.learners.numpy, aimer2.models.catalogue as m; m.available('torch');"
        "m.faults('torch', 'mlp', 2, {}); m.build('numpy', 'logistic', (3,), 2, {});"
        "print({'torch', 'tensorflow', 'keras', 'sklearn', 'pandas', 'scipy'} & set(sys.modules))"
    )
    assert run(program).strip() == "set()"


@pytest.mark.parametrize(("framework", "library"), [("torch", "torch"), ("keras", "tensorflow"), ("keras", "keras"), ("sklearn", "sklearn")])
def test_a_missing_framework_is_named_with_its_extra(framework: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(NotAvailable, match=framework) as caught:
        make_learner(study({"framework": framework, "name": "logistic"}), feature_shape=(3,), files={})
    assert f"pip install 'aimer2[{framework}]'" in caught.value.advice


def test_a_missing_framework_is_not_loaded_to_find_out() -> None:
    program = (
        "import sys; sys.modules['keras'] = None\n"
        "from aimer2.core.errors import NotAvailable\nfrom aimer2.core.study import Study\nfrom aimer2.learners.catalogue import make_learner\n"
        f"study = Study(**{study({'framework': 'keras', 'name': 'mlp'}).model_dump(mode='json')!r})\n"
        "try: make_learner(study, feature_shape=(3,), files={})\n"
        "except NotAvailable as error: print('tensorflow' in sys.modules)"
    )
    assert run(program).strip() == "False"
