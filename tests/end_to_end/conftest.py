"""A coordinator and three hospitals as real processes, which most studies here share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from aimer2.cli.federation import Federation, Hospital

SITES = ("east", "north", "west")
FEATURES = ("mean_radius", "mean_texture", "mean_smoothness", "mean_concavity")
POLICY = '[[rule]]\nname = "tests"\nset_by = "Test Person"\ndecision = "approve"\nallow_release_per_site = true\nallow_code = true\n'
POLICIES = {"east": f'{POLICY}methods = ["fedavg", "fedavgm"]\n'}
MAPPING = 'patient = "patient"\n' + "".join(f"[columns.{name}]\n" for name in (*FEATURES, "malignant"))


def write_hospitals(folder: Path) -> list[Hospital]:
    """Breast cancer dealt to three sites; the last has half as many patients, and the first has no rule for FedProx."""
    bunch = load_breast_cancer()
    columns = [list(bunch.feature_names).index(name.replace("_", " ")) for name in FEATURES]
    order = np.random.default_rng(3).permutation(len(bunch.target))
    hospitals = []
    for name, rows in zip(SITES, np.split(order, [230, 450]), strict=True):
        path = folder / f"{name}.csv"
        lines = [",".join(("patient", *FEATURES, "malignant"))]
        lines += [",".join((f"P{row}", *(repr(float(bunch.data[row, c])) for c in columns), str(1 - bunch.target[row]))) for row in rows]
        path.write_text("\n".join(lines) + "\n")
        hospitals.append(Hospital(name, path, MAPPING, POLICIES.get(name, POLICY)))
    return hospitals


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("federation")) as made:
        made.make_coordinator()
        made.run_coordinator()
        made.make_sites(write_hospitals(made.folder))
        for name in SITES:
            made.run_site(name)
        yield made


@pytest.fixture
def federation(shared: Federation) -> Iterator[Federation]:
    """Sites that a test has killed for good are started again."""
    yield shared
    for name in SITES:
        if name not in shared.processes:
            shared.run_site(name)
