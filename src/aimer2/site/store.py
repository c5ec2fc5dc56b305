"""What the agent remembers over restarts: studies, decisions, finished answers with the site's memory, what was spent. One SQLite file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from aimer2.core.errors import VersionMismatch
from aimer2.core.task import Answer, BlobRef, Stage, Task
from aimer2.messages.package import Package
from aimer2.messages.wire import Decision, task_key
from aimer2.site.migrations import STEPS

_METADATA = sa.MetaData()


def _table(name: str, *columns: str) -> sa.Table:
    return sa.Table(name, _METADATA, *(sa.Column(column) for column in columns))


_STUDIES = _table("studies", "digest", "seen", "state", "package")
_DECISIONS = _table("decisions", "id", "study", "document", "statement", "sent")
_ANSWERS = _table(
    "answers",
    *("task", "attempt", "study", "position", "stage", "round_number", "answer", "inputs", "memory", "figures"),
    *("bytes", "finished", "delivered", "erased"),
)
_SPENT = _table("spent", "study", "cpu_seconds")
_FACTS = _table("facts", "name", "value")

_STAGES: tuple[Stage, ...] = ("preflight", "moments", "train", "final")
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


# One question for each task: built once, as a statement costs ten times as much to build as to run.
_STANDING = sa.text("""
    SELECT
        (SELECT document FROM decisions WHERE study = :study ORDER BY id DESC LIMIT 1) AS decision,
        (SELECT memory FROM answers WHERE study = :study AND position < :position ORDER BY position DESC, attempt DESC LIMIT 1) AS memory,
        (SELECT sum(bytes) FROM answers WHERE study = :study AND erased = 0) AS bytes,
        (SELECT cpu_seconds FROM spent WHERE study = :study) AS cpu_seconds,
        mine.study, mine.answer, mine.erased, mine.delivered
    FROM (SELECT 1) LEFT JOIN answers AS mine ON mine.task = :task AND mine.attempt = :attempt
""")
_COMMIT = sa.insert(_ANSWERS)
_SPEND = sa.text("""
    INSERT INTO spent VALUES (:study, :cpu_seconds) ON CONFLICT (study) DO UPDATE SET cpu_seconds = spent.cpu_seconds + :cpu_seconds
