"""What the agent remembers over restarts: studies, decisions, finished answers with the site's memory, what was spent. One SQLite file."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from aimer2.core.errors import VersionMismatch
from aimer2.core.task import Answer, BlobRef, Stage, Task
from aimer2.messages.package import Package
from aimer2.messages.wire import Decision, task_key
from aimer2.site.migrations import STEPS

_STAGES: tuple[Stage, ...] = ("preflight", "moments", "train", "final", "analyse")
_MOST_ROUNDS = 1_000_000


def position(task: Task) -> int:
    """Where a task stands in its study's order; attempts of one round share it."""
    return _STAGES.index(task.stage) * _MOST_ROUNDS + task.round_number


@final
@dataclass(frozen=True, slots=True)
class KnownStudy:
    digest: str
    seen: float
    state: str
    package: Package | None


@final
@dataclass(frozen=True, slots=True)
class Finished:
    """A computed task, as it is stored before its first byte leaves."""

    task: Task
    answer: Answer
    memory: Mapping[str, BlobRef]
    figures: Sequence[Mapping[str, Any]]
    cpu_seconds: float
    time: float


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """A stored answer; ``erased``: its sums were delivered long ago and are no longer here."""

    study: str
    answer: Answer
    erased: bool
    delivered: bool

    @property
    def key(self) -> str:
        return task_key(self.answer.task, self.answer.attempt)


@final
@dataclass(frozen=True, slots=True)
class Standing:
    """Everything that is known here before a task is begun; ``memory`` as the task of that round finds it, whatever its attempt."""

    decision: Decision | None
    stored: Stored | None
    memory: Mapping[str, BlobRef]
    bytes_kept: int
    cpu_seconds: float


# One question for each task.
_STANDING = """
    SELECT
        (SELECT document FROM decisions WHERE study = :study ORDER BY id DESC LIMIT 1) AS decision,
        (SELECT memory FROM answers WHERE study = :study AND position < :position ORDER BY position DESC, attempt DESC LIMIT 1) AS memory,
        (SELECT sum(bytes) FROM answers WHERE study = :study AND erased = 0) AS bytes,
        (SELECT cpu_seconds FROM spent WHERE study = :study) AS cpu_seconds,
        mine.study, mine.answer, mine.erased, mine.delivered
    FROM (SELECT 1) LEFT JOIN answers AS mine ON mine.task = :task AND mine.attempt = :attempt
"""
_COMMIT = """
    INSERT INTO answers (task, attempt, study, position, stage, round_number, answer, inputs, memory, figures, bytes, finished)
    VALUES (:task, :attempt, :study, :position, :stage, :round_number, :answer, :inputs, :memory, :figures, :bytes, :finished)
"""
_SPEND = """
    INSERT INTO spent VALUES (:study, :cpu_seconds) ON CONFLICT (study) DO UPDATE SET cpu_seconds = spent.cpu_seconds + :cpu_seconds
"""
_BUSY_SECONDS = 30


