"""What a site takes for another site's key, and what rests on it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, final

import pytest

from aimer2.audit.log import AuditLog
from aimer2.blobs.folder import FolderStore
from aimer2.core.errors import AimerError, BadInput, Conflict, NotAvailable, NotFound, NotVerified, Tampered
from aimer2.core.study import Study
from aimer2.core.task import Refusal, Task
from aimer2.identity.documents import open_document, sign_document
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.messages.package import Package
from aimer2.messages.package import digest as digest_of
from aimer2.messages.wire import Decision, StudyNotice, VerifiedKeys
from aimer2.secure_aggregation.roster import Roster
from aimer2.site.address_book import AddressBook, introduce, signer_of
from aimer2.site.connection import Connection
from aimer2.site.decisions import Decisions
from aimer2.site.migrations import STEPS
from aimer2.site.offers import Offers
from aimer2.site.performing import Performing
from aimer2.site.settings import Settings
from aimer2.site.store import Store
from aimer2.site.workers import Workers
from aimer2.study.pack import pack

BY = "Dr Ines Vogt"
FRAUD = SigningKey.generate()


@dataclass
class Clock:
    seconds: float = 1_800_000_000.0

    def now(self) -> float:
        self.seconds += 1
        return self.seconds

    def monotonic(self) -> float:
        return self.now()


@pytest.fixture
def open_book(tmp_path: Path) -> Callable[[str], AddressBook]:
    """A new site's book; all have one clock."""
    clock = Clock()

    def make(site: str) -> AddressBook:
        folder = tmp_path / site
        folder.mkdir()
        Store(folder / "state.sqlite").close()
        key = SigningKey.generate()
        return AddressBook(site, key, folder / "state.sqlite", AuditLog(folder / "audit.jsonl", key, clock), clock)

    return make


def meet(one: AddressBook, other: AddressBook) -> None:
    """``one`` verifies ``other``, by telephone."""
    one.verify(other.site, other.key.public.fingerprint, [other.key.public], by=BY, how="telephone")


def roster_of(*books: AddressBook) -> dict[str, str]:
    return {book.site: book.key.public.text for book in books}


def kinds(book: AddressBook) -> list[str]:
    return [entry.kind for entry in book.audit.read()]


def test_own_key_is_included_and_nobody_elses(open_book: Callable[[str], AddressBook]) -> None:
    north, east = open_book("north"), open_book("east")
    roster = roster_of(north, east)
    assert north.unverified(roster) == ("east",)
    assert (north.standing("north", roster["north"]), north.standing("east", roster["east"])) == ("own", "unverified")
    with pytest.raises(BadInput, match="own key"):
        north.verify("north", FRAUD.public.fingerprint, [FRAUD.public], by=BY, how="telephone")


def test_the_key_with_the_told_fingerprint_is_stored_whatever_else_was_given(open_book: Callable[[str], AddressBook]) -> None:
    north, east = open_book("north"), open_book("east")
    told = east.key.public.fingerprint.replace(" ", "-")
    north.verify("east", told, [FRAUD.public, east.key.public], by=BY, how="in-person")
    entry = north.entries()["east"]
    assert (entry.key, entry.by, entry.how, entry.through) == (east.key.public.text, BY, "in-person", None)
    assert north.unverified(roster_of(north, east)) == ()
    assert kinds(north) == ["roster-key-verified"]


def test_one_wrong_digit_is_refused_and_recorded(open_book: Callable[[str], AddressBook]) -> None:
    north, east = open_book("north"), open_book("east")
    told = east.key.public.fingerprint
    for place in (0, 20, 46):
        wrong = told[:place] + str((int(told[place]) + 1) % 10) + told[place + 1 :]
        with pytest.raises(Tampered, match="not the fingerprint"):
            north.verify("east", wrong, [east.key.public], by=BY, how="telephone")
    with pytest.raises(BadInput, match="40 digits"):
        north.verify("east", told[:-1], [east.key.public], by=BY, how="telephone")
    with pytest.raises(NotFound):
        north.verify("east", told, [], by=BY, how="telephone")
    with pytest.raises(BadInput, match="named person"):
        north.verify("east", told, [east.key.public], by=" ", how="telephone")
    assert north.entries() == {} and kinds(north) == ["roster-key-refused"] * 3


