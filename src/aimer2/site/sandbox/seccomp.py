"""No new socket, no other process's memory, no namespace, no mount: a system-call filter that the worker can never lift.

The filter is classic BPF (``seccomp(2)``). It allows what it does not name, up to the highest call that was reviewed; a refused call
returns an error instead of killing, so study code sees an ordinary ``PermissionError``. A call by another architecture's door
(``int 0x80``, x32) kills the process: numbers mean other calls there.

What stays possible: read, write, ``sendmsg`` and ``recvmsg`` on descriptors that the worker already holds, and ``socketpair`` of Unix
stream sockets, which reach nobody but the process itself. A *datagram* socket could still send to any named socket of the
machine, therefore its pair is refused too and the agent must hand over a stream or sequenced-packet pair.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable
from typing import Final

from aimer2.site.sandbox import kernel, syscalls

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant

LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
GREATER: Final = 0x25  # BPF_JMP | BPF_JGT | BPF_K
ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN: Final = 0x06  # BPF_RET | BPF_K

KILL: Final = 0x80000000
ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000

X32_BIT: Final = 0x40000000
SET_MODE_FILTER: Final = 1
THREAD_SYNC: Final = 1

CLONE_THREAD: Final = 0x00010000
CLONE_PARENT: Final = 0x00008000
CLONE_NAMESPACES: Final = 0x7E020000
SOCKET_TYPE_MASK: Final = 0x0F
TERMINAL_INJECTION: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type into the terminal that started the agent
PROCESS_CONTROLS: Final = (kernel.PR_SET_PDEATHSIG, kernel.PR_SET_DUMPABLE)

Numbers = dict[str, tuple[int | None, int | None]]


def _refuse(code: int) -> Instruction:
    return (RETURN, 0, 0, ERRNO | code)


def _argument(index: int) -> Instruction:
    """Load the lower 32 bits of an argument (both architectures are little-endian)."""
    return (LOAD, 0, 0, 16 + 8 * index)


def _each(numbers: Numbers, column: int, code: int) -> Iterable[Instruction]:
    for pair in numbers.values():
        number = pair[column]
        if number is not None:
            yield (EQUAL, 0, 1, number)
            yield _refuse(code)


def _checked(number: int, body: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
    """``body`` decides this call alone; it must end in a return."""
    return ((EQUAL, 0, len(body), number), *body)


def _refused_values(values: tuple[int, ...], index: int) -> tuple[Instruction, ...]:
    """Allow a call unless one argument equals one of the values."""
    tests = (instruction for value in values for instruction in ((EQUAL, 0, 1, value), _refuse(errno.EPERM)))
    return (_argument(index), *tests, (RETURN, 0, 0, ALLOW))


def _clone(forking: bool) -> tuple[Instruction, ...]:
    # A child with CLONE_PARENT would be the agent's child: it would outlive the worker's group unseen.
    checks: tuple[Instruction, ...] = (_argument(0), (ANY_BIT, 0, 1, CLONE_NAMESPACES | CLONE_PARENT), _refuse(errno.EPERM))
    if not forking:
        checks = (*checks, (ANY_BIT, 1, 0, CLONE_THREAD), _refuse(errno.EPERM))
    return (*checks, (RETURN, 0, 0, ALLOW))


SOCKETPAIR: Final[tuple[Instruction, ...]] = (
    _argument(0),
    (EQUAL, 1, 0, int(socket.AF_UNIX)),
    _refuse(errno.EACCES),
    _argument(1),
    (AND, 0, 0, SOCKET_TYPE_MASK),
    (EQUAL, 2, 0, int(socket.SOCK_STREAM)),
    (EQUAL, 1, 0, int(socket.SOCK_SEQPACKET)),
    _refuse(errno.EACCES),
    (RETURN, 0, 0, ALLOW),
)
OWN_LIMITS_ONLY: Final[tuple[Instruction, ...]] = (_argument(0), (EQUAL, 1, 0, 0), _refuse(errno.EPERM), (RETURN, 0, 0, ALLOW))


def program(architecture: kernel.Architecture, *, forking: bool) -> tuple[Instruction, ...]:
    """The filter as BPF instructions; without ``forking`` the worker may start threads but no other process."""
    column = architecture.column
    number = {name: pair[column] for name, pair in syscalls.NUMBERS.items()}
    return (
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, architecture.audit),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
        (GREATER, 0, 1, X32_BIT - 1),
        (RETURN, 0, 0, KILL),
        (GREATER, 0, 1, syscalls.HIGHEST_REVIEWED),
        _refuse(errno.ENOSYS),
        # Its flags lie behind a pointer that a filter can't follow; libc then falls back to clone, whose flags are checked.
        (EQUAL, 0, 1, number["clone3"]),
        _refuse(errno.ENOSYS),
        *_each(syscalls.NETWORK, column, errno.EACCES),
        *_each(syscalls.FORBIDDEN, column, errno.EPERM),
        *(() if forking else _each(syscalls.FORKING, column, errno.EPERM)),
        *_checked(number["clone"], _clone(forking)),
        *_checked(number["socketpair"], SOCKETPAIR),
        *_checked(number["ioctl"], _refused_values(TERMINAL_INJECTION, 1)),
        *_checked(number["prctl"], _refused_values(PROCESS_CONTROLS, 0)),
        *_checked(number["prlimit64"], OWN_LIMITS_ONLY),
        (RETURN, 0, 0, ALLOW),
    )


def install(architecture: kernel.Architecture, *, forking: bool) -> bool:
    """Put the filter on every thread of this process for good; False where the kernel has none. Needs no-new-privileges set."""
    instructions = program(architecture, forking=forking)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(code)))
    try:
        # With thread synchronisation a positive answer is the id of a thread that could not take the filter.
        unsynchronised = kernel.syscall(syscalls.NUMBERS["seccomp"][architecture.column], SET_MODE_FILTER, THREAD_SYNC, ctypes.addressof(header))
    except OSError:
        return False
    return unsynchronised == 0
