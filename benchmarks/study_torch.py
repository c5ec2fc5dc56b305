"""From submit to finished: a PyTorch model on real data, its workers started on the way. Floor: the same training in one bare process."""

from __future__ import annotations

import datetime
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from aimer2.cli.demo_hospitals import breast_cancer
from aimer2.cli.federation import Federation
from aimer2.core.study import Study
from aimer2.study.events import StudyFinished
from benchmarks.rows import Row

SITES, ROUNDS = 3, 10

BARE = """
import torch, numpy, sklearn.datasets
x, y = sklearn.datasets.load_breast_cancer(return_X_y=True)
x = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32); y = torch.tensor(y, dtype=torch.float32)
net = torch.nn.Sequential(torch.nn.Linear(30, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
for epoch in range(10):
    for rows in torch.randperm(len(y)).split(32):
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(net(x[rows])[:, 0], y[rows]).backward()
        optimiser.step()
"""


def run() -> Iterator[Row]:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", BARE], check=True)
    floor = time.perf_counter() - began
    with tempfile.TemporaryDirectory(prefix="aimer2-bench-") as name, Federation(Path(name)) as federation:
        case = breast_cancer(federation.folder)
        hospitals = case.hospitals[:SITES]
        federation.make_coordinator()
        federation.run_coordinator()
        federation.make_sites(hospitals)
        for hospital in hospitals:
            federation.run_site(hospital.name)
        study = Study(
            **case.fields,
            purpose="benchmark",
            ethics="none needed",
            principal_investigator="Benchmark Person",
            expires=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1),
            model={"framework": "torch", "name": "mlp", "options": {"hidden": [32]}},
            training={"learning_rate": 0.05, "local_epochs": 1},
            method={"rounds": ROUNDS},
            sites={"names": sorted(hospital.name for hospital in hospitals), "minimum": SITES},
        )
        researcher = federation.researcher()
        began = time.perf_counter()
        last = list(researcher.submit(study, federation.folder).events())[-1]
        taken = time.perf_counter() - began
        if not isinstance(last, StudyFinished):
            raise RuntimeError(f"the study did not finish: {last}")
    yield Row("study_torch", f"{SITES} sites, {ROUNDS} rounds, submit to finished", taken, "s", floor)
