"""The forms that `state.sqlite` has had, oldest first. A step that was once released is never changed; a new one is added below it."""

from __future__ import annotations

from typing import Final

STEPS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE studies (
            digest TEXT PRIMARY KEY,
            seen REAL NOT NULL,
            state TEXT NOT NULL,
            package TEXT)""",
        """CREATE TABLE decisions (
            id INTEGER PRIMARY KEY,
            study TEXT NOT NULL,
            document TEXT NOT NULL,
            statement TEXT NOT NULL,
            sent INTEGER NOT NULL DEFAULT 0)""",
        "CREATE INDEX decisions_of_study ON decisions (study, id)",
        """CREATE TABLE answers (
            task TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            study TEXT NOT NULL,
            position INTEGER NOT NULL,
            stage TEXT NOT NULL,
            round_number INTEGER NOT NULL,
            answer TEXT NOT NULL,
            inputs TEXT NOT NULL,
            memory TEXT NOT NULL,
            figures TEXT NOT NULL,
            bytes INTEGER NOT NULL,
            finished REAL NOT NULL,
            delivered REAL,
            erased INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (task, attempt))""",
        "CREATE INDEX answers_of_study ON answers (study, position)",
        "CREATE TABLE spent (study TEXT PRIMARY KEY, cpu_seconds REAL NOT NULL)",
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    ),
    (
        # Rows are only added: the last one of a site counts; without a key it has been taken out.
        """CREATE TABLE address_book (
            id INTEGER PRIMARY KEY,
            site TEXT NOT NULL,
            key TEXT,
            how TEXT NOT NULL,
            by TEXT NOT NULL,
            through TEXT,
            time REAL NOT NULL)""",
        "CREATE INDEX address_book_of_site ON address_book (site, id)",
    ),
    (
        # Every task asks how much is kept, and a study has many rounds of which nothing is.
        "CREATE INDEX answers_kept ON answers (study, bytes) WHERE erased = 0",
    ),
)
