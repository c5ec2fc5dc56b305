"""The two kinds of randomness: streams that a study can repeat, and secure bytes that nobody can.

Every draw of a study comes from ``stream``: from its seed and the names of what draws (purpose, round, site), so a replay gives the same bits
whatever the order in which sites answer. Privacy noise and the sampling of differential privacy come from ``SecureBytes``: who could repeat
those could subtract them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_ZEROS = bytes(1 << 16)


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The generator for these names: Philox 4x64 (Salmon et al. 2011) keyed by SHA-256 of the seed and the names."""
    spelled = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    key = hashlib.sha256(spelled.encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, "<u8")))


@final
class SecureBytes:
    """Bytes that cannot be foretold: AES-256 in counter mode (NIST SP 800-38A) under a key that the operating system draws.

    In a forked process a copy draws a key of its own, or it would give the same bytes. ``key`` (32 bytes) is for tests alone.
    """

    __slots__ = ("_cipher", "_process")

    def __init__(self, key: bytes | None = None) -> None:
        self._process = None if key is not None else os.getpid()
        self._cipher = Cipher(algorithms.AES256(secrets.token_bytes(32) if key is None else key), modes.CTR(bytes(16))).encryptor()

    def read(self, count: int) -> npt.NDArray[np.uint8]:
        """The next ``count`` bytes."""
        if self._process not in (None, os.getpid()):
            self.__init__()  # in another process than the one it was made in
        taken = np.empty(count, np.uint8)
        for start in range(0, count, len(_ZEROS)):
            part = taken[start : start + len(_ZEROS)]
            self._cipher.update_into(memoryview(_ZEROS)[: len(part)], part.data)
        return taken

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """The next ``count`` whole numbers, each uniform below 2^64."""
        return self.read(8 * count).view("<u8").astype(np.uint64, copy=False)