def test_another_key_than_the_verified_one_is_noticed(open_book: Callable[[str], AddressBook]) -> None:
    north, east = open_book("north"), open_book("east")
    meet(north, east)
    forged = roster_of(north, east) | {"east": FRAUD.public.text}
    assert north.standing("east", forged["east"]) == "changed" and north.unverified(forged) == ("east",)
    own_exchanged = roster_of(north, east) | {"north": FRAUD.public.text}
    assert north.standing("north", own_exchanged["north"]) == "changed" and north.unverified(own_exchanged) == ("north",)


def test_a_replaced_key_is_verified_anew_and_the_old_one_stays_in_the_history(open_book: Callable[[str], AddressBook]) -> None:
    north, east = open_book("north"), open_book("east")
    meet(north, east)
    rotated = replace(east, key=SigningKey.generate())
    meet(north, rotated)
    assert north.unverified(roster_of(north, rotated)) == () and north.unverified(roster_of(north, east)) == ("east",)
    assert [entry.key for entry in north.history("east")] == [east.key.public.text, rotated.key.public.text]


def test_what_one_process_verifies_another_sees_at_once(open_book: Callable[[str], AddressBook]) -> None:
    north, east = open_book("north"), open_book("east")
    agents = replace(north)
    meet(north, east)
    assert agents.unverified(roster_of(north, east)) == ()
    north.remove("east", by=BY, reason="its key was stolen")
    assert agents.unverified(roster_of(north, east)) == ("east",)


def test_a_state_from_before_there_were_address_books_is_read(tmp_path: Path) -> None:
    decided = '{"study":"' + "0" * 64 + '","site":"north","decision":"approve","by":"Dr A","dataset":"heart","until":null,"reason":"","time":1.0}'
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as old, old:
        for statement in STEPS[0]:
            old.execute(statement)
        old.execute("INSERT INTO decisions (study, document, statement) VALUES (?, ?, '')", ("0" * 64, decided))
        old.execute("PRAGMA user_version = 1")
    store, key = Store(tmp_path / "state.sqlite"), SigningKey.generate()
    assert store.decisions("0" * 64)[0].roster is None
    book = AddressBook("north", key, tmp_path / "state.sqlite", AuditLog(tmp_path / "audit.jsonl", key, Clock()), Clock())
    book.verify("east", FRAUD.public.fingerprint, [FRAUD.public], by=BY, how="telephone")
    assert book.entries().keys() == {"east"}


# statements


def test_a_statement_brings_what_its_signer_has_verified(open_book: Callable[[str], AddressBook]) -> None:
    north, east, west, south = (open_book(name) for name in ("north", "east", "west", "south"))
    for other in (north, west, south):
        meet(east, other)
    meet(north, east)
    meet(north, south)
    taken = north.take(east.sign(by="Dr East"), "east", by=BY)
    assert [(entry.site, entry.key, entry.through, entry.how) for entry in taken] == [("west", west.key.public.text, "east", "statement")]
    assert north.unverified(roster_of(north, east, west, south)) == ()
    assert north.entries()["south"].through is None, "a direct verification is not replaced"
    assert north.take(east.sign(by="Dr East"), "east", by=BY) == []
    assert kinds(east)[-1] == "roster-signed" and kinds(north)[-1] == "roster-key-verified"


def test_trust_goes_one_step_only(open_book: Callable[[str], AddressBook]) -> None:
    north, east, west, south = (open_book(name) for name in ("north", "east", "west", "south"))
    meet(north, east)
    meet(east, west)
    meet(west, south)
    north.take(east.sign(by="Dr East"), "east", by=BY)
    said = VerifiedKeys.model_validate_json(open_document(north.sign(by=BY), north.key.public, kind="verified-keys"))
    assert said.keys == roster_of(north, east), "what came from east is not handed on as one's own"
    with pytest.raises(NotVerified, match="only through 'east'"):
        north.take(west.sign(by="Dr West"), "west", by=BY)
    assert "south" not in north.entries()
    meet(north, west)
    assert [entry.site for entry in north.take(west.sign(by="Dr West"), "west", by=BY)] == ["south"]


