"""Accounts, links and sessions of a site's console: what is good once, for how long, and what lies on the disk."""

from __future__ import annotations

from typing import Any

import pytest

from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadInput, Conflict, NotAllowed, NotAuthenticated, NotFound, Tampered
from aimer2.identity.keys import SigningKey
from aimer2.site.console.accounts import FAILURES, LINK_SECONDS, PAUSE_SECONDS, Accounts
from aimer2.site.folder import SiteFolder

PASSWORD = "correct horse battery"


@pytest.fixture
def accounts(folder: SiteFolder, clock: Any) -> Accounts:
    return Accounts(folder.console, AuditLog(folder.audit, SigningKey.load(folder.key), clock), clock)


def test_a_link_is_good_once_and_a_new_one_voids_the_one_before(accounts: Accounts) -> None:
    lost = accounts.add("vogt", "Dr Ines Vogt", ["data-protection-officer"], by="Jan Roth")
    link = accounts.link("vogt", by="Jan Roth")
    with pytest.raises(NotFound):
        accounts.accept(lost, PASSWORD)
    assert accounts.invited(link) == accounts.people()[0] and not accounts.people()[0].active
    assert accounts.accept(link, PASSWORD).name == "Dr Ines Vogt"
    with pytest.raises(NotFound):
        accounts.accept(link, "another password of hers")
    assert accounts.log_in("vogt", PASSWORD)


def test_the_audit_log_says_who_made_the_link_by_which_a_password_was_chosen(accounts: Accounts, folder: SiteFolder) -> None:
    """Who makes links could use one, and be the officer from then on: not unseen."""
    accounts.accept(accounts.add("vogt", "Dr Ines Vogt", ["data-protection-officer"], by="Test"), PASSWORD)
    accounts.accept(accounts.link("vogt", by="Jan Roth"), "another password of hers")
    log = AuditLog(folder.audit, SigningKey.load(folder.key), SystemClock())
    chosen = [entry for entry in log.read() if entry.kind == Kind.PASSWORD_CHANGED]
    assert [(one.actor, one.details["login"], one.details["link_made_by"]) for one in chosen] == [
        ("Dr Ines Vogt", "vogt", by) for by in ("Test", "Jan Roth")
    ]


def test_a_link_ends_after_a_day(accounts: Accounts, clock: Any) -> None:
    link = accounts.add("vogt", "Dr Ines Vogt", ["auditor"], by="Jan Roth")
    clock.ahead += LINK_SECONDS + 1
    with pytest.raises(NotFound):
        accounts.accept(link, PASSWORD)


def test_a_password_that_is_too_short_leaves_the_link_good(accounts: Accounts) -> None:
    link = accounts.add("vogt", "Dr Ines Vogt", ["auditor"], by="Jan Roth")
    with pytest.raises(BadInput):
        accounts.accept(link, "short")
    assert accounts.accept(link, PASSWORD)


def test_the_first_link_makes_the_first_account_and_then_there_is_none(accounts: Accounts) -> None:
    stale = accounts.first_link()
    link = accounts.first_link()
    assert stale is not None and link is not None
    with pytest.raises(NotFound):
        accounts.accept(stale, PASSWORD, login="vogt", name="Dr Ines Vogt")
    first = accounts.accept(link, PASSWORD, login="vogt", name="Dr  Ines Vogt")
    assert (first.name, first.may("decide"), first.may("manage people")) == ("Dr Ines Vogt", True, True)
    assert accounts.first_link() is None
    with pytest.raises(NotFound):
        accounts.accept(link, PASSWORD, login="eve", name="Eve")


def test_the_first_link_is_void_once_somebody_has_an_account(accounts: Accounts) -> None:
    link = accounts.first_link()
    assert link is not None
    accounts.add("roth", "Jan Roth", ["administrator"], by="Jan Roth")
    with pytest.raises(NotFound):
        accounts.accept(link, PASSWORD, login="eve", name="Eve Example")


@pytest.mark.parametrize(
    ("login", "name", "roles"),
    [("V ogt", "Ines Vogt", ["auditor"]), ("../x", "Ines Vogt", ["auditor"]), ("vogt", " I ", ["auditor"]), ("vogt", "Ines Vogt", ["operator"]),
     ("vogt", "Ines Vogt", []), ("vogt", "Ines\x00Vogt", ["auditor"])],
)  # fmt: skip
def test_what_is_no_account_is_refused(accounts: Accounts, login: str, name: str, roles: list[str]) -> None:
    with pytest.raises(BadInput):
        accounts.add(login, name, roles, by="Jan Roth")


