"""The Linux calls that confinement needs and Python's standard library does not wrap."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Final, final

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38
CAPABILITY_VERSION_3: Final = 0x20080522


@final
@dataclass(frozen=True, slots=True)
class Architecture:
    """One processor family: how seccomp names it (``audit``) and where its column stands in `syscalls.NUMBERS`."""

    name: str
    audit: int
    column: int


X86_64: Final = Architecture("x86_64", 0xC000003E, 0)
AARCH64: Final = Architecture("aarch64", 0xC00000B7, 1)


def architecture() -> Architecture | None:
    """The architecture of this process, or None where confinement is not available (not Linux, 32 bits, another processor)."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    machine = os.uname().machine
    return next((known for known in (X86_64, AARCH64) if known.name == machine), None)


def syscall(number: int, *arguments: int) -> int:
    """Make a system call with 64-bit integer arguments (addresses too); raises OSError with the kernel's errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    # A variadic C function takes a bare Python int as 32 bits: the upper half of the register would be undefined.
    result = int(libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(argument & (2**64 - 1)) for argument in arguments)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
