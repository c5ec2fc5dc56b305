"""The Synthetic(α, β) data of the FedProx paper: the loss after 40 rounds, by method and by how much the hospitals differ; floor: FedAvg's.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, "Federated Optimization in Heterogeneous Networks", section 5.1: 30 sites, 60 features, 10 classes,
y = argmax(Wx + b). Site k has W_k, b_k ~ N(u_k, 1), u_k ~ N(0, α²), so α is how much the sites' models differ; x ~ N(v_k, Σ) with Σ_jj = j^(−1.2),
v_k ~ N(B_k, 1), B_k ~ N(0, β²), so β is how much their features differ (α and β are deviations, as in the authors' code). IID: one W, b ~ N(0, 1)
and v = 0 for all. A site has 50 rows and a lognormal(4, 2) number more, here 1,000 at most.

Multinomial regression, 20 steps of batches of 10 at each site and round, learning rate 0.01. With stragglers nine sites in ten have time for 1 to 19
steps only: FedAvg leaves those out, as in the paper; every other method takes what they have. Of each round: the mean loss over all rows of all
sites, and the dissimilarity of the sites' gradients, Σ p_k ‖∇F_k − ∇F‖².
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from aimer2.algorithms import catalogue
from aimer2.blobs.memory import MemoryStore
from aimer2.core.clock import SystemClock
from aimer2.core.dataset import Samples
from aimer2.core.study import Target, Training
from aimer2.core.tree import Tree, load
from aimer2.engines.in_process import InProcess
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.messages.tensors import read_tree
from aimer2.models.linear import Multinomial
from aimer2.study.checkpoint import Remembered
from aimer2.study.collect import Patience
from aimer2.study.conduct import Loop
from aimer2.study.events import RoundFinished
from aimer2.study.perform import Participant
from aimer2.study.plan import Part, Plan
from benchmarks.rows import Row

Array = npt.NDArray[np.float64]
SITES, FEATURES, CLASSES, MOST = 30, 60, 10, 1_000
ROUNDS, STEPS, BATCH, RATE, SEED = 40, 20, 10, 0.01, 1
DATA: Mapping[str, tuple[float, float] | None] = {"IID": None, "(0, 0)": (0, 0), "(0.5, 0.5)": (0.5, 0.5), "(1, 1)": (1, 1)}
METHODS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "FedAvg": ("fedavg", {}),
    "FedProx, mu 1": ("fedprox", {"mu": 1.0}),
    "SCAFFOLD": ("scaffold", {}),
    "FedNova": ("fednova", {}),
    "FedDyn": ("feddyn", {"alpha": 0.1}),
    "FedAdam": ("fedadam", {"server_learning_rate": 0.03}),
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A site's rows, and what they were drawn from."""

    rows: Samples
    weights: Array
    """(60, 10)"""
    intercept: Array
    centre: Array


def generate(kind: tuple[float, float] | None, sites: int = SITES, seed: int = SEED) -> list[Drawn]:
    """The sites of Synthetic(α, β); None: IID."""
    rng = np.random.default_rng(seed)
    sizes = np.minimum(rng.lognormal(4, 2, sites).astype(int) + 50, MOST)
    deviation = np.arange(1, FEATURES + 1) ** -0.6
    common = rng.normal(size=(FEATURES, CLASSES)), rng.normal(size=CLASSES), np.zeros(FEATURES)
    drawn = []
    for size in sizes:
        weights, intercept, centre = common
        if kind is not None:
            model, place = rng.normal(0, kind[0]), rng.normal(0, kind[1])
            weights, intercept, centre = rng.normal(model, 1, (FEATURES, CLASSES)), rng.normal(model, 1, CLASSES), rng.normal(place, 1, FEATURES)
        features = centre + deviation * rng.normal(size=(size, FEATURES))
        drawn.append(Drawn(Samples(features, np.argmax(features @ weights + intercept, axis=1)), weights, intercept, centre))
    return drawn


