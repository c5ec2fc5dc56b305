"""The transactions, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from aimer2.coordinator.store import accounts, drafts, members, studies, tasks, told
from aimer2.coordinator.store.accounts import Account
from aimer2.coordinator.store.database import Database, note_change, read_changes
from aimer2.coordinator.store.migrate import migrate
from aimer2.coordinator.store.schema import metadata
from aimer2.coordinator.store.studies import EventRow, NewStudy, Transition
from aimer2.coordinator.store.tasks import NewTask
from aimer2.core.errors import BadInput, Conflict, NotAllowed, VersionMismatch
from aimer2.messages.wire import Decision

STUDY = "d" * 64


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'coordinator.sqlite'}"
    else:
        server = request.getfixturevalue("postgresql")
        name = f"test_{secrets.token_hex(4)}"
        engine = create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        url = server.replace("/postgres", f"/{name}")
    made = Database(url)
    migrate(made)
    yield made
    made.close()


@pytest.fixture
def offered(database: Database) -> Database:
    """Two sites, one study that is offered to them."""
    for site in ("a", "b"):
        database.write_now(members.add_invitation, f"code-{site}", site, 0.0, 100.0)
        assert database.write_now(members.enrol, members.Enrolment(f"code-{site}", site, f"key-{site}", 1.0))
    database.write_now(studies.add_study, NewStudy(STUDY, "{}", ["a", "b"], "anna", 2.0))
    return database


@pytest.fixture
def running(offered: Database) -> Database:
    assert offered.write_now(studies.change_state, Transition(STUDY, ("offered",), "running", ["a", "b"]))
    return offered


def decision(kind: str, time: float) -> Decision:
    return Decision(study=STUDY, site="a", decision=kind, by="Dr A", dataset="d", time=time)  # type: ignore[arg-type]


def task(name: str, attempt: int = 1, reply: str | None = None) -> NewTask:
    return NewTask(name, attempt, STUDY, "a", f"document of {name}", reply)


def test_the_revisions_make_the_tables_of_the_code(database: Database) -> None:
    def differences(connection: object) -> list[object]:
        return compare_metadata(MigrationContext.configure(connection), metadata)  # type: ignore[arg-type]

    assert database.read_now(differences) == []
    migrate(database)


def test_a_database_of_a_newer_version_is_left_alone(database: Database) -> None:
    database.write_now(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(VersionMismatch):
        migrate(database)


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(BadInput):
        Database("postgresql://x/y")


def test_a_transaction_that_fails_leaves_nothing(offered: Database) -> None:
    def failing(connection: object) -> None:
        accounts.add_account(connection, Account("ada", "researcher", None, "x"), 0.0)  # type: ignore[arg-type]
        raise Conflict

    with pytest.raises(Conflict):
        offered.write_now(failing)
    assert offered.read_now(accounts.read_accounts) == {}


@pytest.mark.parametrize("name", ["anna", "a", "uploader", "coordinator", "openid", "aimer2", "agent"])
def test_a_new_account_does_not_take_the_name_of_one_who_has_been_here(offered: Database, name: str) -> None:
    offered.write_now(members.note_upload, "0" * 64, "user:uploader")
    with pytest.raises(Conflict, match="somebody had it"):
        offered.write_now(accounts.add_account, Account(name, "researcher", None, "x"), 3.0)


def test_the_drafts_of_a_removed_account_go_with_it(database: Database) -> None:
    ada = Account("ada", "researcher", None, "x")
    database.write_now(accounts.add_account, ada, 0.0)
    database.write_now(drafts.add_draft, "1", "ada", "{}", 1.0)
    database.write_now(accounts.remove_account, "ada")
    database.write_now(accounts.add_account, ada, 2.0)
    assert not database.read_now(drafts.read_drafts, "ada")
    # Drafts that an earlier version left behind.
    database.write_now(drafts.add_draft, "2", "bob", "{}", 1.0)
    with pytest.raises(Conflict, match="somebody had it"):
        database.write_now(accounts.add_account, Account("bob", "researcher", None, "x"), 3.0)


def test_enrolment_uses_an_invitation_up(offered: Database) -> None:
    assert not offered.write_now(members.enrol, members.Enrolment("code-a", "a", "key-a", 2.0)), "the same again"
    with pytest.raises(NotAllowed):
        offered.write_now(members.enrol, members.Enrolment("code-a", "a", "other", 2.0))
    with pytest.raises(Conflict):
        offered.write_now(members.add_invitation, "again", "a", 0.0, 100.0)
    offered.write_now(members.revoke_site, "a", 3.0)
    offered.write_now(members.add_invitation, "again", "a", 0.0, 100.0)
    with pytest.raises(NotAllowed):
        offered.write_now(members.enrol, members.Enrolment("again", "a", "new", 101.0))
    assert offered.write_now(members.enrol, members.Enrolment("again", "a", "new", 4.0))
    site = offered.read_now(members.read_sites)[0]
    assert (site.key, site.revoked) == ("new", None)


def test_what_a_site_told_ends_with_its_key(offered: Database) -> None:
    for site in ("a", "b"):
        assert offered.write_now(told.keep, "data-description", site, "registry", 9.0, f"of {site}")
    offered.write_now(members.revoke_site, "a", 3.0)
    assert [row.site for row in offered.read_now(told.read, "data-description")] == ["b"]
    offered.write_now(members.add_invitation, "again", "a", 0.0, 100.0)
    assert offered.write_now(members.enrol, members.Enrolment("again", "a", "new", 4.0))
    assert [row.site for row in offered.read_now(told.read, "data-description")] == ["b"]
    assert offered.write_now(told.keep, "data-description", "a", "registry", 5.0, "anew"), "nothing of before is later"
    assert not offered.write_now(told.keep, "data-description", "a", "registry", 5.0, "anew")


def test_an_invitation_enrols_once_however_many_try(offered: Database) -> None:
    offered.write_now(members.add_invitation, "race", "c", 0.0, 100.0)

    def attempt(number: int) -> bool:
        try:
            return offered.write_now(members.enrol, members.Enrolment("race", "c", f"key-{number}", 1.0))
        except (NotAllowed, Conflict):
            return False

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(attempt, range(4))) == 1


def test_an_assertion_is_used_once_however_many_try(database: Database) -> None:
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: database.write_now(members.use_assertion, "a/1", 100.0, 0.0), range(4)))
    assert sorted(results) == [False, False, False, True]
    assert database.write_now(members.use_assertion, "a/1", 300.0, 200.0), "forgotten once it has ended anyway"


def test_tasks_are_put_once_and_answered_once(running: Database) -> None:
    assert running.write_now(tasks.put_tasks, [task("x"), task("y")], 1.0).replies == {}
    running.write_now(tasks.record_replies, [(("x", 1), "first")], 2.0, tell=False)
    running.write_now(tasks.record_replies, [(("x", 1), "second")], 3.0, tell=False)
    put = running.write_now(tasks.put_tasks, [task("x"), task("y"), task("x", 2)], 4.0)
    assert put.replies == {("x", 1): "first"}
    assert {(row.id, row.attempt) for row in running.read_now(tasks.open_tasks)} == {("y", 1), ("x", 2)}


def test_a_withdrawn_task_takes_no_reply_and_opens_when_it_is_put_again(running: Database) -> None:
    running.write_now(tasks.put_tasks, [task("x")], 1.0)
    running.write_now(tasks.withdraw_tasks, [("x", 1)])
    running.write_now(tasks.record_replies, [(("x", 1), "late")], 2.0, tell=False)
    assert running.write_now(tasks.put_tasks, [task("x")], 3.0).replies == {}
    assert [row.id for row in running.read_now(tasks.open_tasks)] == ["x"]


def test_tasks_of_one_study_are_erased_a_few_at_a_time(running: Database) -> None:
    other = "e" * 64
    running.write_now(studies.add_study, NewStudy(other, "{}", ["a"], "anna", 2.0))
    elsewhere = replace(task("z"), study=other)
    running.write_now(tasks.put_tasks, [*(task(name) for name in "vwxy"), elsewhere], 1.0)
    running.write_now(tasks.record_replies, [(("x", 1), "first")], 2.0, tell=False)
    running.write_now(tasks.withdraw_tasks, [("y", 1)])
    assert [running.write_now(tasks.erase_tasks, STUDY, 3) for _ in range(3)] == [3, 1, 0]
    assert [row.id for row in running.read_now(tasks.find_tasks, [(name, 1) for name in "vwxyz"])] == ["z"]


def test_one_process_holds_a_study_until_its_lease_ends(running: Database) -> None:
    def acquire(holder: str, now: float) -> list[str]:
        return running.write_now(studies.acquire_leases, holder, holder.partition("/")[0] + "/", now, now + 10)

    assert acquire("one/1", 0.0) == [STUDY]
    assert acquire("two/1", 5.0) == []
    assert running.write_now(studies.renew_leases, "one/1", 20.0) == {STUDY}
    assert acquire("two/1", 15.0) == []
    assert acquire("two/1", 21.0) == [STUDY]
    assert running.write_now(studies.renew_leases, "one/1", 40.0) == set()
    assert acquire("two/2", 22.0) == [STUDY], "the next process of the same folder does not wait"
    assert acquire("twofold/1", 23.0) == []


def test_who_has_lost_the_lease_stores_nothing(running: Database) -> None:
    running.write_now(studies.acquire_leases, "one/1", "one/", 0.0, 10.0)
    running.write_now(studies.save_checkpoint, STUDY, "one/1", "mine", [EventRow("1", None, 3)])
    running.write_now(studies.acquire_leases, "two/1", "two/", 20.0, 30.0)
    with pytest.raises(Conflict):
        running.write_now(studies.save_checkpoint, STUDY, "one/1", "late", [EventRow("2")])
    assert not running.write_now(studies.append_events, STUDY, "one/1", [EventRow("2")])
    change = Transition(STUDY, ("running",), "finished", ["a", "b"], holder="one/1")
    assert not running.write_now(studies.change_state, change, [EventRow("end")], "result")
    assert running.read_now(studies.load_checkpoint, STUDY) == "mine"
    assert running.read_now(studies.read_events, STUDY, 0) == [(1, "1")]
    assert running.read_now(studies.read_result, STUDY) == (3, None)


def test_events_are_numbered_without_a_gap(running: Database) -> None:
    running.write_now(studies.acquire_leases, "one/1", "one/", 0.0, 10.0)
    running.write_now(studies.append_events, STUDY, "one/1", [EventRow("a"), EventRow("b", "m1")])
    change = Transition(STUDY, ("running",), "finished", ["a", "b"], holder="one/1")
    assert running.write_now(studies.change_state, change, [EventRow("c", "m2")], "result")
    assert running.read_now(studies.read_events, STUDY, 1) == [(2, "b"), (3, "c")]
    assert running.read_now(studies.last_model, STUDY) == "m2"
    assert running.read_now(studies.studies_of_model, "m1") == {STUDY}
    assert running.read_now(studies.read_result, STUDY) == (0, "result")


def test_decisions_are_kept_in_order(offered: Database) -> None:
    assert offered.write_now(studies.add_decision, decision("approve", 5.0), "key", "signed 1")
    assert not offered.write_now(studies.add_decision, decision("approve", 5.0), "key", "signed 1")
    assert offered.write_now(studies.add_decision, decision("withdraw", 6.0), "key", "signed 2")
    with pytest.raises(Conflict):
        offered.write_now(studies.add_decision, decision("approve", 5.5), "key", "signed 3")
    (last,) = offered.read_now(studies.latest_decisions)
    assert (last.decision, last.statement) == ("withdraw", "signed 2")


def test_what_a_site_decides_after_it_has_enrolled_anew_counts_from_there(offered: Database) -> None:
    assert offered.write_now(studies.add_decision, decision("approve", 5.0), "key-a", "signed 1")
    offered.write_now(members.revoke_site, "a", 6.0)
    offered.write_now(members.add_invitation, "code-new", "a", 7.0, 100.0)
    assert offered.write_now(members.enrol, members.Enrolment("code-new", "a", "key-new", 8.0))
    first = {site.site: site.first_decision for site in offered.read_now(members.read_sites)}
    (last,) = offered.read_now(studies.latest_decisions)
    assert first["a"] > last.number and first["b"] == 0
    assert offered.write_now(studies.add_decision, decision("approve", 4.0), "key-new", "signed 2")
    (last,) = offered.read_now(studies.latest_decisions)
    assert last.statement == "signed 2" and first["a"] <= last.number


def test_a_change_of_state_is_told_to_its_sites(offered: Database) -> None:
    def revisions() -> list[int]:
        return [site.revision for site in offered.read_now(members.read_sites)]

    before, number = revisions(), offered.read_now(read_changes)["registry"]
    assert offered.write_now(studies.change_state, Transition(STUDY, ("offered",), "stopped", ["a"]))
    assert not offered.write_now(studies.change_state, Transition(STUDY, ("offered",), "running", ["a"]))
    assert revisions() == [before[0] + 1, before[1]]
    assert offered.read_now(read_changes)["registry"] == number + 1
    assert offered.write_now(note_change, "tasks") == 1


def test_a_blob_is_kept_while_somebody_needs_his_upload(database: Database) -> None:
    for owner in ("user:a", "user:b", "user:a"):
        database.write_now(members.note_upload, "f" * 64, owner)
    assert not database.write_now(members.drop_upload, "f" * 64, "user:a")
    assert not database.read_now(members.has_uploaded, "f" * 64, "user:a")
    assert database.write_now(members.drop_upload, "f" * 64, "user:b")


def test_a_new_version_is_not_offered_beside_an_old_one_that_runs(running: Database) -> None:
    new = NewStudy("e" * 64, "{}", ["a", "b"], "anna", 3.0, STUDY)
    with pytest.raises(Conflict, match="running"):
        running.write_now(studies.add_study, new)
    assert running.write_now(studies.change_state, Transition(STUDY, ("running",), "paused", ["a", "b"]))
    running.write_now(studies.add_study, new)
    assert not running.write_now(studies.change_state, Transition(STUDY, ("paused",), "running", ["a", "b"])), "it has a successor"
