"""What every learner promises, whatever its framework: one suite over all of them, each made from a study through the one seam."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.core.dataset import Samples
from aimer2.core.errors import BadData, BadModel, BadUpdate, NotAvailable
from aimer2.core.protocols import Learner
from aimer2.core.study import Study
from aimer2.core.tree import Summed, Tree
from aimer2.learners.catalogue import make_learner

NUMPY_CODE = """
import numpy as np
from dataclasses import dataclass

@dataclass
class Hidden:
    features: int
    width: int = 4

    def initial(self, rng):
        return {"inner": rng.normal(size=(self.features, self.width)).astype(np.float32), "outer": rng.normal(size=self.width).astype(np.float32)}

    def gradient(self, parameters, features, targets):
        hidden = np.tanh(features @ parameters["inner"])
        error = hidden @ parameters["outer"] - targets
        back = np.outer(2 * error / len(error), parameters["outer"]) * (1 - hidden**2)
        return float(np.mean(error**2)), {"inner": features.T @ back, "outer": hidden.T @ (2 * error / len(error))}

    def predict(self, parameters, features):
        return np.tanh(features @ parameters["inner"]) @ parameters["outer"]

def build(features, classes, width=4):
    return Hidden(features, width)
"""
TORCH_CODE = """
from torch import nn

