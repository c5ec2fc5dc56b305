"""Rounds of real processes over TLS on loopback: coordinator, database, checkpoints, approvals, confined workers; trivial local work.

Floor: the same bytes over bare TLS 1.3 sockets, a thread per site, summed on the fly (`benchmarks.bare`), measured in the same run.
"""

from __future__ import annotations

import datetime
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aimer2.cli.federation import Federation, Hospital
from aimer2.core.study import Study
from aimer2.study.events import Event, RoundFinished, StudyFinished
from benchmarks import bare, trivial
from benchmarks.rows import Row

POLICY = """\
[[rule]]
name = "benchmarks"
set_by = "Benchmark Person"
decision = "approve"
allow_code = true
"""


def small() -> Iterator[Row]:
    yield from _rounds("round_small", sites=3, size=1_000, rounds=60)


def many() -> Iterator[Row]:
    yield from _rounds("round_many", sites=10, size=1_000_000, rounds=12)


def large() -> Iterator[Row]:
    yield from _rounds("round_large", sites=3, size=25_000_000, rounds=7)
    yield from _rounds("round_large", sites=10, size=25_000_000, rounds=3)


def _rounds(benchmark: str, *, sites: int, size: int, rounds: int) -> Iterator[Row]:
    floor = bare.median_round(sites, size, min(rounds, 20 if size < 10_000_000 else 4))
    case = f"{sites} sites × {_amount(size)}"
    with tempfile.TemporaryDirectory(prefix="aimer2-bench-") as folder, Federation(Path(folder)) as federation:
        seconds, memory = measure(federation, sites, size, rounds)
    yield Row(benchmark, f"{case}, median round", statistics.median(seconds) * 1000, "ms", floor.seconds * 1000)
    yield Row(benchmark, f"{case}, slowest round", max(seconds) * 1000, "ms")
    yield Row(benchmark, f"{case}, coordinator peak memory", memory, "MiB", floor.memory)


def measure(federation: Federation, sites: int, size: int, rounds: int) -> tuple[list[float], float]:
    """Seconds of each round but the first, and the coordinator's peak memory in MiB."""
    names = begin(federation, sites)
    submitted = federation.researcher().submit(study_of(names, size, rounds), federation.folder)
    events = list(submitted.events())
    if not isinstance(events[-1], StudyFinished):
        raise RuntimeError(f"the study did not finish: {events[-1]}")
    memory = peak_memory(federation.processes["coordinator"].pid)
    return [event.seconds for event in events if _is_round(event)][1:], memory


def begin(federation: Federation, sites: int) -> list[str]:
    """Runs a coordinator and so many hospitals, whose names these are, and writes the model that they train."""
    hospitals = [hospital(federation.folder, number) for number in range(sites)]
    federation.make_coordinator()
    federation.run_coordinator()
    federation.make_sites(hospitals)
    for each in hospitals:
        federation.run_site(each.name)
    write_model(federation.folder)
    return [each.name for each in hospitals]


def write_model(folder: Path) -> None:
    shutil.copy(trivial.__file__, folder / "model.py")


def study_of(sites: list[str], size: int, rounds: int) -> Study:
    return Study(
        name="benchmark",
        question="How long does a round take?",
        purpose="benchmark",
        ethics="none needed",
        principal_investigator="Benchmark Person",
        expires=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1),
        cohort={
            "dataset": "registry",
            "features": [{"name": "x"}],
            "target": {"name": "y"},
            "minimum_patients": 10,
            "standardise": "none",
        },
        model={"framework": "numpy", "code": "model.py", "options": {"size": size}},
        training={"batch_size": None, "local_steps": 1},
        method={"rounds": rounds},
        sites={"names": sites, "minimum": len(sites)},
        evaluation={"held_out": 0},
        privacy={"secure_aggregation": False, "why_not_secure": "the benchmark measures rounds in the clear"},
    )


def peak_memory(pid: int) -> float:
    """MiB; the kernel's own high-water mark of the process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def hospital(folder: Path, number: int) -> Hospital:
    path = folder / f"rows-{number}.csv"
    path.write_text("x,y\n" + "".join(f"{number + 1},{row % 2}\n" for row in range(20)))
    return Hospital(f"site-{number:02}", path, "[columns.x]\n[columns.y]\n", POLICY)


def _is_round(event: Event) -> bool:
    return isinstance(event, RoundFinished) and event.stage == "train"


def _amount(size: int) -> str:
    return f"{size:,} floats" if size < 1_000_000 else f"{size * 4 // 1_000_000} MB"
