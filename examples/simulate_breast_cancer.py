"""Three made-up hospitals of different case mix train one model, on this machine and without a network.

    pip install '.[demo]'
    python examples/simulate_breast_cancer.py

The data are the 569 biopsies of the Wisconsin breast cancer set that comes with scikit-learn. The study is the same document that a
coordinator takes, and every update is encoded and decoded as between hospitals.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

from aimer2 import Study, simulate
from aimer2.study.events import Event, RoundFinished
from aimer2.study.partition import dirichlet

FEATURES = ["mean radius", "mean texture", "mean smoothness", "mean concavity", "mean symmetry"]

STUDY = Study(
    name="breast-cancer",
    question="Do five measurements of the nuclei in a biopsy tell whether the tumour is malignant?",
    purpose="Example on public data.",
    ethics="none needed: published, anonymous data",
    principal_investigator="Dr Ada Example",
    expires="2030-12-31",
    seed=7,
    cohort={
        "dataset": "biopsies",
        "features": [{"name": name} for name in FEATURES],
        "target": {"name": "diagnosis", "categories": ["benign", "malignant"]},
    },
    model={"framework": "torch", "name": "mlp", "options": {"hidden": [16]}},
    training={"optimiser": "adam", "learning_rate": 0.01, "local_epochs": 2},
    method={"name": "fedprox", "rounds": 10, "parameters": {"mu": 0.01}},
    evaluation={"metrics": ["auc", "sensitivity", "specificity"]},
)


def hospitals() -> dict[str, pd.DataFrame]:
    """All biopsies, divided so that each hospital has another share of malignant ones."""
    data = load_breast_cancer(as_frame=True).frame
    diagnosis = np.where(data["target"] == 0, "malignant", "benign")
    frame = data[FEATURES].assign(diagnosis=pd.Categorical(diagnosis, ["benign", "malignant"]))
    return dirichlet(frame, ["east", "north", "south"], alpha=1.0, label="diagnosis", rng=np.random.default_rng(7), minimum=40)


def show(event: Event) -> None:
    if isinstance(event, RoundFinished) and event.figures:
        auc = event.figures[0]
        print(f"{event.stage:5} {event.round_number:2} of {event.rounds:2}   AUC {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})")


def main() -> None:
    sites = hospitals()
    for name, frame in sites.items():
        print(f"{name:5} {len(frame):3} biopsies, {(frame['diagnosis'] == 'malignant').mean():4.0%} malignant")
    simulation = simulate(STUDY, sites, on_event=show)
    for figure in simulation.figures:
        print(f"{figure.name:12} {figure.value:.3f}")
    print("weights:", {name: leaf.shape for name, leaf in simulation.model.items()})


if __name__ == "__main__":
    main()