class Named(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.norm = nn.BatchNorm1d(features)
        self.head = nn.Linear(features, 1 if classes < 3 else classes)

    def forward(self, x):
        return self.head(self.norm(x))

def build(features, classes):
    return Named(features, classes)
"""

SKLEARN_CODE = """
import numpy as np
from sklearn.neural_network import MLPClassifier

class Network:
    def __init__(self, features, classes):
        self.inner = MLPClassifier(hidden_layer_sizes=(4,), solver="sgd", momentum=0.0, shuffle=False, random_state=1)
        self.inner.partial_fit(np.zeros((2, features)), [0, 0], classes=np.arange(classes))

    def get_parameters(self):
        return {f"part.{number}": array for number, array in enumerate([*self.inner.coefs_, *self.inner.intercepts_])}

    def set_parameters(self, parameters):
        for name, array in self.get_parameters().items():
            array[...] = parameters[name]

    def fit(self, features, targets, learning_rate):
        self.inner._optimizer.learning_rate = learning_rate
        self.inner.partial_fit(features, targets)

    def predict_proba(self, features):
        return self.inner.predict_proba(features)

def build(features, classes):
    return Network(features, classes)
"""


@dataclass(frozen=True)
class Case:
    framework: str
    kind: str
    name: str | None = None
    code: str | None = None
    shape: tuple[int, ...] = (5,)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> dict[str, Any]:
        """Cox regression is linear here, a network tells of intervals."""
        return {"intervals": (0.5, 1.0, 2.0)} if self.kind == "survival" and self.name == "mlp" else {}

    @property
    def corrects(self) -> bool:
        return self.framework != "sklearn"

    @property
    def stirring(self) -> dict[str, Any]:
        """A training that leaves traces of what went before, where there is one."""
        return {"momentum": 0.5, "weight_decay": 0.1} if self.corrects else {}


CASES = {
    "numpy-linear": Case("numpy", "regression", "linear"),
    "numpy-logistic": Case("numpy", "binary", "logistic"),
    "numpy-logistic-without-intercept": Case("numpy", "binary", "logistic", options={"intercept": False}),
    "numpy-multinomial": Case("numpy", "multiclass", "multinomial"),
    "numpy-code": Case("numpy", "regression", code=NUMPY_CODE, options={"width": 3}),
    "torch-linear": Case("torch", "regression", "linear"),
    "torch-logistic": Case("torch", "binary", "logistic"),
    "torch-multinomial": Case("torch", "multiclass", "logistic"),
    "torch-mlp": Case("torch", "binary", "mlp", options={"hidden": [8, 4]}),
    "torch-mlp-dropout-batch-norm": Case("torch", "multiclass", "mlp", options={"hidden": [8], "dropout": 0.3, "batch_norm": True}),
    "torch-cnn": Case("torch", "multiclass", "cnn", shape=(1, 8, 8), options={"channels": [4, 8], "dropout": 0.1}),
    "torch-code": Case("torch", "binary", code=TORCH_CODE),
    "torch-multilabel": Case("torch", "multilabel", "mlp", options={"hidden": [8]}),
    "torch-cox": Case("torch", "survival", "linear"),
    "torch-intervals": Case("torch", "survival", "mlp", options={"hidden": [8]}),
    "keras-mlp-dropout-batch-norm": Case("keras", "multiclass", "mlp", options={"hidden": [8], "dropout": 0.3, "batch_norm": True}),
    "sklearn-linear": Case("sklearn", "regression", "linear"),
    "sklearn-logistic": Case("sklearn", "binary", "logistic", options={"penalty": "l2", "alpha": 0.01}),
    "sklearn-multinomial-without-intercept": Case("sklearn", "multiclass", "logistic", options={"intercept": False}),
    "sklearn-code": Case("sklearn", "multiclass", code=SKLEARN_CODE),
}
CORRECTED = pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.corrects], indirect=True)
METRICS = {
    "binary": ["auc", "brier"],
    "multiclass": ["accuracy"],
    "regression": ["rmse"],
    "multilabel": ["auc_by_label"],
    "survival": ["concordance"],
}
TARGETS: dict[str, dict[str, Any]] = {
    "multiclass": {"categories": ("a", "b", "c")},
    "multilabel": {"labels": ("a", "b")},
    "survival": {"event": "e"},
}


def study(case: Case, **training: Any) -> Study:
    model = {"framework": case.framework, "name": case.name, "code": "model.py" if case.code else None, "options": case.options}
    return Study(
        name="contract",
        question="Does every learner keep its promises?",
        purpose="testing",
        ethics="none needed: drawn numbers",
        principal_investigator="Test",
        expires="2030-01-01",
        cohort={
            "dataset": "drawn",
            "features": [{"name": "x"}],
            "target": {"name": "y", "kind": case.kind, **TARGETS.get(case.kind, {}), **case.target},
        },
        model=model,
        training={"learning_rate": 0.1, **training},
        method={"rounds": 8},
        evaluation={"metrics": METRICS[case.kind]},
        privacy={"secure_aggregation": False, "why_not_secure": "a test"},
    )


Make = Callable[..., Learner]


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    found = CASES[request.param]
    if found.framework == "keras":
        request.getfixturevalue("tensorflow")
    return found


@pytest.fixture
def make(case: Case, tmp_path: Path) -> Make:
    """Makes the case's learner on the CPU; keywords are those of the study's training."""
    path = tmp_path / "model.py"
    path.write_text(case.code or "")

    def made(**training: Any) -> Learner:
        learner = make_learner(study(case, **training), feature_shape=case.shape, files={"model.py": path}, device="cpu")
        learner.initialise(np.random.default_rng(5))
        return learner

    return made


def drawn(case: Case, rows: int = 37, seed: int = 3) -> Samples:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, *case.shape))
    if case.kind == "regression":
        return Samples(features, features.reshape(rows, -1)[:, 0] + 1)
    if case.kind == "multilabel":
        return Samples(features, rng.integers(0, 2, (rows, 2)))
    if case.kind == "survival":
        return Samples(features, np.stack((rng.exponential(size=rows), rng.integers(0, 2, rows)), axis=1))
    return Samples(features, rng.integers(0, 3 if case.kind == "multiclass" else 2, rows))


def copied(tree: Tree) -> dict[str, np.ndarray]:
    return {name: np.array(leaf) for name, leaf in tree.items()}


def same_bits(a: Tree, b: Tree) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in a)


def fitted(learner: Learner, data: Samples, seed: int = 9, round_number: int = 1, batch_size: int | None = 8) -> Tree:
    learner.fit(data, steps=7, batch_size=batch_size, round_number=round_number, rng=np.random.default_rng(seed))
    return learner.parameters()


def trained_names(learner: Learner) -> set[str]:
    return set(learner.parameters()) - learner.buffers


def test_what_is_loaded_comes_back_to_the_last_bit(case: Case, make: Make) -> None:
    learner = make()
    rng = np.random.default_rng(1)
    given = {name: rng.normal(size=leaf.shape).astype(leaf.dtype) for name, leaf in learner.parameters().items()}
    learner.load(given)
    assert same_bits(learner.parameters(), given)
    assert all(leaf.dtype in (np.float32, np.float64) for leaf in learner.parameters().values())


def test_read_only_arrays_can_be_loaded(make: Make, recwarn: pytest.WarningsRecorder) -> None:
    learner = make()
    given = copied(learner.parameters())
    for leaf in given.values():
        leaf.flags.writeable = False
    learner.load(given)
    assert same_bits(learner.parameters(), given)
    assert not recwarn.list


def test_arrays_that_lie_in_files_can_be_loaded(make: Make) -> None:
    learner = make()
    halves = {name: leaf / 2 for name, leaf in learner.parameters().items()}
    whole = {name: Summed([leaf, leaf]) for name, leaf in halves.items()}
    expected = copied(learner.parameters())
    assert {name: np.asarray(leaf).shape for name, leaf in learner.native(whole).items()} == {name: leaf.shape for name, leaf in expected.items()}
    learner.load({name: np.zeros_like(leaf) for name, leaf in halves.items()})
    learner.load(whole)
    assert same_bits(learner.parameters(), expected)


def test_arrays_handed_out_and_taken_in_do_not_change_afterwards(case: Case, make: Make) -> None:
    learner = make()
    given = copied(learner.parameters())
    kept = copied(given)
    learner.load(given)
    out = learner.parameters()
    after = fitted(learner, drawn(case))
    assert same_bits(given, kept), "fit wrote into what was loaded"
    assert same_bits(out, kept), "fit wrote into what was handed out"
    trained = copied(after)
    learner.load(kept)
    assert same_bits(after, trained), "load wrote into what was handed out"
    assert not same_bits(after, kept)


def test_the_same_stream_gives_the_same_untrained_weights(make: Make) -> None:
    one, two = make(), make()
    one.initialise(np.random.default_rng(5))
    assert same_bits(one.parameters(), two.parameters())


def test_the_same_stream_gives_the_same_bits_and_another_does_not(case: Case, make: Make) -> None:
    data = drawn(case)
    assert same_bits(fitted(make(), data), fitted(make(), data))
    assert not same_bits(fitted(make(), data), fitted(make(), data, seed=10))


def test_a_restarted_worker_goes_on_with_the_same_bits(case: Case, make: Make) -> None:
    data = drawn(case)
    training = {**case.stirring, "schedule": "cosine"}
    warm, start = make(**training), make().parameters()
    for round_number in (1, 2, 3):
        warm.load(start)
        warm.evaluate(data)
        fresh = make(**training)
        fresh.load(start)
        received = copied(start)
        start = copied(fitted(warm, data, seed=round_number, round_number=round_number))
        assert same_bits(start, fitted(fresh, data, seed=round_number, round_number=round_number))
        assert not same_bits(start, received)


def test_no_steps_leave_the_parameters(case: Case, make: Make) -> None:
    learner = make()
    before = copied(learner.parameters())
    loss = learner.fit(drawn(case), steps=0, batch_size=4, round_number=1, rng=np.random.default_rng(0))
    assert same_bits(learner.parameters(), before)
    assert loss == 0.0


def test_training_lowers_the_loss(case: Case, make: Make) -> None:
    learner, data = make(), drawn(case)
    first = learner.fit(data, steps=1, batch_size=None, round_number=1, rng=np.random.default_rng(0))
    mean = learner.fit(data, steps=60, batch_size=None, round_number=1, rng=np.random.default_rng(0))
    last = learner.fit(data, steps=1, batch_size=None, round_number=1, rng=np.random.default_rng(0))
    assert last < mean < first or case.options.get("dropout")
    assert last < first


@CORRECTED
def test_the_correction_sees_every_weight_and_no_buffer(case: Case, make: Make) -> None:
    learner, seen = make(), []

    def look(parameters: Tree, gradients: Tree) -> Tree:
        seen.append(({n: tuple(p.shape) for n, p in parameters.items()}, {n: tuple(g.shape) for n, g in gradients.items()}))
        return gradients

    learner.fit(drawn(case), steps=3, batch_size=8, round_number=1, rng=np.random.default_rng(0), correction=look)
    shapes = {name: tuple(leaf.shape) for name, leaf in learner.parameters().items() if name not in learner.buffers}
    assert seen == [(shapes, shapes)] * 3


def layers(learner: Learner) -> dict[str, set[str]]:
    """Leaves by the part of the model that they belong to."""
    found: dict[str, set[str]] = {}
    for name in learner.parameters():
        found.setdefault(name.rpartition(".")[0] or name, set()).add(name)
    return found


def test_only_what_is_trainable_changes_and_all_is_trainable_again_afterwards(case: Case, make: Make) -> None:
    """Running means of parts that are left alone stay too; a correction sees the trainable weights and no other."""
    for part in layers(make()).values():
        learner, seen = make(**case.stirring), set()

        def look(parameters: Tree, gradients: Tree, seen: set[str] = seen) -> Tree:
            seen.update(parameters, gradients)
            return gradients

        before = copied(learner.parameters())
        options: dict[str, Any] = {"batch_size": 8, "round_number": 1, "rng": np.random.default_rng(0)}
        learner.fit(drawn(case), steps=3, correction=look if case.corrects else None, trainable=part, **options)
        after = learner.parameters()
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert changed <= part
        assert changed
        assert seen == (part - learner.buffers if case.corrects else set())
        learner.load(before)
        assert same_bits(fitted(learner, drawn(case)), fitted(make(**case.stirring), drawn(case)))


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if not case.corrects], indirect=True)
def test_a_correction_that_cannot_be_is_refused(case: Case, make: Make) -> None:
    with pytest.raises(NotAvailable, match="no gradients"):
        make().fit(drawn(case), steps=1, batch_size=None, round_number=1, rng=np.random.default_rng(0), correction=lambda p, g: g)


@CORRECTED
def test_a_correction_that_changes_nothing_changes_no_bit(case: Case, make: Make) -> None:
    data = drawn(case)
    corrected = make()
    corrected.fit(data, steps=7, batch_size=8, round_number=1, rng=np.random.default_rng(9), correction=lambda parameters, gradients: gradients)
    assert same_bits(corrected.parameters(), fitted(make(), data))


@CORRECTED
def test_a_corrected_step_is_the_formula(case: Case, make: Make) -> None:
    """w − η(g + μ(w − a)) with momentum 0, exactly: the gradient g is caught on its way."""
    learner, caught, mu = make(), {}, 0.25
    before = copied(learner.parameters())
    anchor = {name: leaf + np.asarray(0.5, leaf.dtype) for name, leaf in before.items()}
    native = learner.native(anchor)

    def pull(parameters: Tree, gradients: Tree) -> Tree:
        caught.update({name: np.asarray(gradient).copy() for name, gradient in gradients.items()})
        return {name: gradient + mu * (parameters[name] - native[name]) for name, gradient in gradients.items()}

    learner.fit(drawn(case), steps=1, batch_size=None, round_number=1, rng=np.random.default_rng(0), correction=pull)
    after = learner.parameters()
    for name in trained_names(learner):
        expected = before[name] - 0.1 * (caught[name] + mu * (before[name] - anchor[name]))
        tolerance = 1e-15 if after[name].dtype == np.float64 else 1e-7
        np.testing.assert_allclose(after[name], expected, rtol=4 * tolerance, atol=tolerance)


@CORRECTED
def test_momentum_and_weight_decay_are_the_formula(case: Case, make: Make) -> None:
    """v ← ρv + (g + λw), w ← w − ηv over three steps, g caught and made independent of w by the correction."""
    learner = make(momentum=0.5, weight_decay=0.1)
    start = copied(learner.parameters())
    constant = {name: np.full(leaf.shape, 0.3, leaf.dtype) for name, leaf in start.items()}
    native = learner.native(constant)
    learner.fit(
        drawn(case),
        steps=3,
        batch_size=None,
        round_number=1,
        rng=np.random.default_rng(0),
        correction=lambda parameters, gradients: {name: 1 * native[name] for name in gradients},
    )
    for name in trained_names(learner):
        weight, velocity = start[name].astype(np.float64), 0.0
        for _ in range(3):
            velocity = 0.5 * velocity + (0.3 + 0.1 * weight)
            weight = weight - 0.1 * velocity
        np.testing.assert_allclose(learner.parameters()[name], weight, rtol=1e-6, atol=1e-6)


@CORRECTED
@pytest.mark.parametrize(("schedule", "factors"), [("constant", {1: 1, 8: 1}), ("cosine", {1: 1, 5: 0.5}), ("step", {4: 1, 5: 0.1, 7: 0.01})])
def test_the_schedule_scales_the_step_of_a_round(case: Case, make: Make, schedule: str, factors: dict[int, float]) -> None:
    learner = make(schedule=schedule)
    start = copied(learner.parameters())
    ones = learner.native({name: np.ones_like(leaf) for name, leaf in start.items()})
    for round_number, factor in factors.items():
        learner.load(start)
        learner.fit(
            drawn(case),
            steps=1,
            batch_size=None,
            round_number=round_number,
            rng=np.random.default_rng(0),
            correction=lambda parameters, gradients: {name: 1 * ones[name] for name in gradients},
        )
        for name in trained_names(learner):
            np.testing.assert_allclose(start[name] - learner.parameters()[name], 0.1 * factor, rtol=1e-4, atol=1e-6)


def test_predictions_have_the_shape_and_range_of_the_target(case: Case, make: Make) -> None:
    scores = make().predict(drawn(case))
    assert scores.dtype == np.float64
    several = {"multiclass": (3,), "multilabel": (2,)}.get(case.kind, (3,) if case.target else ())
    assert scores.shape == (37, *several)
    if case.kind != "regression" and (case.kind != "survival" or several):
        assert ((scores >= 0) & (scores <= 1)).all()
    if case.kind == "multiclass":
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-9)


def test_evaluation_adds_up_over_parts_of_the_data(case: Case, make: Make) -> None:
    learner, data = make(), drawn(case)
    whole = learner.evaluate(data)
    parts = [learner.evaluate(Samples(data.features[part], data.targets[part])) for part in (slice(0, 11), slice(11, 11), slice(11, None))]
    assert whole.keys() == parts[0].keys() == parts[1].keys()
    # of a time to an event the pairs, and Cox's risk sets, are formed within a site
    within = () if case.kind != "survival" else ("pairs",) if case.target else ("pairs", "loss")
    for name, total in whole.items():
        if name in within:
            continue
        np.testing.assert_allclose(sum(part[name] for part in parts), total, rtol=1e-6, atol=1e-6)
    assert whole["count"] == [37]


def test_evaluation_changes_nothing(case: Case, make: Make) -> None:
    learner, data = make(), drawn(case)
    before = copied(learner.parameters())
    learner.evaluate(data)
    learner.predict(data)
    assert same_bits(learner.parameters(), before)
    assert same_bits(fitted(learner, data), fitted(make(), data))


def test_the_loss_evaluated_is_the_loss_trained(case: Case, make: Make) -> None:
    learner, data = make(), drawn(case)
    summed = learner.evaluate(data)["loss"][0]
    trained = learner.fit(data, steps=1, batch_size=None, round_number=1, rng=np.random.default_rng(0))
    behaves_alike = not (case.options.get("batch_norm") or case.options.get("dropout") or case.code == TORCH_CODE)
    assert (summed / len(data) == pytest.approx(trained, rel=1e-6)) == behaves_alike


@pytest.mark.parametrize("batch_size", [None, 8])
def test_features_that_are_no_numbers_leave_no_update(case: Case, make: Make, batch_size: int | None) -> None:
    data = drawn(case)
    data.features.reshape(-1)[7] = np.nan
    with pytest.raises(BadUpdate, match="not finite"):
        fitted(make(), data, batch_size=batch_size)
    with pytest.raises(BadUpdate, match="not finite"):
        make().evaluate(data)


def test_weights_of_another_model_are_refused(make: Make) -> None:
    learner = make()
    before = copied(learner.parameters())
    name = next(iter(before))
    for wrong in (
        {**before, name: np.zeros((*before[name].shape, 2))},
        {**before, "more": np.zeros(1)},
        {other: leaf for other, leaf in before.items() if other != name},
        {name: leaf.reshape(-1)[:1] if leaf.size > 1 else np.zeros(2) for name, leaf in before.items()},
    ):
        with pytest.raises(BadModel):
            learner.load(wrong)
    assert same_bits(learner.parameters(), before), "a refused load changed the model"


def test_data_of_another_form_are_refused(case: Case, make: Make) -> None:
    learner, data = make(), drawn(case)
    for call in (partial(fitted, learner), learner.evaluate):
        with pytest.raises(BadData, match="shape"):
            call(Samples(np.zeros((4, 3, 9)), np.zeros(4)))
        if case.kind != "regression":
            with pytest.raises(BadData, match=r"class numbers|event of 0 or 1"):
                call(Samples(data.features, data.targets + 2))
        with pytest.raises(BadData, match="finite"):
            call(Samples(data.features, np.full(37, np.nan)))
    with pytest.raises(BadData, match="at least"):
        fitted(learner, Samples(data.features[:0], data.targets[:0]))


def test_a_pass_may_end_in_a_batch_of_one_row(case: Case, make: Make) -> None:
    learner = make()
    loss = learner.fit(drawn(case, rows=9), steps=6, batch_size=4, round_number=1, rng=np.random.default_rng(0))
    assert np.isfinite(loss)


@dataclass(frozen=True)
class Streamed:
    """A data set that does not lie in memory: rows only come through ``batch``."""

    inner: Samples

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def targets(self) -> np.ndarray:
        return self.inner.targets

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.inner.feature_shape

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.inner.batch(rows)


def test_rows_read_as_needed_give_the_same_bits(case: Case, make: Make) -> None:
    data = drawn(case)
    streamed: Any = Streamed(data)
    assert same_bits(fitted(make(), data), fitted(make(), streamed))
    assert np.array_equal(make().predict(data), make().predict(streamed))


def test_another_data_set_is_not_mistaken_for_the_last(case: Case, make: Make) -> None:
    learner, first, second = make(), drawn(case), drawn(case, seed=4)
    start = copied(learner.parameters())
    fitted(learner, first)
    learner.load(start)
    assert same_bits(fitted(learner, second), fitted(make(), second))


def test_buffers_are_named(case: Case, make: Make) -> None:
    expected = {
        "torch-mlp-dropout-batch-norm": {"1.running_mean", "1.running_var"},
        "torch-code": {"norm.running_mean", "norm.running_var"},
        "keras-mlp-dropout-batch-norm": {"1.running_mean", "1.running_var"},
    }
    name = next(name for name, other in CASES.items() if other is case)
    assert make().buffers == expected.get(name, set())
    assert make().buffers <= make().parameters().keys()
