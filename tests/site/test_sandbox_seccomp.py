"""The filter decides right on both architectures: its instructions are interpreted here as the kernel would."""

from __future__ import annotations

import errno
import re
import socket
import struct
from pathlib import Path

import pytest

from aimer2.site.sandbox import seccomp, syscalls
from aimer2.site.sandbox.kernel import AARCH64, X86_64, Architecture

ARCHITECTURES = pytest.mark.parametrize("machine", [X86_64, AARCH64], ids=lambda machine: machine.name)
I386 = 0x40000003
KILLED = "killed"
ALLOWED = "allowed"
HEADERS = {
    X86_64: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    AARCH64: Path("/usr/include/asm-generic/unistd.h"),
}
# What the interpreter, numpy, torch and the agent's socket need: (x86_64, aarch64), from the kernel's tables.
NEEDED = {
    "read": (0, 63),
    "write": (1, 64),
    "openat": (257, 56),
    "mmap": (9, 222),
    "futex": (202, 98),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "execve": (59, 221),
    "exit_group": (231, 94),
    "memfd_create": (319, 279),
    "sched_setaffinity": (203, 122),
    "getrandom": (318, 278),
}


def decide(machine: Architecture, number: int, *arguments: int, audit: int | None = None, forking: bool = True) -> str:
    """Interpret the filter on one call (struct seccomp_data: number, architecture, instruction pointer, six arguments)."""
    padded = (*arguments, *([0] * (6 - len(arguments))))
    data = struct.pack("<IIQ6Q", number, machine.audit if audit is None else audit, 0, *padded)
    program = seccomp.program(machine, forking=forking)
    accumulator = position = 0
    while True:
        code, true, false, constant = program[position]
        position += 1
        if code == 0x06:
            return answer(constant)
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, constant)[0]
        elif code == 0x54:
            accumulator &= constant
        else:
            taken = {0x15: accumulator == constant, 0x25: accumulator > constant, 0x45: bool(accumulator & constant)}[code]
            position += true if taken else false


def answer(value: int) -> str:
    if value == 0x80000000:
        return KILLED
    if value == 0x7FFF0000:
        return ALLOWED
    assert value & 0xFFFF0000 == 0x00050000
    return errno.errorcode[value & 0xFFFF]


def number(machine: Architecture, name: str) -> int:
    for table in (syscalls.NUMBERS, syscalls.NETWORK, syscalls.FORBIDDEN, syscalls.FORKING):
        if name in table:
            found = table[name][machine.column]
            assert found is not None
            return found
    raise KeyError(name)


@pytest.mark.parametrize("machine", HEADERS, ids=lambda machine: machine.name)
def test_numbers_are_those_of_the_kernels_headers(machine: Architecture) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"no kernel header {header}")
    stated = {name: int(value) for name, value in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())}
    ours = syscalls.NUMBERS | syscalls.NETWORK | syscalls.FORBIDDEN | syscalls.FORKING
    wrong = {name: pair for name, pair in ours.items() if name in stated and stated[name] != pair[machine.column]}
    assert not wrong
    newest = max(stated.values())
    missing = [name for name, pair in ours.items() if name not in stated and (pair[machine.column] or newest + 1) <= newest]
    assert not missing


@ARCHITECTURES
def test_what_a_computation_needs_is_allowed(machine: Architecture) -> None:
    assert {name: decide(machine, pair[machine.column]) for name, pair in NEEDED.items()} == dict.fromkeys(NEEDED, ALLOWED)


@ARCHITECTURES
def test_network_and_forbidden_calls_are_refused_with_an_error(machine: Architecture) -> None:
    for table, expected in ((syscalls.NETWORK, "EACCES"), (syscalls.FORBIDDEN, "EPERM")):
        present = [pair[machine.column] for pair in table.values() if pair[machine.column] is not None]
        assert {decide(machine, value) for value in present if value is not None} == {expected}


@ARCHITECTURES
def test_another_architectures_door_kills(machine: Architecture) -> None:
    other = AARCH64 if machine is X86_64 else X86_64
    assert decide(machine, 0, audit=other.audit) == KILLED
    assert decide(machine, 0, audit=I386) == KILLED
    assert decide(machine, 0x40000000 | 41) == KILLED
    assert decide(machine, 0xFFFFFFFF) == KILLED


@ARCHITECTURES
def test_calls_newer_than_the_review_do_not_exist(machine: Architecture) -> None:
    assert decide(machine, syscalls.HIGHEST_REVIEWED + 1) == "ENOSYS"
    assert decide(machine, number(machine, "clone3")) == "ENOSYS"


@ARCHITECTURES
@pytest.mark.parametrize("bit", range(8, 32))
def test_clone_makes_threads_and_processes_but_no_namespace(machine: Architecture, bit: int) -> None:
    refused = {15, 17, 25, 26, 27, 28, 29, 30}  # CLONE_PARENT and CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
    assert decide(machine, number(machine, "clone"), 1 << bit) == ("EPERM" if bit in refused else ALLOWED)


@ARCHITECTURES
def test_a_worker_that_may_not_fork_still_starts_threads(machine: Architecture) -> None:
    clone = number(machine, "clone")
    thread, process = 0x3D0F00, 0x01200011  # what glibc passes for pthread_create and fork
    assert decide(machine, clone, thread, forking=False) == ALLOWED
    assert decide(machine, clone, process, forking=False) == "EPERM"
    assert decide(machine, clone, thread | 0x40000000, forking=False) == "EPERM"
    assert decide(machine, clone, process) == ALLOWED
    if machine is X86_64:
        assert [decide(machine, value, forking=False) for value in (57, 58)] == ["EPERM", "EPERM"]


@ARCHITECTURES
@pytest.mark.parametrize("flags", [0, socket.SOCK_CLOEXEC, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK])
def test_only_connected_pairs_can_be_made(machine: Architecture, flags: int) -> None:
    pair = number(machine, "socketpair")
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)
    assert [decide(machine, pair, socket.AF_UNIX, kind | flags) for kind in kinds] == [ALLOWED, "EACCES", "EACCES", ALLOWED]
    assert decide(machine, pair, socket.AF_INET, socket.SOCK_STREAM | flags) == "EACCES"


@ARCHITECTURES
def test_arguments_that_reach_outside_are_refused(machine: Architecture) -> None:
    ioctl, prctl, prlimit = (number(machine, name) for name in ("ioctl", "prctl", "prlimit64"))
    assert [decide(machine, ioctl, 0, request) for request in (0x5412, 0x541C, 0x5413)] == ["EPERM", "EPERM", ALLOWED]
    # The kernel compares 32 bits of the request, so upper bits must not get past the filter.
    assert decide(machine, ioctl, 0, 0x1_0000_5412) == "EPERM"
    assert [decide(machine, prctl, option) for option in (1, 4, 15)] == ["EPERM", "EPERM", ALLOWED]
    assert [decide(machine, prlimit, process) for process in (0, 1)] == [ALLOWED, "EPERM"]
