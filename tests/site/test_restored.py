"""A site whose `state.sqlite` was put back from a backup, beside the audit log of today."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from aimer2.core.clock import SystemClock
from aimer2.core.errors import Conflict
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.messages.package import digest as digest_of
from aimer2.site.decisions import Decisions
from aimer2.site.freeze import freeze, freeze_of, thaw
from aimer2.site.restored import forgotten, recover, require_whole
from aimer2.site.store import Store

BY, OTHER = "Dr Ines Vogt", "Dr Jan Roth"
EAST = SigningKey.generate().public


class Later:
    """Two minutes from now."""

    def now(self) -> float:
        return SystemClock().now() + 120

    def monotonic(self) -> float:
        return SystemClock().monotonic()


@pytest.fixture
def digest(site: Decisions, package: Package) -> str:
    """A study that was offered, and the key of another site; a backup holds both."""
    study = digest_of(package)
    site.store.note_study(study, "offered", 0.0)
    site.store.keep_package(study, package)
    site.address_book.verify("east", EAST.fingerprint, [EAST], by=BY, how="telephone")
    return study


@pytest.fixture
def backup(site: Decisions, tmp_path: Path) -> Callable[[], Callable[[], Decisions]]:
    """Makes a copy of the state; what it returns puts that copy back, as an agent finds it that starts then."""

    def make() -> Callable[[], Decisions]:
        copy = tmp_path / "backup.sqlite"
        with closing(sqlite3.connect(site.folder.state)) as now, closing(sqlite3.connect(copy)) as then:
            now.backup(then)

        def put_back() -> Decisions:
            site.store.close()
            for suffix in ("-wal", "-shm"):
                Path(f"{site.folder.state}{suffix}").unlink(missing_ok=True)
            shutil.copy(copy, site.folder.state)
            return replace(site, store=Store(site.folder.state))

        return put_back

    return make


def test_a_state_of_its_own_has_forgotten_nothing(site: Decisions, digest: str) -> None:
    for _ in range(2):
        site.approve(digest, by=BY)
        require_whole(site)
        site.withdraw(digest, by=BY)
        require_whole(site)
        freeze(site, by=BY, reason="a drill")
        require_whole(site)
        thaw(site, by=BY, reason="it was one")
        site.address_book.remove("east", by=BY, reason="left")
        require_whole(site)
        site.address_book.verify("east", EAST.fingerprint, [EAST], by=BY, how="telephone")
    assert forgotten(site) == [] and recover(site, by=OTHER) == []


@pytest.mark.parametrize("word", ["withdraw", "refuse"])
def test_what_was_ended_after_the_backup_stays_ended(
    site: Decisions, digest: str, backup: Callable[..., Callable[..., Decisions]], word: str
) -> None:
    site.approve(digest, by=BY)
    put_back = backup()
    end = {"withdraw": lambda: site.withdraw(digest, by=BY), "refuse": lambda: site.refuse(digest, by=BY, reason="no")}
    end[word]()
    restored = put_back()
    allowed = restored.store.decision(digest)
    assert allowed is not None and allowed.decision == "approve"
    with pytest.raises(Conflict, match=f"{digest[:12]}: (refused|withdrawn from) by {BY}") as refused:
        require_whole(restored)
    assert "aimer2 site recover" in refused.value.advice
    assert [one.name for one in recover(restored, by=OTHER)] == [digest]
    require_whole(restored)
    ended = restored.store.decision(digest)
    assert ended is not None and (ended.decision, ended.by) == ("withdraw", OTHER)
    assert len(restored.store.unsent()) == 2  # the approval of the backup, and what undoes it: both are told


def test_a_study_that_the_backup_never_saw_stays_withdrawn_and_no_rule_approves_it(
    site: Decisions, package: Package, backup: Callable[..., Callable[..., Decisions]]
) -> None:
    put_back = backup()
    study = digest_of(package)
    site.store.note_study(study, "offered", 0.0)
    site.store.keep_package(study, package)
    site.approve(study, by=BY)
    site.withdraw(study, by=BY)
    restored = put_back()
    assert restored.store.study(study) is None
    with pytest.raises(Conflict, match="withdrawn from"):
        require_whole(restored)
    recover(restored, by=OTHER)
    require_whole(restored)
    assert [one.decision for one in restored.store.decisions(study)] == ["withdraw"]


def test_an_approval_in_wider_terms_than_the_last_one_does_not_come_back(
    site: Decisions, digest: str, backup: Callable[..., Callable[..., Decisions]]
) -> None:
    site.approve(digest, by=BY)
    put_back = backup()
    until = site.clock.now() + 60
    site.approve(digest, by=BY, until=until)
    restored = put_back()
    with pytest.raises(Conflict, match="in other terms"):
        require_whole(restored)
    recover(restored, by=OTHER)
    require_whole(restored)
    allowed = restored.store.decision(digest)
    assert allowed is not None and (allowed.decision, allowed.by, allowed.until) == ("approve", OTHER, until)


def test_an_approval_in_narrower_terms_that_has_ended_since_is_withdrawn_from(
    site: Decisions, digest: str, backup: Callable[..., Callable[..., Decisions]]
) -> None:
    site.approve(digest, by=BY)
    put_back = backup()
    now = site.clock.now()
    site.approve(digest, by=BY, until=now + 60)
    restored = replace(put_back(), clock=Later())
    recover(restored, by=OTHER)
    require_whole(restored)
    assert [one.decision for one in restored.store.decisions(digest)] == ["approve", "withdraw"]


@pytest.mark.parametrize(("first", "second"), [((BY, 60.0), (BY, None)), ((BY, 60.0), (OTHER, 60.0)), ((BY, 60.0), (BY, 61.0))])
def test_a_state_that_allows_no_more_than_the_last_approval_needs_nobody(
    site: Decisions,
    digest: str,
    backup: Callable[..., Callable[..., Decisions]],
    first: tuple[str, float | None],
    second: tuple[str, float | None],
) -> None:
    """A process that is killed between the audit log and the state leaves the same as a backup of just before: the log alone holds the last word."""
    now = site.clock.now()
    for number, (by, seconds) in enumerate((first, second)):
        if number:
            put_back = backup()
        site.approve(digest, by=by, until=None if seconds is None else now + seconds)
    restored = put_back()
    require_whole(restored)
    assert recover(restored, by=OTHER) == []


def test_a_first_approval_that_reached_the_log_alone_needs_nobody(
    site: Decisions, digest: str, backup: Callable[..., Callable[..., Decisions]]
) -> None:
    put_back = backup()
    site.approve(digest, by=BY)
    require_whole(put_back())


def test_a_study_that_is_over_stays_over(site: Decisions, digest: str, backup: Callable[..., Callable[..., Decisions]]) -> None:
    site.approve(digest, by=BY)
    site.store.note_study(digest, "finished", 0.0)
    put_back = backup()
    site.withdraw(digest, by=BY)
    restored = put_back()
    recover(restored, by=OTHER)
    known = restored.store.study(digest)
    assert known is not None and known.state == "finished"


def test_an_approval_that_the_log_does_not_hold_counts_for_nothing(
    site: Decisions, digest: str, backup: Callable[..., Callable[..., Decisions]]
) -> None:
    log = site.folder.audit.read_bytes()
    site.approve(digest, by=BY)
    site.store.close()
    site.folder.audit.write_bytes(log)
    with pytest.raises(Conflict, match="holds no approval"):
        require_whole(site)


def test_a_key_that_was_taken_out_stays_so(site: Decisions, digest: str, backup: Callable[..., Callable[..., Decisions]]) -> None:
    put_back = backup()
    site.address_book.remove("east", by=BY, reason="its key was stolen")
    restored = put_back()
    assert restored.address_book.unverified({"east": EAST.text}) == ()
    with pytest.raises(Conflict, match="east: its key taken out"):
        require_whole(restored)
    recover(restored, by=OTHER)
    require_whole(restored)
    assert restored.address_book.unverified({"east": EAST.text}) == ("east",)


def test_a_key_that_was_replaced_does_not_come_back(site: Decisions, digest: str, backup: Callable[..., Callable[..., Decisions]]) -> None:
    put_back = backup()
    new = SigningKey.generate().public
    site.address_book.verify("east", new.fingerprint, [new], by=BY, how="telephone")
    with pytest.raises(Conflict, match="another key"):
        require_whole(put_back())


def test_a_frozen_site_stays_frozen(site: Decisions, digest: str, backup: Callable[..., Callable[..., Decisions]]) -> None:
    put_back = backup()
    freeze(site, by=BY, reason="an intruder")
    restored = put_back()
    with pytest.raises(Conflict, match="This site: frozen by"):
        require_whole(restored)
    recover(restored, by=OTHER)
    require_whole(restored)
    kept = freeze_of(restored)
    assert kept is not None and kept.by == OTHER
