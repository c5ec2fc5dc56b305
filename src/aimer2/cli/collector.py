"""Python's cycle collector in a process that serves for months."""

from __future__ import annotations

import gc


def collect_rarely() -> None:
    """What was loaded so far stays, so it is not looked through again; a request makes few cycles, so they are looked for rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