""")
_DELIVERED = sa.text("UPDATE answers SET delivered = :now WHERE task = :task AND attempt = :attempt")


@final
class Store:
    """Several processes may use it at once (agent and command line)."""

    def __init__(self, path: Path) -> None:
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        self._local = threading.local()
        sa.event.listen(self._engine, "connect", _configure)
        with self._engine.connect() as connection:
            _migrate(connection)
        path.chmod(0o600)

    def close(self) -> None:
        self._engine.dispose()

    def _kept(self) -> sa.Connection:
        """This thread's own connection, for what is asked with every task: opening anew would double its time."""
        kept: sa.Connection | None = getattr(self._local, "connection", None)
        if kept is None:
            kept = self._local.connection = self._engine.connect()
        return kept

    # studies

    def note_study(self, digest: str, state: str, now: float) -> bool:
        """Whether it is new here."""
        with self._engine.begin() as connection:
            if connection.execute(sa.update(_STUDIES).where(_STUDIES.c.digest == digest).values(state=state)).rowcount:
                return False
            connection.execute(sa.insert(_STUDIES).values(digest=digest, seen=now, state=state))
            return True

    def keep_package(self, digest: str, package: Package) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.update(_STUDIES).where(_STUDIES.c.digest == digest).values(package=package.model_dump_json()))

    def study(self, digest: str) -> KnownStudy | None:
        return next(iter(self._studies(_STUDIES.c.digest == digest)), None)

    def studies(self) -> list[KnownStudy]:
        return self._studies(sa.true())

    def _studies(self, where: sa.ColumnElement[bool]) -> list[KnownStudy]:
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_STUDIES).where(where).order_by(_STUDIES.c.seen)).all()
        return [KnownStudy(r.digest, r.seen, r.state, Package.model_validate_json(r.package) if r.package else None) for r in rows]

    # decisions

    def decide(self, decision: Decision, statement: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                sa.insert(_DECISIONS).values(study=decision.study, document=decision.model_dump_json(), statement=statement, sent=0)
            )

    def decision(self, study: str) -> Decision | None:
        """The last word."""
        return next(reversed(self.decisions(study)), None)

    def decisions(self, study: str | None = None) -> list[Decision]:
        """Oldest first."""
        where = sa.true() if study is None else _DECISIONS.c.study == study
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_DECISIONS.c.document).where(where).order_by(_DECISIONS.c.id)).scalars()
            return [Decision.model_validate_json(text) for text in rows]

    def unsent(self) -> list[tuple[int, str]]:
        """Statements that the coordinator has not had yet, oldest first."""
        columns = (_DECISIONS.c.id, _DECISIONS.c.statement)
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(*columns).where(_DECISIONS.c.sent == 0).order_by(_DECISIONS.c.id)).all()
        return [(row.id, row.statement) for row in rows]

    def mark_sent(self, number: int) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.update(_DECISIONS).where(_DECISIONS.c.id == number).values(sent=1))

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
            "delivered": None,
            "erased": 0,
        }
        connection = self._kept()
        with connection.begin():
            connection.execute(_COMMIT, row)
            connection.execute(_SPEND, {"study": done.task.study, "cpu_seconds": done.cpu_seconds})

    def standing(self, task: Task) -> Standing:
        """What is known before a task is begun."""
        asked = {"study": task.study, "position": position(task), "task": task.id, "attempt": task.attempt}
        connection = self._kept()
        with connection.begin():
            row = connection.execute(_STANDING, asked).one()
        return Standing(
            decision=Decision.model_validate_json(row.decision) if row.decision else None,
            stored=_stored(row) if row.answer else None,
            memory={name: BlobRef(**ref) for name, ref in json.loads(row.memory or "{}").items()},
            bytes_kept=row.bytes or 0,
            cpu_seconds=row.cpu_seconds or 0.0,
        )

    def spend(self, study: str, cpu_seconds: float) -> None:
        """What a task that gave no answer has cost."""
        with self._engine.begin() as connection:
            connection.execute(_SPEND, {"study": study, "cpu_seconds": cpu_seconds})

    def undelivered(self) -> list[Stored]:
        """Answers that the coordinator has not taken yet, oldest first."""
        columns = (_ANSWERS.c.study, _ANSWERS.c.answer, _ANSWERS.c.erased, _ANSWERS.c.delivered)
        where = _ANSWERS.c.delivered.is_(None) & (_ANSWERS.c.erased == 0)
        with self._engine.connect() as connection:
            return [_stored(row) for row in connection.execute(sa.select(*columns).where(where).order_by(_ANSWERS.c.finished))]

    def mark_delivered(self, answers: Iterable[Answer], now: float) -> None:
        rows = [{"now": now, "task": answer.task, "attempt": answer.attempt} for answer in answers]
        if rows:
            with self._engine.begin() as connection:
                connection.execute(_DELIVERED, rows)

    def rounds(self, study: str) -> list[dict[str, Any]]:
        """What was answered, with the site's own figures, in order."""
        where = _ANSWERS.c.study == study
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_ANSWERS).where(where).order_by(_ANSWERS.c.position, _ANSWERS.c.attempt)).all()
        return [
            {
                "task": row.task,
                "attempt": row.attempt,
                "stage": row.stage,
                "round": row.round_number,
                "finished": row.finished,
                "delivered": row.delivered,
                "sums": {name: ref["sha256"] for name, ref in json.loads(row.answer)["sums"].items()},
                "figures": json.loads(row.figures),
            }
            for row in rows
        ]

    # room

    def erase(self, study: str) -> None:
        """Nothing of this study's sums and memory is here any more."""
        with self._engine.begin() as connection:
            connection.execute(sa.update(_ANSWERS).where(_ANSWERS.c.study == study).values(erased=1, memory="{}", inputs="{}"))

    def tidy(self, study: str) -> list[BlobRef]:
        """Forgets what was delivered before the last two rounds; returns the blobs that nothing needs any more."""
        positions = sa.select(_ANSWERS.c.position).where(_ANSWERS.c.study == study).distinct().order_by(_ANSWERS.c.position.desc())
        kept = sa.select(_ANSWERS.c.answer, _ANSWERS.c.inputs, _ANSWERS.c.memory)
        here = (_ANSWERS.c.study == study) & (_ANSWERS.c.erased == 0)
        with self._engine.begin() as connection:
            before = connection.execute(positions.offset(1).limit(1)).scalar()
            old = here & (_ANSWERS.c.position < (before or 0)) & _ANSWERS.c.delivered.is_not(None)
            gone = _refs(connection.execute(kept.where(old)).all())
            if not gone:
                return []
            connection.execute(sa.update(_ANSWERS).where(old).values(erased=1, memory="{}", inputs="{}"))
            left = _refs(connection.execute(kept.where(here)).all())
        return [ref for sha256, ref in gone.items() if sha256 not in left]

    def spent(self, study: str) -> float:
        """CPU seconds."""
        with self._engine.connect() as connection:
            return float(connection.execute(sa.select(_SPENT.c.cpu_seconds).where(_SPENT.c.study == study)).scalar() or 0)

    # single facts

    def fact(self, name: str) -> str | None:
        with self._engine.connect() as connection:
            value: str | None = connection.execute(sa.select(_FACTS.c.value).where(_FACTS.c.name == name)).scalar()
        return value

    def note(self, name: str, value: str) -> None:
        statement = insert(_FACTS).values(name=name, value=value)
        with self._engine.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


def _dump(refs: Mapping[str, BlobRef]) -> str:
    return json.dumps({name: ref.model_dump() for name, ref in refs.items()})


def _refs(rows: Sequence[Any]) -> dict[str, BlobRef]:
    found = {}
    for row in rows:
        trees = (json.loads(row.answer)["sums"], json.loads(row.inputs), json.loads(row.memory))
        for ref in (ref for tree in trees for ref in tree.values()):
            found[ref["sha256"]] = BlobRef(**ref)
    return found


def _stored(row: Any) -> Stored:
    return Stored(row.study, Answer.model_validate_json(row.answer), bool(row.erased), row.delivered is not None)


def _configure(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _migrate(connection: sa.Connection) -> None:
    # Taking the write lock first: two processes that start at once must not both take a step.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if version > len(STEPS):
        raise VersionMismatch("The site's state was written by a newer version of AIMER2.", remedy="Use that version again, or a backup.")
    for step in STEPS[version:]:
        for statement in step:
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql(f"PRAGMA user_version = {len(STEPS)}")
    connection.commit()
