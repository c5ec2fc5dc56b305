"""Confine this process for good: a worker does it to itself before it touches a study's code or a patient's data.

What holds without any privilege: files by Landlock, the network and the kernel's dangerous calls by seccomp, limits by the kernel's
per-process limits. What is put on top where the machine allows it: an empty network namespace and a user of its own. All of it passes
to every thread and process that the worker starts later, and none of it can be taken back.

Not covered, so to be known by whoever approves a study:

- faults of the kernel or the processor, and side channels: timing, caches, load, power, how much memory is free;
- what was handed over: open descriptors work on, so the agent starts the worker with all but its one socket closed (a stream or
  sequenced-packet pair), and everything the worker says over that socket is for the agent to check;
- names: the worker can ask whether a path outside exists, how large and how old it is, and can change timestamps of its user's files;
- processes that the worker started and that outlive it, unless ``processes=1``: these stay confined, but end the whole group;
- slowing the machine down (processor affinity, disk traffic, memory bandwidth): see `limits`;
- before Landlock ABI 6: signals to other processes of the same user, which only a user of its own then prevents.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from aimer2.core.errors import BadInput, Conflict, NotFound
from aimer2.site.sandbox import kernel, landlock, limits, privilege, seccomp

Network = Literal["seccomp", "seccomp+namespace", "none"]


@final
@dataclass(frozen=True, slots=True)
class Confinement:
    """What a worker may use.

    ``read``: trees (or single files) to read and execute. ``write``: trees to read and write but not execute; a device such as a GPU
    belongs here. ``memory_bytes``: private memory per process. ``cpu_seconds``: processor time over the worker's whole life.
    ``file_bytes``: size of any one file. ``processes``: 1 allows threads but no other process, and holds for any user; more limits
    processes and threads together, and holds only with a user or user namespace of its own. ``namespaces``: add an empty network
    namespace where allowed. ``uid``, ``gid``: change to this user where allowed (started as root; ``gid`` is ``uid`` if not given);
    what is closed to that user, the interpreter's folder included, is then out of reach also where it is among the trees.
    """

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    memory_bytes: int | None = None
    cpu_seconds: int | None = None
    file_bytes: int | None = None
    open_files: int = 256
    processes: int | None = None
    namespaces: bool = False
    uid: int | None = None
    gid: int | None = None


@final
@dataclass(frozen=True, slots=True)
class Enforced:
    """What was really put into force. ``files`` is Landlock's version (0: files are open); a limit of None is not in force."""

    network: Network
    files: int
    memory_bytes: int | None
    cpu_seconds: int | None
    file_bytes: int | None
    open_files: int | None
    processes: int | None
    user: int
    own_user: bool
    no_capabilities: bool

    def describe(self) -> list[str]:
        """One sentence for each protection, as a person at the site reads it."""
        return [
            {
                "seccomp": "Network: no socket can be opened (seccomp).",
                "seccomp+namespace": "Network: no socket can be opened (seccomp), and there is no interface to use one on (namespace).",
                "none": "Network: OPEN, this machine has no seccomp filter for it.",
            }[self.network],
            _about_files(self.files),
            _about("Memory", self.memory_bytes, "bytes of private memory in each process"),
            _about("Time", self.cpu_seconds, "processor seconds in each process"),
            _about("Disk", self.file_bytes, "bytes in any one file"),
            _about("Processes", self.processes, "in all"),
            f"User: {self.user}, {'its own' if self.own_user else 'shared with the agent'}; "
            + ("without capabilities." if self.no_capabilities else "CAPABILITIES KEPT."),
        ]


def _about(subject: str, limit: int | None, unit: str) -> str:
    return f"{subject}: not limited." if limit is None else f"{subject}: at most {limit} {unit}."


def _about_files(version: int) -> str:
    if version == 0:
        return "Files: OPEN to all that the user may read, this machine has no Landlock."
    if version < 6:
        return f"Files: only the given trees (Landlock {version}); signals to other processes are NOT held back before Landlock 6."
    return f"Files: only the given trees; signals only within the worker (Landlock {version})."


def confine(confinement: Confinement) -> Enforced:
    """Confine the calling process; what the machine can't enforce is left out and reported, for the site's policy to decide.

    Call it once, first thing in the worker, while there is one thread (numpy and torch start threads when they are imported).
    Raises Conflict with more than one thread, BadInput where a read tree lies in a write tree, NotFound where a tree is missing.
    """
    parent = os.getppid()
    _check(confinement)
    machine = kernel.architecture()
    version = landlock.abi() if machine else 0
    ruleset = _ruleset(version, confinement) if version else None
    own_user, namespace, own_namespace = _put_on_top(machine, confinement)
    no_capabilities = machine is not None and privilege.drop_capabilities(machine)
    own_count = (own_user or own_namespace) and os.getuid() != 0
    _limit(confinement, processes=confinement.processes if own_count else None)
    with suppress(OSError):
        limits.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        limits.prctl(kernel.PR_SET_DUMPABLE, 0)
    limits.die_with_parent(parent)
    files = version if ruleset is not None and landlock.restrict(ruleset) else 0
    alone = confinement.processes == 1
    filtered = machine is not None and seccomp.install(machine, forking=not alone)
    network: Network = "none" if not filtered else "seccomp+namespace" if namespace else "seccomp"
    return Enforced(
        network=network,
        files=files,
        memory_bytes=limits.in_force(resource.RLIMIT_DATA),
        cpu_seconds=limits.in_force(resource.RLIMIT_CPU),
        file_bytes=limits.in_force(resource.RLIMIT_FSIZE),
        open_files=limits.in_force(resource.RLIMIT_NOFILE),
        processes=(1 if filtered else None) if alone else (confinement.processes if own_count else None),
        user=os.getuid(),
        own_user=own_user,
        no_capabilities=no_capabilities,
    )


def _check(confinement: Confinement) -> None:
    threads = Path("/proc/self/task")
    if threads.is_dir() and len(os.listdir(threads)) > 1:
        raise Conflict("A process can be confined only while it has a single thread.")
    # In Landlock the rights of nested trees add up, so such a read tree would silently be writable.
    written = [path.resolve() for path in confinement.write]
    for path in confinement.read:
        if any(path.resolve().is_relative_to(tree) for tree in written):
            raise BadInput("A tree that is only to be read lies within a tree that may be written.")


def _ruleset(version: int, confinement: Confinement) -> int:
    """Opened before the user changes, while every tree can still be reached."""
    try:
        return landlock.ruleset(version, confinement.read, confinement.write)
    except FileNotFoundError as error:
        raise NotFound("A tree of the confinement does not exist.") from error


def _put_on_top(machine: kernel.Architecture | None, confinement: Confinement) -> tuple[bool, bool, bool]:
    """(user changed, network namespace entered, in a user namespace of its own)."""
    wanted = machine if confinement.namespaces else None
    # The plain namespace needs the old user's privilege; the one with a user namespace must belong to the new user.
    namespace = wanted is not None and privilege.enter_empty_network(wanted, own_user_namespace=False)
    user = confinement.uid
    own_user = user is not None and privilege.become(user, user if confinement.gid is None else confinement.gid)
    own_namespace = wanted is not None and not namespace and privilege.enter_empty_network(wanted, own_user_namespace=True)
    return own_user, namespace or own_namespace, own_namespace


def _limit(confinement: Confinement, *, processes: int | None) -> None:
    limits.no_core_dump()
    limits.limit_open_files(confinement.open_files)
    if confinement.memory_bytes is not None:
        limits.limit_memory(confinement.memory_bytes)
    if confinement.cpu_seconds is not None:
        limits.limit_cpu(confinement.cpu_seconds)
    if confinement.file_bytes is not None:
        limits.limit_file(confinement.file_bytes)
    if processes is not None and processes > 1:
        limits.limit_processes(processes)
