"""Files of blobs that nobody needs any more, kept to be written over: a page that a file has already costs a tenth of a new one."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import final

LEAST_BYTES = 1 << 20
"""Below this, making a file costs no more than finding a spare one."""

MOST_BYTES = 2 << 30
"""What one process keeps spare at most."""


@final
class Spares:
    """Spare files of one process, in a folder that others may share.

    A file is handed out only while nobody has it open or mapped, in whatever process, and it has no other name: who still reads a blob that
    was deleted never sees the bytes of another one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[Path, int] = {}
        self._lock = threading.Lock()
        for left in folder.glob("*.spare"):
            # of a process that was killed; one that lives misses it, and makes a file
            left.unlink(missing_ok=True)

    def keep(self, file: Path) -> None:
        """Takes a file's name from it; the file itself is gone too unless it is worth keeping."""
        with suppress(FileNotFoundError):
            found = file.stat()
            with self._lock:
                room = sum(self._sizes.values()) + found.st_size <= MOST_BYTES
            if sys.platform != "linux" or found.st_nlink > 1 or found.st_size < LEAST_BYTES or not room:
                file.unlink()
                return
            spare = self._folder / f"{secrets.token_hex(16)}.spare"
            os.rename(file, spare)
            with self._lock:
                self._sizes[spare] = found.st_size

    def take(self, size: int) -> Path | None:
        """The free file whose size comes closest, now the caller's own, with old bytes in it; None where there is none."""
        with self._lock:
            nearest = sorted(self._sizes, key=lambda spare: abs(self._sizes[spare] - size))
        for spare in nearest:
            with self._lock:
                if self._sizes.pop(spare, None) is None:
                    continue
            found = self._claim(spare)
            if found is not None:
                return found
        return None

    def clear(self) -> None:
        """Gives the disk back."""
        with self._lock:
            gone, self._sizes = self._sizes, {}
        for spare in gone:
            spare.unlink(missing_ok=True)

    def _claim(self, spare: Path) -> Path | None:
        try:
            file = os.open(spare, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if os.fstat(file).st_nlink > 1:
                spare.unlink(missing_ok=True)
                return None
            if not _is_ours_alone(file):
                with self._lock:
                    self._sizes[spare] = os.fstat(file).st_size
                return None
        finally:
            os.close(file)
        claimed = spare.with_suffix("")
        with suppress(FileNotFoundError):
            os.rename(spare, claimed)
            return claimed
        return None


def _is_ours_alone(file: int) -> bool:
    """The kernel leases a file for writing only while no other descriptor or mapping of it exists anywhere."""
    try:
        # Somebody who opened it in this instant would be told of by a signal, and the usual one ends a process.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True