def test_a_statement_of_a_site_that_is_not_verified_counts_for_nothing(open_book: Callable[[str], AddressBook]) -> None:
    north, east, west = (open_book(name) for name in ("north", "east", "west"))
    meet(east, west)
    with pytest.raises(NotVerified, match="not verified here"):
        north.take(east.sign(by="Dr East"), "east", by=BY)
    assert north.entries() == {} and kinds(north) == ["roster-key-refused"]


def _forged(east: AddressBook, north: AddressBook, case: str) -> str:
    keys = roster_of(north, east) | {"west": FRAUD.public.text}
    document = VerifiedKeys(site="east", by="Dr East", keys=keys, time=1e9)
    text = document.model_dump_json().encode()
    if case == "another key":
        return sign_document(text, FRAUD, kind="verified-keys")
    if case == "another key, itself named in it":
        named = document.model_copy(update={"keys": keys | {"east": FRAUD.public.text}})
        return sign_document(named.model_dump_json().encode(), FRAUD, kind="verified-keys")
    if case == "the verified key's name, another signature":
        header, payload, _ = sign_document(text, east.key, kind="verified-keys").split(".")
        return f"{header}.{payload}.{sign_document(text, FRAUD, kind='verified-keys').split('.')[2]}"
    if case == "entries exchanged":
        header, _, signature = east.sign(by="Dr East").split(".")
        return f"{header}.{sign_document(text, FRAUD, kind='verified-keys').split('.')[1]}.{signature}"
    if case == "a document of another kind":
        return sign_document(text, east.key, kind="decision")
    if case == "in another site's name":
        return sign_document(document.model_copy(update={"site": "west"}).model_dump_json().encode(), east.key, kind="verified-keys")
    if case == "another key for itself":
        changed = document.model_copy(update={"keys": keys | {"east": FRAUD.public.text}})
        return sign_document(changed.model_dump_json().encode(), east.key, kind="verified-keys")
    if case == "of another version":
        return sign_document(json.dumps(document.model_dump(mode="json") | {"format": 2}).encode(), east.key, kind="verified-keys")
    if case == "a key that is none":
        return sign_document(document.model_copy(update={"keys": keys | {"west": "x"}}).model_dump_json().encode(), east.key, kind="verified-keys")
    return "no statement"


@pytest.mark.parametrize(
    "case",
    [
        "another key",
        "another key, itself named in it",
        "the verified key's name, another signature",
        "entries exchanged",
        "a document of another kind",
        "in another site's name",
        "another key for itself",
        "of another version",
        "a key that is none",
        "no statement",
    ],
)
def test_a_forged_statement_is_refused_and_recorded(open_book: Callable[[str], AddressBook], case: str) -> None:
    north, east = open_book("north"), open_book("east")
    meet(north, east)
    with pytest.raises((Tampered, BadInput)):
        north.take(_forged(east, north, case), "east", by=BY)
    assert north.entries().keys() == {"east"} and kinds(north)[-1] == "roster-key-refused"


def test_a_statement_never_changes_what_counts_here(open_book: Callable[[str], AddressBook]) -> None:
    north, east, west, south = (open_book(name) for name in ("north", "east", "west", "south"))
    meet(north, east)
    meet(north, west)
    meet(east, replace(west, key=FRAUD))
    meet(east, south)
    with pytest.raises(Conflict, match="west") as raised:
        north.take(east.sign(by="Dr East"), "east", by=BY)
    assert "south" not in str(raised.value) and north.entries().keys() == {"east", "west"}, "nothing of it is taken"
    meet(east, west)
    meet(east, replace(north, key=FRAUD))
    with pytest.raises(Conflict, match="north"):
        north.take(east.sign(by="Dr East"), "east", by=BY)


