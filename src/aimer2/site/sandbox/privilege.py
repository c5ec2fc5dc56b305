"""Another user, an empty network namespace, no capabilities: what can be put on top where the machine allows it."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress
from typing import Final

from aimer2.site.sandbox import kernel, syscalls

CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000


def enter_empty_network(machine: kernel.Architecture, *, own_user_namespace: bool) -> bool:
    """Move into a network namespace without any interface that is up; False where it is not allowed.

    Without privilege this goes through a user namespace of one's own, which some distributions refuse. Needs a single thread.
    """
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWNET | (CLONE_NEWUSER if own_user_namespace else 0)
    try:
        kernel.syscall(syscalls.NUMBERS["unshare"][machine.column], flags)
    except OSError:
        return False
    if own_user_namespace:
        # Without a map everything still works, but the process would look like the overflow user to itself.
        with suppress(OSError):
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{user} {user} 1")
            _write("/proc/self/gid_map", f"{group} {group} 1")
    return True


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def become(user: int, group: int) -> bool:
    """Change to another user for good, without any supplementary group; False where that is not allowed."""
    try:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    except OSError:
        return False
    return True


def drop_capabilities(machine: kernel.Architecture) -> bool:
    """Give up every capability. With no-new-privileges set none ever comes back, also not for root through execve."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", kernel.CAPABILITY_VERSION_3, 0), 8)
    nothing = ctypes.create_string_buffer(24)
    try:
        kernel.syscall(syscalls.NUMBERS["capset"][machine.column], ctypes.addressof(header), ctypes.addressof(nothing))
    except OSError:
        return False
    return True
