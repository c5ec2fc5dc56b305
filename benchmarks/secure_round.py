"""What secure aggregation costs: rounds in secret against the same rounds in the clear, in one run, over real processes and without.

``small`` and ``many`` have one federation conduct both studies; processor time is that of all its processes. ``large`` has no processes
and no training: each site stores its update, masked or not, as the agent does, the coordinator stores it once more as it comes in, and adds up
what lies in its store.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from aimer2.algorithms.aggregators.weighted_mean import WeightedMean
from aimer2.blobs.folder import FolderStore
from aimer2.cli.federation import Federation
from aimer2.core import tree
from aimer2.core.study import Privacy
from aimer2.core.task import BlobRef
from aimer2.core.update import Update
from aimer2.messages.tensors import read_tree
from aimer2.secure_aggregation.layout import Layout
from aimer2.secure_aggregation.masking import mask, unmask
from aimer2.study.checkpoint import store
from aimer2.study.events import RoundFinished, StudyFinished
from benchmarks.rounds import begin, peak_memory, study_of
from benchmarks.rows import Row

_TICK = os.sysconf("SC_CLK_TCK")
_GIGABIT = 125e6


def small() -> Iterator[Row]:
    yield from _real("secure_small", sites=5, size=1_000, rounds=30)


def many() -> Iterator[Row]:
    yield from _real("secure_many", sites=5, size=1_000_000, rounds=8)


def large() -> Iterator[Row]:
    yield from _protocol("secure_large", sites=10, size=25_000_000)


@dataclass(frozen=True, slots=True)
class _Measured:
    seconds: float
    first: float
    """Of the first round, with the set-up of the keys and values of unknown range."""
    cpu: float
    received: int
    memory: float


def _real(benchmark: str, *, sites: int, size: int, rounds: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="aimer2-bench-") as folder, Federation(Path(folder)) as federation:
        study = study_of(begin(federation, sites), size, rounds)
        plain = _conducted(federation, study)
        secret = _conducted(federation, study.model_copy(update={"privacy": Privacy()}))
    case = f"{sites} sites × {size * 4 / 1e6:g} MB"
    yield Row(benchmark, f"{case}, median round", secret.seconds * 1000, "ms", plain.seconds * 1000)
    yield Row(benchmark, f"{case}, first round", secret.first * 1000, "ms", plain.first * 1000)
    yield Row(benchmark, f"{case}, processor time of a round, all processes", secret.cpu * 1000, "ms", plain.cpu * 1000)
    yield Row(benchmark, f"{case}, bytes of the updates of a round", secret.received / 1e6, "MB", plain.received / 1e6)
    yield Row(benchmark, f"{case}, coordinator peak memory", secret.memory, "MiB", plain.memory)


def _conducted(federation: Federation, study: Any) -> _Measured:
    rounds: list[RoundFinished] = []
    cpu: list[float] = []
    event: Any = None
    for event in federation.researcher().submit(study, federation.folder).events():
        if isinstance(event, RoundFinished) and event.stage == "train":
            rounds.append(event)
            cpu.append(sum(_cpu(process.pid) for process in federation.processes.values()))
    if not isinstance(event, StudyFinished):
        raise RuntimeError(f"the study did not finish: {event}")
    later = [each.seconds for each in rounds[1:]]
    peak = peak_memory(federation.processes["coordinator"].pid)
    return _Measured(statistics.median(later), rounds[0].seconds, (cpu[-1] - cpu[0]) / len(later), rounds[-1].bytes_received, peak)


def _cpu(pid: int) -> float:
    """Seconds of a process, and of its children that live."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK + sum(_cpu(int(child)) for child in children)


@dataclass(frozen=True, slots=True)
class _Cost:
    """Processor seconds; one core. ``receiving``: of one upload at the coordinator, which checks and stores it."""

    site: float
    receiving: float
    coordinator: float
    upload: int
    memory: float

    def round(self, sites: int, bytes_per_second: float | None = None) -> float:
        """All on one core; or with the sites at work at once, and the coordinator storing their uploads as its link brings them, or as fast as
        it can."""
        if bytes_per_second is None:
            return sites * (self.site + self.receiving) + self.coordinator
        return self.site + sites * max(self.upload / bytes_per_second, self.receiving) + self.coordinator


_TRAINING = 60
"""Seconds of local training, at all sites at once."""

_WAYS = {"ranged": "later rounds", "lost": "one site lost late", "unranged": "first round"}


