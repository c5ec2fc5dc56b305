"""What privacy costs: the same study of three made-up hospitals without differential privacy, and at smaller and smaller ε.

    pip install '.[demo,dp]'
    python examples/simulate_with_privacy.py

The data are the 569 biopsies of the Wisconsin breast cancer set that comes with scikit-learn; each is a patient. ε holds for each patient of a
hospital, against everybody who sees the updates, the model or its figures. The noise comes from the system's secure source, so no two runs are
the same. The last two columns are what nobody in a real study sees: the model's true figures over all biopsies, without noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import accuracy_score, roc_auc_score

from aimer2 import Study, simulate
from aimer2.study.partition import iid

RANGES = {
    "mean radius": (5, 30),
    "mean texture": (5, 40),
    "mean smoothness": (0.0, 0.2),
    "mean concavity": (0.0, 0.5),
    "mean symmetry": (0.1, 0.4),
}
"""Known of such measurements before anybody looks at the data: of the patients' own smallest and largest values they would tell."""


def study(epsilon: float | None) -> Study:
    terms = {"epsilon": epsilon, "delta": 1e-4, "clip_norm": 1.0, "sampling_rate": 0.1}
    return Study(
        name="breast-cancer",
        question="Do five measurements of the nuclei in a biopsy tell whether the tumour is malignant?",
        purpose="Example on public data.",
        ethics="none needed: published, anonymous data",
        principal_investigator="Dr Ada Example",
        expires="2030-12-31",
        cohort={
            "dataset": "biopsies",
            "minimum_patients": 150,
            "standardise": "range" if epsilon else "federated",
            "features": [{"name": name, "minimum": low, "maximum": high} for name, (low, high) in RANGES.items()],
            "target": {"name": "diagnosis", "categories": ["benign", "malignant"]},
        },
        model={"name": "logistic"},
        training={"learning_rate": 2.0 if epsilon else 0.5, "local_steps": 5},
        method={"name": "fedavg", "rounds": 20},
        evaluation={"metrics": ["accuracy"]},
        privacy={"differential_privacy": terms} if epsilon else {},
    )


def biopsies() -> pd.DataFrame:
    data = load_breast_cancer(as_frame=True).frame
    diagnosis = np.where(data["target"] == 0, "malignant", "benign")
    return data[list(RANGES)].assign(diagnosis=pd.Categorical(diagnosis, ["benign", "malignant"]))


def true_figures(weights: Any, frame: pd.DataFrame, *, ranged: bool) -> tuple[float, float]:
    """Accuracy and area under the curve over all biopsies, computed beside the study."""
    features = frame[list(RANGES)].to_numpy()
    if ranged:
        low, high = np.array(list(RANGES.values())).T
        features = (features - (low + high) / 2) / ((high - low) / 2)
    else:
        features = (features - features.mean(axis=0)) / features.std(axis=0)
    logits = features @ weights["weight"][0] + weights["bias"][0]
    malignant = frame["diagnosis"] == "malignant"
    return accuracy_score(malignant, logits > 0), roc_auc_score(malignant, logits)


def main() -> None:
    frame = biopsies()
    sites = iid(frame, ["east", "north", "south"], rng=np.random.default_rng(7))
    print("epsilon  noise  accuracy told  true accuracy  true AUC")
    for epsilon in (None, 8.0, 3.0, 1.0):
        simulation = simulate(study(epsilon), sites)
        accuracy, auc = true_figures(simulation.model, frame, ranged=epsilon is not None)
        stated = simulation.result["privacy"]["differential_privacy"]
        spent, noise = ("none", "0") if stated is None else (f"{stated['epsilon']:.2f}", f"{stated['noise_multiplier']:.2f}")
        (told,) = [figure.value for figure in simulation.figures if figure.name == "accuracy"]
        print(f"{spent:>7} {noise:>6} {told:14.3f} {accuracy:14.3f} {auc:9.3f}")
    print(simulation.result["privacy"]["statement"])


if __name__ == "__main__":
    main()
