"""The hospitals of the demo: Wisconsin breast cancer dealt to four, or the four real hospitals of the UCI heart-disease files."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from sklearn.datasets import load_breast_cancer

from aimer2.cli.federation import Hospital
from aimer2.core.errors import BadInput

BREAST = {"university": (100, 110), "city": (66, 108), "county": (32, 76), "screening": (14, 63)}
"""Malignant and benign cases of each: different sizes, different case mix. All 569 patients, each once."""

BREAST_RANGES = {
    "mean_radius": (5, 30),
    "mean_texture": (5, 40),
    "mean_perimeter": (40, 200),
    "mean_area": (100, 2600),
    "mean_smoothness": (0.05, 0.2),
    "mean_compactness": (0, 0.4),
    "mean_concavity": (0, 0.5),
    "mean_concave_points": (0, 0.25),
    "mean_symmetry": (0.1, 0.35),
    "mean_fractal_dimension": (0.04, 0.1),
}
"""What such measurements can be, known before anybody looks: of the patients' own smallest and largest values differential privacy may not tell."""

HEART = {
    "cleveland": "processed.cleveland.data",
    "hungarian": "processed.hungarian.data",
    "switzerland": "processed.switzerland.data",
    "va": "processed.va.data",
}
HEART_COLUMNS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num")


@final
@dataclass(frozen=True, slots=True)
class Case:
    """A demo: the hospitals with their data, and what the study says of them."""

    title: str
    hospitals: Sequence[Hospital]
    fields: Mapping[str, Any]


def breast_cancer(folder: Path) -> Case:
    """Deals the patients to four hospitals and writes a file for each."""
    bunch = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in bunch.feature_names]
    malignant = bunch.target == 0
    rng = np.random.default_rng(2026)
    groups = [rng.permutation(np.flatnonzero(malignant)), rng.permutation(np.flatnonzero(~malignant))]
    hospitals = []
    dealt = [0, 0]
    for name, counts in BREAST.items():
        rows = np.concatenate([group[start : start + count] for group, start, count in zip(groups, dealt, counts, strict=True)])
        dealt = [start + count for start, count in zip(dealt, counts, strict=True)]
        path = folder / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["patient", *names, "diagnosis"])
            writer.writerows([f"P{row:04}", *map(repr, map(float, bunch.data[row])), "malignant" if malignant[row] else "benign"] for row in rows)
        columns = [f"[columns.{name}]" for name in names]
        mapping = ['patient = "patient"', *columns, "[columns.diagnosis]", 'kind = "category"', 'categories = ["benign", "malignant"]']
        hospitals.append(Hospital(name, path, "\n".join(mapping), POLICY))
    fields = {
        "name": "breast-mass-malignancy",
        "question": "Can cell nuclei seen in a fine-needle aspirate tell whether a breast mass is malignant?",
        "cohort": {
            "dataset": "registry",
            "features": [{"name": name, "minimum": low, "maximum": high} for name, (low, high) in BREAST_RANGES.items()],
            "target": {"name": "diagnosis", "categories": ["benign", "malignant"]},
            "minimum_patients": 70,
            "standardise": "range",
        },
    }
    return Case("Wisconsin breast cancer, dealt to four hospitals of different size and case mix", hospitals, fields)


def heart_disease(data: Path) -> Case:
    """The four hospitals as they published their data in 1988 (doi 10.24432/C52P4X)."""
    missing = [file for file in HEART.values() if not (data / file).is_file()]
    if missing:
        raise BadInput(f"{data} has no {', '.join(missing)}.", remedy="Give the folder with the four processed.*.data files of UCI Heart Disease.")
    hospitals = [Hospital(name, data / file, HEART_MAPPING, POLICY, HEART_COLUMNS) for name, file in HEART.items()]
    numbers = [
        ("age", "a", 18, 100),
        ("trestbps", "mm[Hg]", 60, 240),
        ("chol", "mg/dL", 80, 650),
        ("thalach", "/min", 50, 230),
        ("oldpeak", "mm", -5, 10),
    ]
    fields = {
        "name": "coronary-disease",
        "question": "Can a first visit's findings tell whether a patient has coronary disease?",
        "cohort": {
            "dataset": "registry",
            "features": [
                *({"name": name, "unit": unit, "minimum": low, "maximum": high} for name, unit, low, high in numbers),
                {"name": "sex", "kind": "category", "categories": ["female", "male"]},
                {"name": "cp", "kind": "category", "categories": ["asymptomatic", "typical", "atypical", "non-anginal"]},
                {"name": "exang", "kind": "category", "categories": ["no", "yes"]},
                {"name": "restecg", "kind": "category", "categories": ["normal", "st-t", "hypertrophy"]},
            ],
            "target": {"name": "disease", "categories": ["no", "yes"]},
            "missing": "zero",
            "minimum_patients": 100,
            "standardise": "range",
        },
    }
    return Case("UCI heart disease, four hospitals", hospitals, fields)


POLICY = """\
[[rule]]
name = "the demo's method on the demo's registry"
set_by = "Demo Person, data-protection officer"
decision = "approve"
datasets = ["registry"]
methods = ["fedavg", "fedprox"]
secure_aggregation = true
differential_privacy = true
minimum_patients = 20
maximum_rounds = 100
maximum_days = 366
"""

HEART_MAPPING = """\
missing = ["?"]

[columns.age]
unit = "a"
[columns.trestbps]
unit = "mm[Hg]"
missing = ["0"]
[columns.chol]
unit = "mg/dL"
missing = ["0"]
[columns.thalach]
unit = "/min"
[columns.oldpeak]
unit = "mm"
[columns.sex]
kind = "category"
categories = ["female", "male"]
values = { "0" = "female", "1" = "male" }
[columns.cp]
kind = "category"
categories = ["asymptomatic", "typical", "atypical", "non-anginal"]
values = { "1" = "typical", "2" = "atypical", "3" = "non-anginal", "4" = "asymptomatic" }
[columns.exang]
kind = "category"
categories = ["no", "yes"]
values = { "0" = "no", "1" = "yes" }
[columns.restecg]
kind = "category"
categories = ["normal", "st-t", "hypertrophy"]
values = { "0" = "normal", "1" = "st-t", "2" = "hypertrophy" }
[columns.disease]
source = "num"
kind = "category"
categories = ["no", "yes"]
values = { "0" = "no", "1" = "yes", "2" = "yes", "3" = "yes", "4" = "yes" }
"""
