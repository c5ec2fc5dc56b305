"""Where the site keeps the secrets of sums in secret: one SQLite file that only it can read, and that no backup should hold.

A vault put back from an older copy would let the site sign twice: it is lost instead, and the site sits out until the next set-up of keys.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import final

_BUSY_SECONDS = 30


@final
class FileVault:
    """The `Vault` of `aimer2.secure_aggregation.site`; several threads and processes may use it at once.

    What is erased is overwritten in the file; what the disk itself keeps of overwritten blocks, only its encryption hides.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        path.touch(mode=0o600)
        self._database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        for setting in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, document BLOB NOT NULL) WITHOUT ROWID")

    def load(self, name: str) -> bytes | None:
        with self._lock:
            row = self._database.execute("SELECT document FROM secrets WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def change(self, keep: Mapping[str, bytes], erase: Collection[str] = ()) -> None:
        with self._lock, self._database as database:
            database.execute("BEGIN IMMEDIATE")
            for prefix in erase:
                database.execute("DELETE FROM secrets WHERE name >= ? AND name < ?", (prefix, prefix + chr(0x10FFFF)))
            database.executemany("INSERT OR REPLACE INTO secrets VALUES (?, ?)", keep.items())

    def settle(self) -> None:
        """The log that changes go through still holds what they erased; it is emptied. Off the path of a round: it waits for the disk."""
        with self._lock:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        with self._lock:
            self._database.close()
