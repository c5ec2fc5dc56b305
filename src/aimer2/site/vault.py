"""Where the site keeps the secrets of sums in secret: one SQLite file that only it can read, and that no backup should hold.

A vault put back from an older copy would let the site sign twice. A power cut makes an older copy of it, as the disk is waited for only where a
sum is opened: secrets from before the machine's last start are erased, unless the agent had ended in order before, and the site sits out until the
next set-up of keys. A copy that was made after the agent had ended in order is not recognised when it is put back, nor is one within the same
start of the machine: nothing in the file tells it from the newest. Whoever restores a site must delete its vault.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import final

from aimer2.secure_aggregation.site import forget

_BUSY_SECONDS = 30
_SETTLING_MILLISECONDS = 200
"""So long writers may be kept out for the sake of a reader who is in the way of emptying the log; else it is left for the next time."""
_STARTED, _IN_ORDER = "started", "in-order"
"""In which start of the machine it was opened last; and that the agent ended in order in that one."""


@final
class FileVault:
    """The `Vault` of `aimer2.secure_aggregation.site`; several threads and processes may use it at once.

    What is erased is overwritten in the file; what the disk itself keeps of overwritten blocks, only its encryption hides.
    """

    def __init__(self, path: Path, start: str | None = None) -> None:
        """``start``: which start of the machine this is; None: as the kernel says."""
        self._lock, self._settling_lock = threading.Lock(), threading.Lock()
        path.touch(mode=0o600)
        self._database, self._settling = _connected(path), _connected(path)
        self._settling.execute(f"PRAGMA busy_timeout = {_SETTLING_MILLISECONDS}")
        self._database.execute("CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, document BLOB NOT NULL) WITHOUT ROWID")
        self._open((start or Path("/proc/sys/kernel/random/boot_id").read_text().strip()).encode())

    def _open(self, start: bytes) -> None:
        last, in_order = self.load(_STARTED), self.load(_IN_ORDER)
        if last == start and in_order is None:
            return
        if last != start and (last is None or in_order != last):
            names = [str(row[0]) for row in self._database.execute("SELECT name FROM secrets WHERE name LIKE '%/current'")]
            for name in names:
                forget(self, name.partition("/")[0])
        self.change({_STARTED: start}, [_IN_ORDER], lasting=True)

    def load(self, name: str) -> bytes | None:
        return self.load_all(name)[0]

    def load_all(self, *names: str) -> tuple[bytes | None, ...]:
        wanted = ", ".join("?" * len(names))
        with self._lock:
            found = dict(self._database.execute(f"SELECT name, document FROM secrets WHERE name IN ({wanted})", names).fetchall())
        return tuple(map(found.get, names))

    def change(self, keep: Mapping[str, bytes], erase: Collection[str] = (), *, lasting: bool = False) -> None:
        with self._lock:
            if not lasting:
                self._change(keep, erase)
                return
            self._database.execute("PRAGMA synchronous = FULL")
            try:
                self._change(keep, erase)
            finally:
                self._database.execute("PRAGMA synchronous = NORMAL")

    def _change(self, keep: Mapping[str, bytes], erase: Collection[str]) -> None:
        with self._database as database:
            database.execute("BEGIN IMMEDIATE")
            for prefix in erase:
                database.execute("DELETE FROM secrets WHERE name >= ? AND name < ?", (prefix, prefix + chr(0x10FFFF)))
            database.executemany("INSERT OR REPLACE INTO secrets VALUES (?, ?)", keep.items())

    def settle(self) -> None:
        """The log that changes go through still holds what they erased; it is emptied. It waits for the disk.

        Over a connection of its own, and most of it in a way that lets others write meanwhile. At its end they wait: for the disk too where
        something was written meanwhile, and the first change after it makes the log anew.
        """
        with self._settling_lock:
            for way in ("PASSIVE", "TRUNCATE"):
                self._settling.execute(f"PRAGMA wal_checkpoint({way})")

    def end_in_order(self) -> None:
        """All that was kept is on the disk, and nothing more is said on its ground before it is opened again."""
        started = self.load(_STARTED)
        self.change({} if started is None else {_IN_ORDER: started}, lasting=True)

    def close(self) -> None:
        with self._lock, self._settling_lock:
            self._settling.close()
            self._database.close()


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    for setting in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
        database.execute(f"PRAGMA {setting}")
    return database
