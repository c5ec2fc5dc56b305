"""What a Python worker must be able to read and execute to run this environment's numpy and torch, and no more."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

INTERPRETER_PARTS: Final = ("bin", "lib", "lib64", "pyvenv.cfg")
# Not all of /proc/self: its net folder lists the machine's connections.
SYSTEM: Final = (
    "/usr",
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/self/maps",
    "/proc/self/stat",
    "/proc/self/statm",
    "/proc/self/status",
    "/proc/self/fd",
    "/proc/self/cgroup",
    "/proc/self/cmdline",  # TensorFlow asks how it was started, and aborts where it is not told
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
)


def python_trees() -> tuple[Path, ...]:
    """The trees to put into `Confinement.read`: interpreter, installed packages, system libraries, and little of /proc and /sys.

    Never a home directory as a whole, nor a folder above one; an interpreter or environment within a home is named part by part.
    Everything on ``sys.path`` is included, so the agent's own search path must not hold a folder with data.
    """
    home = Path.home().resolve()
    environment = (path for path in (*_interpreter(), *_packages()) if not home.is_relative_to(path.resolve()))
    return _outermost(path for path in (*environment, *map(Path, SYSTEM)) if path.exists())


def _interpreter() -> Iterable[Path]:
    for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix):
        yield from (Path(prefix) / part for part in INTERPRETER_PARTS)


def _packages() -> Iterable[Path]:
    paths = sysconfig.get_paths()
    yield from (Path(paths[kind]) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    yield from (Path(entry) for entry in sys.path if os.path.isabs(entry))
    # An editable installation may be found by an import hook, not by sys.path.
    yield Path(__file__).parents[2]


def _outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Without those that lie within another; /proc/self stays as it is written, as it means another folder in each process."""
    unique = sorted(set(paths))
    return tuple(path for path in unique if not any(other in path.parents for other in unique))