def _protocol(benchmark: str, *, sites: int, size: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="aimer2-bench-", dir=os.environ.get("AIMER2_SCRATCH")) as folder:
        cost = {way: _apart(Path(folder) / way, way, sites, size) for way in ("plain", *_WAYS)}
    plain, case = cost["plain"], f"{sites} sites × {size * 4 / 1e6:g} MB"
    for way, told in _WAYS.items():
        secret, which = cost[way], f"{case}, {told}"
        yield Row(benchmark, f"{which}, processor time on one core", secret.round(sites), "s", plain.round(sites))
        for gigabits in (1, 10):
            link = gigabits * _GIGABIT
            yield Row(benchmark, f"{which}, computed for {gigabits} Gb/s", secret.round(sites, link), "s", plain.round(sites, link))
        trained = [_TRAINING + cost.round(sites, _GIGABIT) for cost in (secret, plain)]
        yield Row(benchmark, f"{which}, computed for 1 Gb/s and {_TRAINING} s of training", trained[0], "s", trained[1])
        yield Row(benchmark, f"{which}, a site", secret.site, "s", plain.site)
        yield Row(benchmark, f"{which}, the coordinator's sum", secret.coordinator, "s", plain.coordinator)
        yield Row(benchmark, f"{which}, an upload received", secret.receiving, "s", plain.receiving)
        yield Row(benchmark, f"{which}, a site's upload", secret.upload / 1e6, "MB", plain.upload / 1e6)
        yield Row(benchmark, f"{which}, coordinator's memory, in models", secret.memory / (size * 4), "×")


def _apart(folder: Path, way: str, sites: int, size: int) -> _Cost:
    """In a process of its own, so that its memory is its own."""
    folder.mkdir()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_round, args=(theirs, folder, way, sites, size))
    process.start()
    theirs.close()  # so that a process that fails is not waited for
    cost: _Cost = ours.recv()
    process.join()
    return cost


def _round(told: Connection, folder: Path, way: str, sites: int, size: int) -> None:
    """One round of one way; the seeds are drawn as the set-up would give them."""
    blobs, sent, rng = FolderStore(folder / "received"), FolderStore(folder / "sent"), np.random.default_rng(1)
    pairs = {(one, other): os.urandom(32) for other in range(sites) for one in range(other)}
    own, context = [os.urandom(32) for _ in range(sites)], os.urandom(32)
    update = {"difference": {"w": rng.normal(size=size).astype(np.float32)}}
    layout = Layout.of(update, {} if way == "unranged" else {"difference": {"w": 40.0}}, sites)
    seconds, receiving, uploads = [], [], []
    for site in range(sites):
        update["difference"]["w"][0] = site  # no two sites send the same bytes
        began = time.process_time()
        trees: Mapping[str, tree.Tree] = update
        if way != "plain":
            plus = [seed for (one, _), seed in pairs.items() if one == site]
            minus = [seed for (_, other), seed in pairs.items() if other == site]
            trees = mask(update, layout, context, own[site], plus, minus)
        refs = {name: store(leaves, sent) for name, leaves in trees.items()}
        seconds.append(time.process_time() - began)
        began = time.process_time()
        uploads.append({name: _received(sent.open(ref).view(), blobs) for name, ref in refs.items()})
        receiving.append(time.process_time() - began)
        sent.delete(*refs.values())
    del update, trees
    lost = [pairs[site, sites - 1] for site in range(sites - 1)] if way == "lost" else []
    there = sites - 1 if lost else sites
    began, before = time.process_time(), _resident()
    _add(uploads[:there], blobs, layout, context, None if way == "plain" else own[:there], lost)
    cost = time.process_time() - began
    size = sum(ref.size for ref in uploads[0].values())
    told.send(_Cost(statistics.median(seconds), statistics.median(receiving), cost, size, _peak() - before))


def _received(view: memoryview, blobs: FolderStore) -> BlobRef:
    """In the parts in which the network hands it over."""
    writer = blobs.create()
    for start in range(0, len(view), 1 << 20):
        writer.write(view[start : start + (1 << 20)])
    return writer.commit()


def _add(
    uploads: list[dict[str, BlobRef]], blobs: FolderStore, layout: Layout, context: bytes, own: list[bytes] | None, towards_lost: list[bytes]
) -> None:
    """The sum, and stored."""
    opened = [{name: read_tree(blobs.open(ref), lazy=True) for name, ref in each.items()} for each in uploads]
    if own is None:
        sums = WeightedMean()(Update(each) for each in opened).sums
    else:
        sums = unmask(opened, layout, context, own, towards_lost, ()).sums
    store(tree.map(np.copy, sums["difference"]), blobs)


def _resident() -> int:
    """Bytes; from here on the peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