def test_what_was_taken_out_comes_back_only_by_a_newer_word(open_book: Callable[[str], AddressBook]) -> None:
    north, east, west = (open_book(name) for name in ("north", "east", "west"))
    meet(north, east)
    meet(north, west)
    meet(east, west)
    old = east.sign(by="Dr East")
    assert north.remove("west", by=BY, reason="its laptop was stolen") == ["west"]
    with pytest.raises(Conflict, match="west"):
        north.take(old, "east", by=BY)
    assert north.unverified(roster_of(north, west)) == ("west",)
    assert [entry.site for entry in north.take(east.sign(by="Dr East"), "east", by=BY)] == ["west"]


def test_with_a_site_goes_what_was_taken_over_from_it(open_book: Callable[[str], AddressBook]) -> None:
    north, east, west, south = (open_book(name) for name in ("north", "east", "west", "south"))
    meet(east, west)
    meet(north, east)
    meet(north, south)
    north.take(east.sign(by="Dr East"), "east", by=BY)
    assert north.remove("east", by=BY, reason="its key was stolen") == ["east", "west"]
    assert north.entries().keys() == {"south"}
    assert kinds(north)[-2:] == ["roster-key-removed"] * 2
    with pytest.raises(NotFound):
        north.remove("east", by=BY, reason="again")


def test_a_site_is_verified_by_its_own_statement_and_a_telephone_call(open_book: Callable[[str], AddressBook]) -> None:
    """Before any study names its key."""
    north, east = open_book("north"), open_book("east")
    statement = east.sign(by="Dr East")
    north.verify("east", east.key.public.fingerprint, [signer_of(statement, "east")], by=BY, how="telephone")
    assert north.standing("east", east.key.public.text) == "verified"
    with pytest.raises(BadInput, match="statement of 'east'"):
        signer_of(statement, "west")
    with pytest.raises(BadInput):
        signer_of("no statement", "east")


def test_sites_introduced_by_one_person_have_verified_each_other(open_book: Callable[[str], AddressBook]) -> None:
    books = [open_book(name) for name in ("north", "east", "west")]
    introduce(books, by=BY)
    assert all(book.unverified(roster_of(*books)) == () for book in books)
    assert all(entry.through is None for book in books for entry in book.entries().values())


# approval


MakePackage = Callable[..., tuple[Package, dict[str, SigningKey]]]


@pytest.fixture
def offered(site: Decisions, a_study: Callable[..., Study], tmp_path: Path, blobs: FolderStore) -> MakePackage:
    """A study that this site knows; it has the true keys of its sites."""

    def make(*others: str, secure: bool = True) -> tuple[Package, dict[str, SigningKey]]:
        keys = {name: SigningKey.generate() for name in others}
        roster = {"north": site.key.public.text} | {name: key.public.text for name, key in keys.items()}
        package = pack(a_study(), tmp_path, roster, blobs)
        study = package.study.model_copy(update={"privacy": package.study.privacy.model_copy(update={"secure_aggregation": secure})})
        package = package.model_copy(update={"study": study})
        site.store.note_study(digest_of(package), "offered", 0.0)
        site.store.keep_package(digest_of(package), package)
        return package, keys

    return make


def verify_all(site: Decisions, keys: dict[str, SigningKey]) -> None:
    for name, key in keys.items():
        site.address_book.verify(name, key.public.fingerprint, site.keys_given(name), by=BY, how="telephone")


def test_secure_aggregation_over_unverified_keys_is_not_approved(site: Decisions, offered: MakePackage) -> None:
    package, keys = offered("east", "west")
    study = digest_of(package)
    verify_all(site, {"east": keys["east"]})
    with pytest.raises(NotVerified, match=r"1 of 3 keys .* west\.") as refused:
        site.approve(study, by="Dr O'Neil")
    assert f"aimer2 site roster show {study[:12]}" in refused.value.sentence
    assert "aimer2 site roster verify west FINGERPRINT --by 'Dr O'\"'\"'Neil'" in refused.value.advice
    assert site.store.decision(study) is None and "study-approved" not in [entry.kind for entry in site.audit.read()]


def test_an_approval_countersigns_the_roster_that_was_verified(site: Decisions, offered: MakePackage) -> None:
    package, keys = offered("east", "west")
    study = digest_of(package)
    verify_all(site, keys)
    site.approve(study, by=BY)
    (_, statement), *_ = site.store.unsent()
    signed = Decision.model_validate_json(open_document(statement, site.key.public, kind="decision"))
    assert signed.roster == Roster(study, {name: PublicKey.from_text(key) for name, key in package.roster.items()}).hash()
    assert site.store.decision(study) == signed


