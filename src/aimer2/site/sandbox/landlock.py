"""Only the given folders: file access that the kernel narrows to named trees, without privilege (Landlock, Linux 5.13 and later).

Each version of the interface (ABI) covers more; on an older one the rest is left out and the version number says so:
1 reading, writing, executing, making, removing · 2 moving between folders · 3 truncating · 4 TCP · 5 device control ·
6 signals to, and abstract sockets of, processes outside · 9 named Unix sockets.

Not covered by any: asking whether a path exists and its attributes (``stat``), changing timestamps, and descriptors opened before.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from aimer2.site.sandbox import kernel, syscalls

NEWEST_KNOWN: Final = 9
VERSION_FLAG: Final = 1
PATH_BENEATH: Final = 1

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIRECTORY: Final = 1 << 3
TRUNCATE: Final = 1 << 14
DEVICE_CONTROL: Final = 1 << 15
RESOLVE_UNIX: Final = 1 << 16

READ: Final = EXECUTE | READ_FILE | READ_DIRECTORY
ON_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | DEVICE_CONTROL
ALWAYS_WRITABLE: Final = (Path("/dev/null"),)

# (first ABI, how many file rights it knows)
FILE_RIGHTS: Final = ((9, 17), (5, 16), (3, 15), (2, 14), (1, 13))
NETWORK_RIGHTS: Final = 0b11  # bind TCP, connect TCP
SCOPES: Final = 0b11  # abstract Unix sockets, signals


def abi() -> int:
    """The version that the running kernel offers and this module knows; 0 where Landlock is missing or switched off."""
    try:
        return min(kernel.syscall(syscalls.NUMBERS["landlock_create_ruleset"][0], 0, 0, VERSION_FLAG), NEWEST_KNOWN)
    except OSError:
        return 0


def file_rights(version: int) -> int:
    """All rights on files that a version handles, as a bit mask."""
    return next((1 << bits) - 1 for first, bits in FILE_RIGHTS if version >= first)


def ruleset(version: int, read: Iterable[Path], write: Iterable[Path]) -> int:
    """Open a ruleset that allows reading and executing in one list of trees, all but executing in the other; returns its descriptor.

    Raises OSError where a tree can't be opened.
    """
    every = file_rights(version)
    words = (every, NETWORK_RIGHTS if version >= 4 else 0, SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = ctypes.create_string_buffer(struct.pack("=QQQ", *words), 24)
    created = kernel.syscall(syscalls.NUMBERS["landlock_create_ruleset"][0], ctypes.addressof(attributes), size, 0)
    try:
        for path in read:
            _allow(created, path, READ)
        for path in (*write, *ALWAYS_WRITABLE):
            _allow(created, path, every & ~(EXECUTE | RESOLVE_UNIX))
    except OSError:
        os.close(created)
        raise
    return created


def _allow(created: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= ON_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
        kernel.syscall(syscalls.NUMBERS["landlock_add_rule"][0], created, PATH_BENEATH, ctypes.addressof(rule), 0)
    finally:
        os.close(descriptor)


def restrict(created: int) -> bool:
    """Put a ruleset on this thread and all it starts, for good, and close it; False where the kernel refuses."""
    try:
        kernel.syscall(syscalls.NUMBERS["landlock_restrict_self"][0], created, 0)
    except OSError:
        return False
    finally:
        os.close(created)
    return True