@final
class Store:
    """Several threads, and several processes (agent and command line), may use it at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        with self._writing() as database:
            _migrate(database)
        path.chmod(0o600)

    def close(self) -> None:
        """This thread's connection; another thread's closes when that thread ends."""
        database: sqlite3.Connection | None = self._local.__dict__.pop("database", None)
        if database is not None:
            database.close()

    @property
    def _database(self) -> sqlite3.Connection:
        """This thread's own connection; outside `_writing` each statement is a transaction."""
        database: sqlite3.Connection | None = getattr(self._local, "database", None)
        if database is None:
            database = self._local.database = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
            database.row_factory = sqlite3.Row
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
        return database

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, undone when an error leaves it."""
        database = self._database
        # Taking the write lock first: what is read in it is still so when it is written.
        database.execute("BEGIN IMMEDIATE")
        with database:
            yield database

    # studies

    def note_study(self, digest: str, state: str, now: float) -> bool:
        """Whether it is new here."""
        with self._writing() as database:
            if database.execute("UPDATE studies SET state = ? WHERE digest = ?", (state, digest)).rowcount:
                return False
            database.execute("INSERT INTO studies (digest, seen, state) VALUES (?, ?, ?)", (digest, now, state))
            return True

    def keep_package(self, digest: str, package: Package) -> None:
        self._database.execute("UPDATE studies SET package = ? WHERE digest = ?", (package.model_dump_json(), digest))

    def study(self, digest: str) -> KnownStudy | None:
        return next(map(_known, self._database.execute("SELECT * FROM studies WHERE digest = ?", (digest,))), None)

    def studies(self) -> list[KnownStudy]:
        return [_known(row) for row in self._database.execute("SELECT * FROM studies ORDER BY seen")]

    def states(self) -> dict[str, str]:
        """Of each study whose package is here, without reading it."""
        return {
            row["digest"]: row["state"] for row in self._database.execute("SELECT digest, state FROM studies WHERE package IS NOT NULL ORDER BY seen")
        }

    # decisions

    def decide(self, decision: Decision, statement: str) -> None:
        row = (decision.study, decision.model_dump_json(), statement)
        self._database.execute("PRAGMA synchronous = FULL")  # a power cut must not undo a withdrawal
        self._database.execute("INSERT INTO decisions (study, document, statement) VALUES (?, ?, ?)", row)
        self._database.execute("PRAGMA synchronous = NORMAL")

    def decision(self, study: str) -> Decision | None:
        """The last word."""
        return next(reversed(self.decisions(study)), None)

    def decisions(self, study: str | None = None) -> list[Decision]:
        """Oldest first."""
        rows = self._database.execute("SELECT document FROM decisions WHERE study = ? OR ? IS NULL ORDER BY id", (study, study))
        return [Decision.model_validate_json(row["document"]) for row in rows]

    def decisions_after(self, number: int) -> list[tuple[int, Decision]]:
        """With the number of each, oldest first; they are numbered upwards from 1."""
        rows = self._database.execute("SELECT id, document FROM decisions WHERE id > ? ORDER BY id", (number,))
        return [(row["id"], Decision.model_validate_json(row["document"])) for row in rows]

    def unsent(self) -> list[tuple[int, str]]:
        """Statements that the coordinator has not had yet, oldest first."""
        rows = self._database.execute("SELECT id, statement FROM decisions WHERE sent = 0 ORDER BY id")
        return [(row["id"], row["statement"]) for row in rows]

    def mark_sent(self, number: int) -> None:
        self._database.execute("UPDATE decisions SET sent = 1 WHERE id = ?", (number,))

    # answers

    def commit(self, done: Finished) -> None:
        """Answer, the site's memory and what was spent, together or not at all."""
        sizes = [ref.size for ref in (*done.answer.sums.values(), *done.task.inputs.values(), *done.memory.values())]
        row = {
            "task": done.task.id,
            "attempt": done.task.attempt,
            "study": done.task.study,
            "position": position(done.task),
            "stage": done.task.stage,
            "round_number": done.task.round_number,
            "answer": done.answer.model_dump_json(),
            "inputs": _dump(done.task.inputs),
            "memory": _dump(done.memory),
            "figures": json.dumps(list(done.figures)),
            "bytes": sum(sizes),
            "finished": done.time,
        }
        with self._writing() as database:
            database.execute(_COMMIT, row)
            database.execute(_SPEND, {"study": done.task.study, "cpu_seconds": done.cpu_seconds})

    def releases(self, task: Task) -> bool:
        """Whether the site's own figures may go with this task: they are told once in a study, with its first last task."""
        row = self._database.execute("SELECT 1 FROM answers WHERE study = ? AND stage = 'final' LIMIT 1", (task.study,)).fetchone()
        return row is None

    def standing(self, task: Task) -> Standing:
        """What is known before a task is begun."""
        asked = {"study": task.study, "position": position(task), "task": task.id, "attempt": task.attempt}
        row = self._database.execute(_STANDING, asked).fetchone()
        return Standing(
            decision=Decision.model_validate_json(row["decision"]) if row["decision"] else None,
            stored=_stored(row) if row["answer"] else None,
            memory={name: BlobRef(**ref) for name, ref in json.loads(row["memory"] or "{}").items()},
            bytes_kept=row["bytes"] or 0,
            cpu_seconds=row["cpu_seconds"] or 0.0,
        )

    def spend(self, study: str, cpu_seconds: float) -> None:
        """What a task that gave no answer has cost."""
        self._database.execute(_SPEND, {"study": study, "cpu_seconds": cpu_seconds})

    def undelivered(self) -> list[Stored]:
        """Answers that the coordinator has not taken yet, oldest first."""
        return [_stored(row) for row in self._database.execute("SELECT * FROM answers WHERE delivered IS NULL AND erased = 0 ORDER BY finished")]

    def mark_delivered(self, answers: Iterable[Answer], now: float) -> None:
        rows = [(now, answer.task, answer.attempt) for answer in answers]
        if rows:
            with self._writing() as database:
                database.executemany("UPDATE answers SET delivered = ? WHERE task = ? AND attempt = ?", rows)

    def rounds(self, study: str) -> list[dict[str, Any]]:
        """What was answered, with the site's own figures, in order."""
        rows = self._database.execute("SELECT * FROM answers WHERE study = ? ORDER BY position, attempt", (study,))
        return [
            {
                "task": row["task"],
                "attempt": row["attempt"],
                "stage": row["stage"],
                "round": row["round_number"],
                "finished": row["finished"],
                "delivered": row["delivered"],
                "sums": {name: ref["sha256"] for name, ref in json.loads(row["answer"])["sums"].items()},
                "figures": json.loads(row["figures"]),
            }
            for row in rows
        ]

    # room

    def erase(self, study: str) -> None:
        """Nothing of this study's sums and memory is here any more."""
        self._database.execute("UPDATE answers SET erased = 1, memory = '{}', inputs = '{}' WHERE study = ?", (study,))

    def tidy(self, study: str) -> list[BlobRef]:
        """Forgets what was delivered before the last two rounds; returns the blobs that nothing needs any more."""
        before = "SELECT DISTINCT position FROM answers WHERE study = ? ORDER BY position DESC LIMIT 1 OFFSET 1"
        old = "study = ? AND erased = 0 AND position < ? AND delivered IS NOT NULL"
        kept = "SELECT answer, inputs, memory FROM answers WHERE"
        with self._writing() as database:
            row = database.execute(before, (study,)).fetchone()
            named = (study, row["position"] if row else 0)
            gone = _refs(database.execute(f"{kept} {old}", named))
            if not gone:
                return []
            database.execute(f"UPDATE answers SET erased = 1, memory = '{{}}', inputs = '{{}}' WHERE {old}", named)
            left = _refs(database.execute(f"{kept} study = ? AND erased = 0", (study,)))
        return [ref for sha256, ref in gone.items() if sha256 not in left]

    def spent(self, study: str) -> float:
        """CPU seconds."""
        row = self._database.execute("SELECT cpu_seconds FROM spent WHERE study = ?", (study,)).fetchone()
        return float(row["cpu_seconds"]) if row else 0.0

    # single facts

    def fact(self, name: str) -> str | None:
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row["value"])

    def note(self, name: str, value: str) -> None:
        self._database.execute("INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value))


def _dump(refs: Mapping[str, BlobRef]) -> str:
    return json.dumps({name: ref.model_dump() for name, ref in refs.items()})


def _refs(rows: Iterable[sqlite3.Row]) -> dict[str, BlobRef]:
    found = {}
    for row in rows:
        trees = (json.loads(row["answer"])["sums"], json.loads(row["inputs"]), json.loads(row["memory"]))
        for ref in (ref for tree in trees for ref in tree.values()):
            found[ref["sha256"]] = BlobRef(**ref)
    return found


def _known(row: sqlite3.Row) -> KnownStudy:
    package = Package.model_validate_json(row["package"]) if row["package"] else None
    return KnownStudy(row["digest"], row["seen"], row["state"], package)


def _stored(row: sqlite3.Row) -> Stored:
    return Stored(row["study"], Answer.model_validate_json(row["answer"]), bool(row["erased"]), row["delivered"] is not None)


def _migrate(database: sqlite3.Connection) -> None:
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > len(STEPS):
        raise VersionMismatch("The site's state was written by a newer version of AIMER2.", remedy="Use that version again, or a backup.")
    for step in STEPS[version:]:
        for statement in step:
            database.execute(statement)
    database.execute(f"PRAGMA user_version = {len(STEPS)}")
