"""Random streams that a study can repeat: named, independent, the same on every machine.

Every draw of a study comes from its seed and the names of what draws (purpose, round, site), so a replay gives the same bits whatever the
order in which sites answer. Keys, privacy noise and the sampling of differential privacy never come from here: they come from the
operating system and cannot be seeded.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The generator for these names: Philox 4x64 (Salmon et al. 2011) keyed by SHA-256 of the seed and the names."""
    spelled = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    key = hashlib.sha256(spelled.encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, "<u8")))
