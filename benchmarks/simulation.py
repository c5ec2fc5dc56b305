"""Many virtual sites on this machine: seconds per round of a small network, beside other projects' simulators over the same work.

Each site has 20 rows of its own and makes a pass of SGD over them (`benchmarks.peers.work`); plain FedAvg over all sites. The first round, which
loads and starts what is needed, does not count. ``AIMER2_PEERS`` names the Python of an environment with torch, flwr[simulation] and pfl:
without it, AIMER2 is measured alone. Floor: the training alone, the same steps in a plain loop over one network that is never sent anywhere,
on one core.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from aimer2 import Study, simulate
from aimer2.core.dataset import Samples
from aimer2.learners.processes import cores
from aimer2.study.events import Event, RoundFinished
from benchmarks.peers import work
from benchmarks.rows import Row

SIZES = {100: 11, 1_000: 5}
"""Sites, and rounds that are run."""

PEERS = {"Flower": "with_flower.py", "pfl-research": "with_pfl.py"}


def run() -> Iterator[Row]:
    told = table()
    for sites, of_size in told.groupby("sites"):
        floor = bare(int(str(sites)), SIZES[int(str(sites))])
        for line in of_size.itertuples():
            yield Row("simulation", f"{sites} sites, {line.simulator}, median round", 1000 * float(line.seconds), "ms", 1000 * floor)


def table() -> pd.DataFrame:
    """Simulator, sites, median seconds of a round."""
    told: list[tuple[str, int, float]] = []
    for sites, rounds in SIZES.items():
        told += [
            (named(n, vectorised), sites, ours(sites, rounds, n, vectorised)) for vectorised in (False, True) for n in dict.fromkeys((1, cores()))
        ]
        told += [(name, sites, theirs(name, sites, rounds)) for name in PEERS if "AIMER2_PEERS" in os.environ]
    return pd.DataFrame(told, columns=["simulator", "sites", "seconds"])


def named(workers: int, vectorised: bool) -> str:
    return f"AIMER2{', vectorised' * vectorised}, {workers} worker{'s' * (workers > 1)}"


def ours(sites: int, rounds: int, workers: int, vectorised: bool) -> float:
    seconds: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.stage == "train":
            seconds.append(event.seconds)

    data = {f"site-{number:04}": Samples(*work.rows(number)) for number in range(sites)}
    simulate(study(sites, rounds), data, workers=workers, vectorised=vectorised, on_event=listen)
    return statistics.median(seconds[1:])


def bare(sites: int, rounds: int) -> float:
    """Seconds of a round's training in a plain loop."""
    drawn = [work.rows(number) for number in range(sites)]
    data = [(torch.from_numpy(features), torch.from_numpy(targets).float()[:, None]) for features, targets in drawn]
    network = nn.Sequential(nn.Linear(work.FEATURES, work.HIDDEN), nn.ReLU(), nn.Linear(work.HIDDEN, 1))
    start = [weights.detach().clone() for weights in network.parameters()]
    optimiser, loss = torch.optim.SGD(network.parameters(), lr=work.RATE), nn.BCEWithLogitsLoss()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for features, targets in data:
            with torch.no_grad():
                for weights, first in zip(network.parameters(), start, strict=True):
                    weights.copy_(first)
            for at in range(0, work.ROWS, work.BATCH):
                optimiser.zero_grad()
                loss(network(features[at : at + work.BATCH]), targets[at : at + work.BATCH]).backward()
                optimiser.step()
        seconds.append(time.perf_counter() - begun)
    torch.set_num_threads(threads)
    return statistics.median(seconds[1:])


def theirs(name: str, sites: int, rounds: int) -> float:
    command = [os.environ["AIMER2_PEERS"], str(Path(__file__).parent / "peers" / PEERS[name]), str(sites), str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return statistics.median(json.loads(next(line for line in told.splitlines() if line.startswith("SECONDS")).removeprefix("SECONDS")))


def study(sites: int, rounds: int) -> Study:
    return Study(
        name="simulation",
        question="How long does a round of many sites take?",
        purpose="A benchmark on drawn numbers",
        ethics="none needed: drawn numbers",
        principal_investigator="Benchmarks",
        expires="2100-01-01",
        cohort={"dataset": "drawn", "features": [{"name": "x"}], "target": {"name": "y"}},
        model={"framework": "torch", "name": "mlp", "options": {"hidden": [work.HIDDEN]}},
        training={"learning_rate": work.RATE, "local_epochs": 1, "batch_size": work.BATCH},
        method={"name": "fedavg", "rounds": rounds},
        sites={"minimum": sites},
        evaluation={"held_out": 0},
        privacy={"secure_aggregation": False, "why_not_secure": "the other simulators add in the clear"},
    )
