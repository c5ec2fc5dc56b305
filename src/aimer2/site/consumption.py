"""What the agent and its workers take of this machine, as the kernel counts it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from aimer2.site.control import ask_agent
from aimer2.site.folder import SiteFolder


@final
@dataclass(frozen=True, slots=True)
class Process:
    """``study``: whose worker it is; None: the agent, or a worker that waits for a study. Times in seconds, sizes in bytes."""

    pid: int
    what: str
    study: str | None
    cpu_seconds: float
    memory: int


@final
@dataclass(frozen=True, slots=True)
class Consumption:
    """``connected``: None where no agent runs. ``load``: of the machine, over a minute, in processors."""

    connected: bool | None
    problem: str
    processes: tuple[Process, ...]
    load: float
    processors: int
    memory_free: int
    memory_all: int
    disk_free: int
    disk_all: int


def measure(folder: SiteFolder) -> Consumption:
    """Asks the agent who its workers are, and the kernel what they take."""
    status = ask_agent(folder, {"command": "status"})
    disk = shutil.disk_usage(folder.path)
    memory = _memory()
    return Consumption(
        connected=None if status is None else bool(status["connected"]),
        problem="" if status is None else str(status["problem"] or ""),
        processes=tuple(_processes({} if status is None else status.get("processes", {}))),
        load=os.getloadavg()[0],
        processors=os.cpu_count() or 1,
        memory_free=memory.get("MemAvailable", 0),
        memory_all=memory.get("MemTotal", 0),
        disk_free=disk.free,
        disk_all=disk.total,
    )


def disk_of(path: Path) -> int:
    """Bytes of all files below."""
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def _processes(told: Mapping[str, Any]) -> list[Process]:
    asked: list[tuple[int, str, str | None]] = [(int(told["agent"]), "agent", None)] if "agent" in told else []
    asked += [(int(pid), "worker", str(study)) for study, pid in told.get("workers", {}).items()]
    asked += [(int(pid), "spare", None) for pid in told.get("spares", ())]
    return [found for found in (_process(*one) for one in asked) if found is not None]


def _process(pid: int, what: str, study: str | None) -> Process | None:
    """None where it has ended meanwhile."""
    try:
        # The name in brackets may hold spaces; after it come fields 3, 4 … (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return Process(pid, what, study, (int(fields[11]) + int(fields[12])) / ticks, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))


def _memory() -> dict[str, int]:
    lines = (line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return {name: int(rest.split()[0]) * 1024 for name, rest in lines}