def run() -> Iterator[Row]:
    told = table()
    last = told[told["round"] == told["round"].max()]
    for (data, stragglers), group in last.groupby(["data", "stragglers"], sort=False):
        fedavg = float(group[group["method"] == "FedAvg"]["loss"].iloc[0])
        for line in group.itertuples():
            yield Row("synthetic", f"{data}{', stragglers' * bool(stragglers)}, {line.method}", float(line.loss), "", fedavg)


def table(rounds: int = ROUNDS) -> pd.DataFrame:
    """Data, stragglers, method, round, loss, dissimilarity."""
    told = []
    for data, kind in DATA.items():
        sites = generate(kind)
        for stragglers in (False, True):
            for name in METHODS:
                path = trained(name, sites, rounds, stragglers=stragglers)
                told += [(data, stragglers, name, number, *figures) for number, figures in enumerate(path, 1) if number % 5 == 0 or number == 1]
    return pd.DataFrame(told, columns=["data", "stragglers", "method", "round", "loss", "dissimilarity"])


def trained(name: str, sites: Sequence[Drawn], rounds: int, *, stragglers: bool) -> list[tuple[float, float]]:
    """The loss and the dissimilarity of the gradients after each round."""
    method, parameters = METHODS[name]
    algorithm, work = catalogue.make(method, rounds, parameters), local_work(len(sites), stragglers=stragglers)
    took = [number for number, steps in enumerate(work) if steps == STEPS or name != "FedAvg"]
    recipe = Recipe(Training(learning_rate=RATE), Target(name="y", kind="multiclass", categories=tuple("0123456789")), rounds, (FEATURES,))
    learner = NumpyLearner(lambda: Multinomial(FEATURES, CLASSES), recipe)
    start = learner.parameters()
    performers = {
        f"site-{n:02}": Participant(
            site=f"site-{n:02}", algorithm=algorithm, learner=learner, data=sites[n].rows, steps=work[n], batch_size=BATCH, seed=SEED
        )
        for n in took
    }
    parts = (Part("train", algorithm, rounds, start),)
    plan = Plan(digest="synthetic" * 8, roster=tuple(performers), parts=parts, patience=Patience(len(performers), 3600.0))
    return asyncio.run(_followed(plan, performers, sites))


def local_work(sites: int, *, stragglers: bool) -> list[int]:
    """Steps that each site has time for: nine in ten have not enough."""
    rng = np.random.default_rng(SEED)
    late = set(rng.permutation(sites)[: round(0.9 * sites)].tolist()) if stragglers else set()
    return [int(rng.integers(1, STEPS)) if number in late else STEPS for number in range(sites)]


async def _followed(plan: Plan, performers: Mapping[str, Participant], sites: Sequence[Drawn]) -> list[tuple[float, float]]:
    blobs, past, path = MemoryStore(), Remembered(), []
    async for event in Loop(plan, InProcess(performers, blobs), blobs, past, SystemClock()).run():
        past.past.append(event)
        if isinstance(event, RoundFinished):
            assert event.model is not None
            path.append(judged({name: load(leaf) for name, leaf in read_tree(blobs.open(event.model)).items()}, sites))
    return path


def judged(model: Tree, sites: Sequence[Drawn]) -> tuple[float, float]:
    """The mean loss over all rows, and Σ p_k ‖∇F_k − ∇F‖²."""
    told: list[tuple[float, Any]] = [Multinomial(FEATURES, CLASSES).gradient(model, site.rows.features, site.rows.targets) for site in sites]
    shares = np.array([len(site.rows) for site in sites], np.float64)
    shares /= shares.sum()
    gradients = np.stack([np.concatenate([leaf.ravel() for leaf in gradient.values()]) for _, gradient in told])
    away = gradients - shares @ gradients
    return float(shares @ [loss for loss, _ in told]), float(shares @ (away * away).sum(axis=1))
