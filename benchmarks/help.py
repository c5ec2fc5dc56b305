"""How long `aimer2 --help` takes. Floor: a Python that imports click."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.rows import Row

TIMES = 9


def run() -> Iterator[Row]:
    yield Row("help", "aimer2 --help, median", _median("-m", "aimer2", "--help"), "ms", _median("-c", "import click"))


def _median(*arguments: str) -> float:
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000