def test_a_key_that_counts_no_more_keeps_this_site_out(site: Decisions, settings: Settings, offered: MakePackage) -> None:
    package, keys = offered("east", "west")
    study = digest_of(package)
    verify_all(site, keys)
    site.approve(study, by=BY)
    connection = cast("Connection", Offering(package))
    performing = Performing(site, settings, connection, Workers(), persist)
    asked = Task(id="1", study=study, site="north", stage="train", round_number=1, phase="keys", message="no set-up")
    before = asyncio.run(performing.reply(asked, {})).reply
    site.address_book.remove("west", by=BY, reason="its key was stolen")
    after = asyncio.run(performing.reply(asked, {})).reply
    assert isinstance(after, Refusal) and "keys of west" in after.reason
    assert not isinstance(before, Refusal) or "west" not in before.reason


def test_without_secure_aggregation_nobody_needs_to_be_verified(site: Decisions, offered: MakePackage) -> None:
    package, _ = offered("east", "west", secure=False)
    assert site.approve(digest_of(package), by=BY).roster is None


def test_secure_aggregation_of_two_is_not_approved(site: Decisions, offered: MakePackage) -> None:
    package, keys = offered("east")
    verify_all(site, keys)
    with pytest.raises(NotAvailable, match="three"):
        site.approve(digest_of(package), by=BY)


def test_a_study_with_another_key_for_this_site_itself_is_not_approved(site: Decisions, offered: MakePackage) -> None:
    package, keys = offered("east", "west")
    verify_all(site, keys)
    forged = package.model_copy(update={"roster": {**package.roster, "north": FRAUD.public.text}})
    site.store.note_study(digest_of(forged), "offered", 0.0)
    site.store.keep_package(digest_of(forged), forged)
    with pytest.raises(NotVerified, match=r"north\.") as refused:
        site.approve(digest_of(forged), by=BY)
    assert "verify north" not in refused.value.advice and "refuse it" in refused.value.advice


def test_a_key_that_no_coordinator_could_mean_harms_nothing(site: Decisions, offered: MakePackage) -> None:
    package, keys = offered("east", "west")
    broken = package.model_copy(update={"roster": {**package.roster, "east": "no key"}})
    site.store.note_study(digest_of(broken), "offered", 0.0)
    site.store.keep_package(digest_of(broken), broken)
    verify_all(site, keys)
    assert site.address_book.unverified(broken.roster) == ("east",)
    with pytest.raises(AimerError):
        site.approve(digest_of(broken), by=BY)


POLICY = '[[rule]]\nname = "hearts"\nset_by = "Dr Ines Vogt"\ndecision = "approve"\ndatasets = ["heart"]\nsecure_aggregation = true\nrequire = []\n'


@final
@dataclass
class Offering:
    """A coordinator with one study."""

    offered: Package

    def package(self, wanted: str) -> Package:
        return self.offered


@pytest.mark.parametrize("known", [True, False])
def test_a_rule_approves_only_where_every_key_was_verified(site: Decisions, settings: Settings, offered: MakePackage, known: bool) -> None:
    package, keys = offered("east", "west")
    verify_all(site, keys if known else {"east": keys["east"]})
    new = package.model_copy(update={"study": package.study.model_copy(update={"name": "another"})})
    site.folder.policy.write_text(POLICY)
    connection = cast("Connection", Offering(new))
    offers = Offers(site, settings, connection, Performing(site, settings, connection, Workers(), persist))
    offers.take(StudyNotice(digest=digest_of(new), state="offered"))
    decision = site.store.decision(digest_of(new))
    if not known:
        assert decision is None, "it waits for a person"
    else:
        assert decision is not None and (decision.decision, decision.by) == ("approve", "rule 'hearts', set by Dr Ines Vogt")
        assert decision.roster is not None


async def persist(function: Callable[[], Any]) -> Any:
    return function()
