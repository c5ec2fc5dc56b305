"""How long a statistical question over hospitals takes: real processes on loopback, approved by each hospital's rules, as a statistician feels it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aimer2.cli.federation import Federation, Hospital
from aimer2.client.coordinator import Coordinator
from aimer2.client.questions import Terms, ask
from benchmarks.rows import Row

SITES = 5
PATIENTS = 400
COLUMNS = ("age", "sex", "bmi", "days", "died", "ill")
POLICY = """[[rule]]
name = "regressions"
set_by = "Benchmark Person"
decision = "approve"
methods = ["glm", "cox", "describe"]
columns = ["age", "sex", "bmi", "days", "died", "ill"]
"""
MAPPING = 'patient = "patient"\n' + "".join(f"[columns.{name}]\n" for name in COLUMNS)
REPEATS = 3
PAUSE = 8.0
"""Seconds between two questions, in which each site's next worker gets ready: the target is for warm workers."""


def hospital(folder: Path, number: int) -> Hospital:
    rng = np.random.default_rng(number)
    age, sex, bmi = rng.normal(60, 9, PATIENTS).round(1), rng.integers(2, size=PATIENTS), rng.gamma(9, 3, PATIENTS).round(1)
    days = np.ceil(rng.exponential(200 * np.exp(-(age - 60) / 20 - 0.3 * sex)))
    died = (days <= 300).astype(int)
    ill = (rng.random(PATIENTS) < 1 / (1 + np.exp(-(age - 60) / 10 - 0.5 * sex))).astype(int)
    rows = zip(age, sex, bmi, np.minimum(days, 300).astype(int), died, ill, strict=True)
    lines = [",".join(("patient", *COLUMNS)), *(",".join((f"P{place}", *map(str, row))) for place, row in enumerate(rows))]
    path = folder / f"site-{number}.csv"
    path.write_text("\n".join(lines) + "\n")
    return Hospital(f"site-{number}", path, MAPPING, POLICY)


def questions(researcher: Coordinator, why_not_secure: str) -> dict[str, Callable[[int], Any]]:
    def terms(seed: int) -> Terms:
        return Terms(ethics="none", principal_investigator="Benchmark", why_not_secure=why_not_secure, seed=seed)

    days = tuple(float(day) for day in range(1, 301)) if not why_not_secure else ()
    sites = {"sites": "pooled", "edges": days} if days else {}
    return {
        "logistic regression": lambda seed: ask("glm", "ill ~ age + sex + bmi", researcher, dataset="registry", terms=terms(seed), family="binomial"),
        "linear regression": lambda seed: ask("glm", "bmi ~ age + sex", researcher, dataset="registry", terms=terms(seed)),
        "cox regression": lambda seed: ask("cox", "Surv(days, died) ~ age + sex + bmi", researcher, dataset="registry", terms=terms(seed), **sites),
    }


def run() -> Iterator[Row]:
    """Between two questions the hospitals have had time to get a spare worker ready."""
    with tempfile.TemporaryDirectory(prefix="aimer2-") as name, Federation(Path(name)) as federation:
        folder = Path(name)
        federation.make_coordinator()
        federation.run_coordinator()
        hospitals = [hospital(folder, number) for number in range(SITES)]
        federation.make_sites(hospitals)
        for one in hospitals:
            federation.run_site(one.name)
        researcher = federation.researcher()
        seed = 0
        for why in ("a benchmark", ""):
            for title, question in questions(researcher, why).items():
                seconds = []
                for _ in range(REPEATS):
                    seed += 1
                    time.sleep(PAUSE)
                    begun = time.perf_counter()
                    question(seed)
                    seconds.append(time.perf_counter() - begun)
                yield Row("question", f"{title}, {'in the clear' if why else 'in secret'}, {SITES} sites", float(np.median(seconds)), "s")
