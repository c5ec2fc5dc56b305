"""Which statistical questions were answered here, of whom, and what they told: so that no answer together with earlier ones tells of few patients.

`questions.sqlite` in the site's folder holds pseudonyms and names of columns, no value of a patient, and never leaves the site. What was told once is
told for good: nothing is deleted. Compared are the questions of all researchers, for answers are passed on and published.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from aimer2.core.disclosure import Disclosure
from aimer2.privacy.disclosure import too_close
from aimer2.study.asked import Asked, Patients

_BUSY_SECONDS = 30
_DAY = 86_400
_TABLES = (
    "CREATE TABLE IF NOT EXISTS answered (study TEXT, analysis TEXT, dataset TEXT, researcher TEXT, time REAL, PRIMARY KEY (study, analysis))",
    "CREATE TABLE IF NOT EXISTS cohorts (digest TEXT PRIMARY KEY, patients BLOB, columns TEXT)",
    "CREATE TABLE IF NOT EXISTS told (dataset TEXT, column TEXT, term TEXT, cohort TEXT, PRIMARY KEY (dataset, column, term, cohort))",
)


@final
@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks what: the approved study, its data set here, its researcher by the name that the study gives."""

    study: str
    dataset: str
    researcher: str
    questions: Sequence[Asked]


@final
@dataclass(frozen=True, slots=True)
class Questions:
    """The memory of one site; several processes may use it at once."""

    path: Path

    def too_many(self, asking: Asking, limits: Disclosure, now: float) -> str | None:
        """Why these questions are more than this site answers; None where they are not."""
        with self._database() as database:
            since = (asking.dataset, asking.researcher, now - limits.question_days * _DAY, asking.study)
            query = "SELECT count(*) FROM answered WHERE dataset = ? AND researcher = ? AND time > ? AND study != ?"
            [before] = database.execute(query, since).fetchone()
        if before + len(asking.questions) <= limits.questions:
            return None
        return (
            f"{asking.researcher} has had {before} questions answered of this data set in the last {limits.question_days:g} days, "
            f"and this site answers {limits.questions}"
        )

    def together(self, asking: Asking, limits: Disclosure) -> list[str]:
        """What these questions would tell together with those answered before, and with each other: one sentence each."""
        with self._database() as database:
            return [*self._close(database, asking, limits), *self._saturated(database, asking, limits)]

    def remember(self, asking: Asking, now: float) -> None:
        """Before the first byte of an answer leaves."""
        with self._database() as database:
            for one in asking.questions:
                row = (asking.study, one.analysis, asking.dataset, asking.researcher, now)
                database.execute("INSERT OR IGNORE INTO answered VALUES (?, ?, ?, ?, ?)", row)
                for name, patients in one.cohorts.items():
                    _keep(database, patients, one.columns[name])
                told = [(asking.dataset, column, term, _digest(one.cohort_of(column))) for column, terms in one.equations.items() for term in terms]
                database.executemany("INSERT OR IGNORE INTO told VALUES (?, ?, ?, ?)", told)

    def _close(self, database: sqlite3.Connection, asking: Asking, limits: Disclosure) -> Iterator[str]:
        rows = database.execute("SELECT digest, patients, columns FROM cohorts")
        known = {digest: (np.frombuffer(patients, np.uint64), frozenset(json.loads(columns))) for digest, patients, columns in rows}
        for one in asking.questions:
            own: dict[str, tuple[Patients, frozenset[str]]] = {}
            for name, patients in one.cohorts.items():
                digest = _digest(patients)
                own[digest] = (patients, one.columns[name] | own.get(digest, (patients, frozenset()))[1])
            # A cohort that was answered before needs a second look only for the columns that are new to it.
            new = [(patients, columns - (known[digest][1] if digest in known else frozenset())) for digest, (patients, columns) in own.items()]
            others = [*known.values(), *own.values()]
            if any(columns & theirs and too_close(patients, other, limits.minimum_cell) for patients, columns in new for other, theirs in others):
                yield f"{one.analysis}: its patients, or those of a category, are those of another question but for fewer than {limits.minimum_cell}"
            for digest, (patients, columns) in own.items():
                known[digest] = (patients, columns | known.get(digest, (patients, frozenset()))[1])

    def _saturated(self, database: sqlite3.Connection, asking: Asking, limits: Disclosure) -> Iterator[str]:
        """What was told of a column counts wherever it was told of the same patients, or of some of them, whatever their data set was called."""
        told: dict[str, set[tuple[str, str]]] = {}
        for column, term, cohort in database.execute("SELECT column, term, cohort FROM told"):
            told.setdefault(column, set()).add((term, cohort))
        patients = {digest: np.frombuffer(of, np.uint64) for digest, of in database.execute("SELECT digest, patients FROM cohorts")}
        for one in asking.questions:
            for column, terms in one.equations.items():
                whole = one.cohort_of(column)
                own = _digest(whole)
                patients[own] = whole
                all_of_them = told.setdefault(column, set())
                shared = {digest for digest in {digest for _, digest in all_of_them} if digest == own or np.isin(whole, patients[digest]).any()}
                before = {(term, digest) for term, digest in all_of_them if digest in shared}
                after = before | {(term, own) for term in terms}
                if len(after) > len(before) and len(after) * limits.patients_per_parameter > len(whole):
                    told_of = f"{len(after)} coefficients would be told of {column}"
                    yield f"{one.analysis}: with earlier questions, {told_of}, too many for the patients here"
                all_of_them |= after

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        self.path.touch(mode=0o600)
        with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS)) as database, database:
            for table in _TABLES:
                database.execute(table)
            yield database


def _keep(database: sqlite3.Connection, patients: Patients, columns: Iterable[str]) -> None:
    digest = _digest(patients)
    row = database.execute("SELECT columns FROM cohorts WHERE digest = ?", (digest,)).fetchone()
    whole = sorted({*columns, *(json.loads(row[0]) if row else ())})
    database.execute("INSERT OR REPLACE INTO cohorts VALUES (?, ?, ?)", (digest, patients.tobytes(), json.dumps(whole)))


def _digest(patients: Patients) -> str:
    return hashlib.sha256(patients.tobytes()).hexdigest()