def test_one_person_has_one_account(accounts: Accounts) -> None:
    """With two, one person would be both persons that a budget asks for."""
    accounts.add("vogt", "Dr Ines Vogt", ["auditor"], by="Jan Roth")
    for login, name in (("vogt", "Somebody Else"), ("vogt2", "Dr Ines  Vogt")):
        with pytest.raises(Conflict):
            accounts.add(login, name, ["auditor"], by="Jan Roth")


def test_guessing_is_slowed_down_also_over_a_restart_and_for_names_that_nobody_has(accounts: Accounts, folder: SiteFolder, clock: Any) -> None:
    accounts.accept(accounts.add("vogt", "Dr Ines Vogt", ["auditor"], by="Jan Roth"), PASSWORD)
    for login in ("vogt", "nobody"):
        for _ in range(FAILURES):
            with pytest.raises(NotAuthenticated):
                accounts.log_in(login, "wrong password, twelve")
        again = Accounts(folder.console, AuditLog(folder.audit, SigningKey.load(folder.key), clock), clock)
        with pytest.raises(NotAllowed):
            again.log_in(login, PASSWORD)
    clock.ahead += PAUSE_SECONDS + 1
    assert accounts.log_in("vogt", PASSWORD)
    actors = {entry.actor for entry in AuditLog(folder.audit, SigningKey.load(folder.key), clock).read() if entry.kind == "login-failed"}
    assert actors == {"Dr Ines Vogt", "unknown"}, "what was typed as a name may be a password"


def test_a_session_ends_by_silence_by_age_and_with_its_account(accounts: Accounts, clock: Any) -> None:
    accounts.accept(accounts.add("vogt", "Dr Ines Vogt", ["auditor"], by="Jan Roth"), PASSWORD)
    terms = {"idle": 100.0, "longest": 250.0}
    secret = accounts.log_in("vogt", PASSWORD)
    for _ in range(3):
        clock.ahead += 80
        assert accounts.session(secret, **terms) is not None
    clock.ahead += 80
    assert accounts.session(secret, **terms) is None, "older than the longest"
    secret = accounts.log_in("vogt", PASSWORD)
    clock.ahead += 101
    assert accounts.session(secret, **terms) is None, "silent for too long"
    secret = accounts.log_in("vogt", PASSWORD)
    accounts.accept(accounts.link("vogt", by="Jan Roth"), "another password of hers")
    assert accounts.session(secret, **terms) is None, "a new password ends what a thief may hold"
    secret = accounts.log_in("vogt", "another password of hers")
    accounts.remove("vogt", by="Jan Roth")
    assert accounts.session(secret, **terms) is None
    with pytest.raises(NotAuthenticated):
        accounts.log_in("vogt", "another password of hers")


def test_no_secret_lies_on_the_disk(accounts: Accounts, folder: SiteFolder) -> None:
    link = accounts.add("vogt", "Dr Ines Vogt", ["auditor"], by="Jan Roth")
    other = accounts.add("roth", "Jan Roth", ["auditor"], by="Jan Roth")
    accounts.accept(link, PASSWORD)
    session = accounts.log_in("vogt", PASSWORD)
    content = b"".join(path.read_bytes() for path in folder.path.glob("console.sqlite*")) + folder.audit.read_bytes()
    assert b"Dr Ines Vogt" in content
    assert not [secret for secret in (link, other, session, PASSWORD) if secret.encode() in content]
    assert folder.console.stat().st_mode & 0o777 == 0o600


def test_what_the_audit_log_cannot_hold_does_not_happen(accounts: Accounts, folder: SiteFolder) -> None:
    accounts.accept(accounts.add("vogt", "Dr Ines Vogt", ["auditor"], by="Jan Roth"), PASSWORD)
    link, before = accounts.link("vogt", by="Jan Roth"), accounts.people()
    folder.audit.write_bytes(b"")
    for attempt in (
        lambda: accounts.add("roth", "Jan Roth", ["auditor"], by="Jan Roth"),
        lambda: accounts.link("vogt", by="Jan Roth"),
        lambda: accounts.accept(link, "another password of hers"),
        lambda: accounts.void("vogt", by="Jan Roth"),
        lambda: accounts.remove("vogt", by="Jan Roth"),
    ):
        with pytest.raises(Tampered):
            attempt()
        assert accounts.people() == before and accounts.invited(link) == before[0]
