"""How much memory, time and disk a worker may use, and that it ends with its agent.

These limits are the kernel's own per-process limits: they need no privilege and stop accidents (a loop that never ends, a table that
does not fit). They are not a wall against intent: each process that the worker starts has the whole limit again, and shared memory
(memory files, shared mappings) is not counted as memory. Where that matters, limit the agent's whole service (`MemoryMax=` in its
systemd unit).
"""

from __future__ import annotations

import os
import resource
import signal
from typing import Final

from aimer2.site.sandbox import kernel, syscalls

SECONDS_TO_LEAVE: Final = 5


def prctl(option: int, value: int) -> None:
    """Set one property of this process; raises OSError where the kernel does not take it."""
    machine = kernel.architecture()
    if machine is not None:
        kernel.syscall(syscalls.NUMBERS["prctl"][machine.column], option, value, 0, 0, 0)


def die_with_parent(parent: int | None = None) -> None:
    """Be killed the moment the parent dies, also if it died just now.

    ``parent`` is the parent's process id as the parent itself knew it; with None, its death before this call goes unnoticed.
    The kernel means the *thread* that started this process: the agent must start workers from a thread that lives as long as it does.
    It also forgets the wish when the user changes, so `confine` expresses it again.
    """
    expected = os.getppid() if parent is None else parent
    prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != expected:
        os.kill(os.getpid(), signal.SIGKILL)


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    """A stricter hard limit that is already in force stays."""
    _, ceiling = resource.getrlimit(kind)
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


def limit_memory(size: int) -> None:
    """Bytes of private memory. Not of address space: numerical libraries reserve far more of that than they ever use."""
    _lower(resource.RLIMIT_DATA, size)


def limit_cpu(seconds: int) -> None:
    """Processor seconds over the whole life of the process: SIGXCPU, and SIGKILL some seconds later if it was ignored."""
    _lower(resource.RLIMIT_CPU, seconds, seconds + SECONDS_TO_LEAVE)


def limit_file(size: int) -> None:
    """Bytes of any one file (memory files too)."""
    _lower(resource.RLIMIT_FSIZE, size)


def limit_open_files(count: int) -> None:
    _lower(resource.RLIMIT_NOFILE, count)


def limit_processes(count: int) -> None:
    """Processes and threads of this user together, so of use only where the worker has a user of its own."""
    _lower(resource.RLIMIT_NPROC, count)


def no_core_dump() -> None:
    """A core dump would write patients' data to a place that nobody watches."""
    _lower(resource.RLIMIT_CORE, 0)


def in_force(kind: int) -> int | None:
    """The limit that the kernel holds now; None where there is none."""
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft
