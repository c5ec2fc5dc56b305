"""The agent's side of its workers: one confined process per study, started when it is needed, kept warm, ended when idle or told to."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import AimerError, NotAvailable, OutOfResources, catalogue
from aimer2.core.said import say
from aimer2.site.line import AsyncLine
from aimer2.site.sandbox import python_trees
from aimer2.site.settings import Protection, WorkerSettings

_WARM_BYTES = 1 << 30
_PROCESS_CLOCK = 2
"""What `clock_getcpuclockid` adds to a process's number: its time by the scheduler."""

_REFILL_SECONDS = 2.0
"""So long nothing is at work before a spare worker is started: its imports take a core that a round would wait for."""


@final
class WorkerDied(Exception):
    """The process ended before it answered, by this signal (0: it left by itself)."""

    def __init__(self, by: int) -> None:
        super().__init__(by)
        self.signal = by

    @property
    def killed(self) -> bool:
        """Whether somebody, or the machine in want of memory, has ended it: it may succeed another time."""
        return self.signal == signal.SIGKILL


@final
@dataclass(frozen=True, slots=True)
class Opening:
    """What a worker is given of a study: ``folder/files`` to read, ``folder/scratch`` to write, the snapshot, and what it may use."""

    site: str
    folder: Path
    snapshot: Path
    sha256: str
    cpu_seconds: int
    settings: WorkerSettings
    disclosure: Disclosure = field(default_factory=Disclosure)
    """The hospital's limits on answers to statistical questions."""
    serves: Literal["serving", "leak.serving"] = "serving"
    """What runs inside: the study's tasks, or the attacks of a rehearsal."""


@final
@dataclass(frozen=True, slots=True)
class Spare:
    """A process that has no study yet and waits, unconfined, for its confinement: it has seen no study's code and no data, and has one thread.

    One that is ``ready`` has imported our own modules meanwhile, so that a study that comes is answered at once.
    """

    process: asyncio.subprocess.Process
    channel: socket.socket

    @classmethod
    async def begin(cls, settings: WorkerSettings, *, ready: bool) -> Spare:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        arguments = (sys.executable, "-I", "-B", "-m", "aimer2.site.worker", str(theirs.fileno()), str(os.getpid()))
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                *(("ready",) if ready else ()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=_environment(settings),
                cwd="/",
                start_new_session=True,
            )
        return cls(process, ours)

    async def end(self) -> None:
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        self.channel.close()


@final
class Worker:
    """One confined process, alive over the rounds of a study."""

    def __init__(self, process: asyncio.subprocess.Process, line: AsyncLine, opening: Opening) -> None:
        self._process = process
        self._line = line
        self.opening = opening
        self.enforced: Mapping[str, Any] = {}
        self._charged = 0.0

    @classmethod
    async def start(cls, opening: Opening, spare: Spare | None = None) -> Worker:
        """``spare``: a process that waits already. Raises NotAvailable where a required protection is not in force, WorkerDied, and what the
        study's opening raised."""
        begun = await Spare.begin(opening.settings, ready=False) if spare is None else spare
        worker = cls(begun.process, AsyncLine(begun.channel), opening)
        try:
            await worker._open()
        except BaseException:
            await worker.end()
            raise
        return worker

    async def _open(self) -> None:
        scratch = self.opening.folder / "scratch"
        _fresh_folder(scratch)
        log = _open_log(self.opening.folder / "worker.log")
        reply, _ = await self.ask({**_confinement(self.opening), "scratch": str(scratch)}, [log])
        self.enforced = reply.get("enforced", {})
        missing = [name for name in self.opening.settings.require if not in_force(self.enforced, name)]
        if missing:
            raise NotAvailable(
                say("This machine does not put into force: {missing}.", missing=", ".join(missing)),
                remedy="`aimer2 site doctor` says what to do; `worker.require` in site.toml says what is asked for.",
            )
        files = str(self.opening.folder / "files")
        where = {"site": self.opening.site, "files": files, "snapshot": str(self.opening.snapshot), "sha256": self.opening.sha256}
        await self.ask(where | {"serves": self.opening.serves, "disclosure": self.opening.disclosure.model_dump()})

    async def ask(self, document: dict[str, Any], files: list[int] | None = None) -> tuple[dict[str, Any], list[int]]:
        """Raises WorkerDied, or the error whose code the worker reports (with the class's own sentence: its text is not to be trusted)."""
        try:
            reply, made = await self._line.ask(document, files)
        except EOFError:
            raise WorkerDied(max(0, -await self._process.wait())) from None
        if "failed" in reply:
            for file in made:
                os.close(file)
            raise failed(str(reply["failed"]))
        return reply, made

    def cpu_seconds_since(self) -> float:
        """Spent since the last call by all its threads, as the kernel counts."""
        try:
            spent = time.clock_gettime(~self._process.pid << 3 | _PROCESS_CLOCK)
        except OSError:
            return 0.0
        since, self._charged = spent - self._charged, spent
        return since

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Killed from outside, between two tasks: the task that comes next is not to blame for it."""
        return self._process.returncode is not None

    def kill(self) -> None:
        """At once, with all that it started; a task in it gets WorkerDied."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        self.kill()
        await self._process.wait()
        self._line.close()


