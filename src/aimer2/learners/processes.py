"""What the frameworks make of a process that several sites share: its threads, and whether it can be divided."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Collection, Iterator


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch computes with one thread, as a hospital's worker does: how sums are divided among threads shows in their bits."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_MADE = 50_000
"""Objects made before garbage is looked for."""


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """What is there already is not looked through for garbage, and what is made is so more seldom: of hundreds of thousands of objects of libraries
    none becomes garbage meanwhile, and of a round's messages hardly any lies in a ring."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_MADE, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def undivided(frameworks: Collection[str]) -> str:
    """Why a process that may train with these cannot be divided into copies of itself; empty: it can."""
    if sys.platform != "linux":
        return "only Linux divides a process safely"
    if "keras" in frameworks:
        return "a copy of this process would wait for ever for TensorFlow's threads, which it lacks"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "a GPU is in use, which a copy of this process could not go on with"
    return ""
