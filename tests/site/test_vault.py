"""The vault: all or nothing, there for the next process, no good after a power cut, and what is erased is gone from the file."""

from __future__ import annotations

import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest

from aimer2.site.vault import FileVault

SECRET = b"thirty-two bytes that nobody sees"


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def test_what_is_kept_is_there_for_the_next_process_and_for_nobody_else(tmp_path: Path) -> None:
    with closing(FileVault(tmp_path / "vault.sqlite")) as vault:
        vault.change({"study/a/state": SECRET, "study/a/1/update": b"said"})
        assert vault.load("study/a/state") == SECRET
        assert vault.load("study/a") is None
        with closing(FileVault(tmp_path / "vault.sqlite")) as other:
            assert other.load("study/a/state") == SECRET, "on disk before it returned"
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_change_erases_by_prefix_and_keeps_in_one_step(tmp_path: Path) -> None:
    with closing(FileVault(tmp_path / "vault.sqlite")) as vault:
        vault.change({"s/a/state": b"1", "s/a/1/update": b"2", "s/ab/state": b"3", "s/a": b"4"})
        vault.change({"s/closed/a": b"closed", "s/a/state": b"5"}, ["s/a/"])
        found = {name: vault.load(name) for name in ("s/a/state", "s/a/1/update", "s/ab/state", "s/a", "s/closed/a")}
    assert found == {"s/a/state": b"5", "s/a/1/update": None, "s/ab/state": b"3", "s/a": b"4", "s/closed/a": b"closed"}


def test_half_a_change_is_none(tmp_path: Path) -> None:
    with closing(FileVault(tmp_path / "vault.sqlite")) as vault:
        vault.change({"s/one": b"1"})
        with pytest.raises(sqlite3.Error):
            vault.change({"s/two": b"2", "s/three": None}, ["s/one"])  # type: ignore[dict-item]
        assert (vault.load("s/one"), vault.load("s/two")) == (b"1", None)
        vault.change({"s/two": b"2"})
        assert vault.load("s/two") == b"2", "it goes on"


def test_erased_secrets_are_in_no_file_once_it_is_settled(tmp_path: Path) -> None:
    with closing(FileVault(tmp_path / "vault.sqlite")) as vault:
        vault.change({"s/a/state": SECRET})
        assert SECRET in files(tmp_path)
        vault.change({}, ["s/a/"])
        assert SECRET in files(tmp_path), "power check: the log that changes go through still holds it"
        vault.settle()
        assert SECRET not in files(tmp_path)
        vault.change({"s/b/state": b"more"})
        assert vault.load("s/b/state") == b"more"


def test_somebody_who_reads_on_keeps_no_change_waiting_for_the_log_to_be_emptied(tmp_path: Path) -> None:
    with closing(FileVault(tmp_path / "vault.sqlite")) as vault, closing(sqlite3.connect(tmp_path / "vault.sqlite")) as reader:
        vault.change({"s/a/state": SECRET})
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM secrets").fetchall()
        vault.change({}, ["s/a/"])
        settling = threading.Thread(target=vault.settle, daemon=True)
        settling.start()
        settling.join(5)
        assert not settling.is_alive(), "else it holds the writers' lock for as long"
        vault.change({"s/b/state": b"more"})
        reader.rollback()
        vault.settle()
        assert SECRET not in files(tmp_path), "the next time"


STUDY = "a" * 64
KEPT = {f"{STUDY}/current": b"train-1-1", f"{STUDY}/train-1-1/state": SECRET, f"{STUDY}/marks/opened/train-1": b"these"}


def test_secrets_outlive_a_start_of_the_machine_only_where_the_agent_ended_in_order(tmp_path: Path) -> None:
    def found(start: str, *, in_order: bool = False) -> dict[str, bytes | None]:
        with closing(FileVault(tmp_path / "vault.sqlite", start)) as vault:
            names = (f"{STUDY}/train-1-1/state", f"{STUDY}/marks/opened/train-1", f"{STUDY}/marks/closed/train-1-1")
            kept = {name.rpartition("/")[2]: vault.load(name) for name in names}
            if in_order:
                vault.end_in_order()
        return kept

    with closing(FileVault(tmp_path / "vault.sqlite", "first")) as vault:
        vault.change(KEPT)
    whole = {"state": SECRET, "train-1": b"these", "train-1-1": None}
    assert found("first", in_order=True) == whole, "killed and run again"
    assert found("second") == whole, "an update of the machine"
    assert found("second") == whole
    assert found("third") == {"state": None, "train-1": b"these", "train-1-1": b"closed"}, "a power cut: that it had ended in order is long past"


def test_who_runs_again_after_an_end_in_order_has_not_ended_in_order(tmp_path: Path) -> None:
    with closing(FileVault(tmp_path / "vault.sqlite", "first")) as vault:
        vault.change(KEPT)
        vault.end_in_order()
    with closing(FileVault(tmp_path / "vault.sqlite", "first")) as vault:
        vault.change({f"{STUDY}/train-1-1/2/update": b"said since"})  # and then a power cut
    with closing(FileVault(tmp_path / "vault.sqlite", "second")) as vault:
        assert vault.load(f"{STUDY}/train-1-1/state") is None