@final
class Workers:
    """The warm workers by study, and a spare one for the study that comes next."""

    def __init__(self, settings: WorkerSettings | None = None) -> None:
        """``settings``: keeps as many spare ones as they say, from ``prepare`` on; None: none."""
        self._settings = settings
        self.spares: list[Spare] = []
        self._refilling: asyncio.TimerHandle | None = None
        self._warm: dict[str, Worker] = {}
        self._idle: dict[str, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def warm(self, study: str) -> Worker | None:
        return self._warm.get(study)

    def processes(self) -> dict[str, Any]:
        """The numbers of the workers' processes, by study, and of those that wait."""
        return {"workers": {study: worker.pid for study, worker in self._warm.items()}, "spares": [spare.process.pid for spare in self.spares]}

    async def take(self, study: str, opening: Opening) -> Worker:
        """The study's worker: the warm one, or a new one where there is none or the snapshot has changed."""
        self._put_off()
        if (timer := self._idle.pop(study, None)) is not None:
            timer.cancel()
        worker = self._warm.get(study)
        if worker is not None and not worker.ended and worker.opening.snapshot == opening.snapshot:
            return worker
        await self.end(study)
        self._warm[study] = await self._started(opening)
        return self._warm[study]

    async def _started(self, opening: Opening) -> Worker:
        spare = self.spares.pop() if self.spares and opening.serves == "serving" and opening.settings == self._settings else None
        if spare is None:
            return await Worker.start(opening)
        try:
            return await Worker.start(opening, spare)
        except WorkerDied:
            # It may have been ended while it waited; that is no fault of the study's.
            return await Worker.start(opening)

    def prepare(self) -> None:
        """Starts spare ones where they are wanted, once nothing has been at work for a while."""
        self._put_off()
        settings = self._settings
        if settings is not None and settings.threads == 1 and len(self.spares) < settings.spares:
            self._refilling = asyncio.get_running_loop().call_later(_REFILL_SECONDS, self._aside, self.refill)

    def _put_off(self) -> None:
        if self._refilling is not None:
            self._refilling.cancel()
            self._refilling = None

    async def refill(self) -> None:
        """Starts spare ones now."""
        assert self._settings is not None
        self._refilling = None
        while len(self.spares) < self._settings.spares:
            self.spares.append(await Spare.begin(self._settings, ready=True))

    def rest(self, study: str) -> None:
        """Its task is done; it ends when none comes for a while."""
        self.prepare()
        worker = self._warm.get(study)
        if worker is not None:
            self._idle[study] = asyncio.get_running_loop().call_later(worker.opening.settings.idle_seconds, self._end_idle, study)

    def _end_idle(self, study: str) -> None:
        self._aside(partial(self.end, study))

    def _aside(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def end(self, study: str) -> None:
        if (timer := self._idle.pop(study, None)) is not None:
            timer.cancel()
        worker = self._warm.pop(study, None)
        if worker is not None:
            await worker.end()

    async def end_all(self) -> None:
        """All of them, spare ones too: those with data are killed before the first is waited for."""
        for worker in self._warm.values():
            worker.kill()
        self._put_off()
        for study in list(self._warm):
            await self.end(study)
        for spare in self.spares:
            await spare.end()
        self.spares.clear()

    async def close(self) -> None:
        await self.end_all()


def in_force(enforced: Mapping[str, Any], protection: Protection) -> bool:
    """Whether what a worker reported after `confine` has this protection."""
    found: dict[Protection, bool] = {
        "network": enforced.get("network", "none") != "none",
        "files": bool(enforced.get("files")),
        "namespace": enforced.get("network") == "seccomp+namespace",
        "capabilities": bool(enforced.get("no_capabilities")),
    }
    return found[protection]


def failed(code: str) -> AimerError:
    """The error of a code that came from a worker, with the class's own sentence."""
    kind = catalogue().get(code, AimerError)
    error = kind.__new__(kind)
    # BadStudy takes faults; here there is nothing but the code.
    AimerError.__init__(error)
    return error


def of_death(death: WorkerDied) -> AimerError:
    """What the end of a worker means: the kernel's limits end it by these signals."""
    if death.signal in (signal.SIGXCPU, signal.SIGKILL, signal.SIGXFSZ):
        return OutOfResources("The worker was ended by a limit of this machine.")
    return AimerError("The worker ended before it had answered.")


def _confinement(opening: Opening) -> dict[str, Any]:
    settings = opening.settings
    read = (*python_trees(), opening.snapshot, opening.folder / "files")
    return {
        "read": [str(path) for path in read],
        "write": [str(path) for path in (opening.folder / "scratch", *settings.devices)],
        "memory_bytes": settings.memory_mib << 20,
        "cpu_seconds": opening.cpu_seconds,
        "file_bytes": settings.disk_mib << 20,
        "processes": 1,
        "namespaces": True,
    }


def _environment(settings: WorkerSettings) -> dict[str, str]:
    """But for its own folder, which it is told with its study."""
    threads = str(settings.threads)
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), threads),
        # scikit-learn's joblib would try to start processes, and warn that it may not
        "JOBLIB_MULTIPROCESSING": "0",
        # Large arrays are taken from and given back to the process's own warm pages, not to the kernel, which would clear them each time.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(_WARM_BYTES),
        "MALLOC_TOP_PAD_": str(64 << 20),
    }


def _fresh_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)


def _open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
