"""Keys of other hospitals that a named person here has verified without the coordinator.

Secure aggregation is as good as these keys: a coordinator that makes them up itself reads everything. So people compare fingerprints by
telephone or face to face, or take over, through a statement that it signed, what a hospital verified here has itself verified.
"""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from pydantic import ValidationError

from aimer2.audit.entries import Event, Json
from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.core.clock import Clock
from aimer2.core.errors import AimerError, BadInput, Conflict, NotAuthenticated, NotFound, NotVerified, Tampered
from aimer2.core.said import say
from aimer2.core.task import SiteId
from aimer2.identity import base64url
from aimer2.identity.documents import open_document, sign_document
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.messages.wire import VerifiedKeys
from aimer2.site.approval import unverified

How = Literal["telephone", "in-person", "statement", "removed"]
Standing = Literal["own", "verified", "unverified", "changed"]

_STATEMENT = "verified-keys"
_BUSY_SECONDS = 30
_LAST = "SELECT * FROM address_book WHERE id IN (SELECT max(id) FROM address_book GROUP BY site) ORDER BY site"
_ADD = "INSERT INTO address_book (site, key, how, by, through, time) VALUES (?, ?, ?, ?, ?, ?)"


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """Who verified a key, how and when (seconds since 1970). ``through``: the site whose statement it was taken from; ``key`` None: taken out."""

    site: SiteId
    key: str | None
    how: How
    by: str
    through: SiteId | None
    time: float


@final
@dataclass(frozen=True, slots=True)
class AddressBook:
    """Of one site, in its `state.sqlite`. Each change is in the audit log before it counts; an entry that was replaced stays in the history."""

    site: SiteId
    key: SigningKey
    path: Path
    audit: AuditLog
    clock: Clock

    def entries(self) -> dict[SiteId, Entry]:
        """What counts now, by site; without this site itself."""
        return {entry.site: entry for entry in self._last() if entry.key is not None}

    def history(self, site: SiteId) -> list[Entry]:
        """Everything that was ever recorded of a site, oldest first."""
        with self._database() as database:
            return [_entry(row) for row in database.execute("SELECT * FROM address_book WHERE site = ? ORDER BY id", (site,))]

    def unverified(self, roster: Mapping[SiteId, str]) -> tuple[SiteId, ...]:
        """Whose key of this roster does not count here now: not verified, taken out, or another one than was verified."""
        return unverified(roster, self._verified())

    def standing(self, site: SiteId, key: str) -> Standing:
        """What is known here of a key that the coordinator gives for a site."""
        known = self._verified().get(site)
        if known == key:
            return "own" if site == self.site else "verified"
        return "unverified" if known is None else "changed"

    def verify(self, site: SiteId, told: str, given: Iterable[PublicKey], *, by: str, how: Literal["telephone", "in-person"]) -> Entry:
        """Takes the one of the ``given`` keys that has the fingerprint which ``by`` was told by that site.

        Raises NotFound where nobody has given a key of the site, Tampered where none has this fingerprint, BadInput where it is not a whole one.
        """
        self._check(site, by)
        keys = tuple(given)
        if not keys:
            raise NotFound(
                say("No study that is known here names a key of '{site}'.", site=site),
                remedy="Wait until a study that asks it is offered here; or have it send you a file (`site roster sign`), and add --statement FILE.",
            )
        found = next((key for key in keys if key.has_fingerprint(told)), None)
        if found is None:
            self._refuse(site, by, "fingerprint")
            raise Tampered(
                say("This is not the fingerprint of the key that was given to this site for '{site}'. Nothing was stored.", site=site),
                remedy="Have it read out again. If it stays another one, somebody is putting a key of his own in its place: "
                "approve nothing, and call the operator and the other hospital on numbers that you know.",
            )
        entry = Entry(site, found.text, how, by, None, self.clock.now())
        self._add([entry], Kind.ROSTER_KEY_VERIFIED)
        return entry

    def take(self, statement: str, site: SiteId, *, by: str) -> list[Entry]:
        """Takes over the keys that ``site`` says it has verified; returns those that are new here.

        One step only: the signer's own key must have been verified here directly, not through somebody. Raises NotVerified where it was not,
        Tampered where the statement is not signed with that key, Conflict where it contradicts what counts here. Then nothing is taken.
        """
        self._check(site, by)
        try:
            document = self._open(statement, site)
            against = self._contradicted(document)
            if against:
                raise Conflict(
                    say(
                        "The statement of '{site}' does not agree with what is known here about: {against}. Nothing was taken from it.",
                        site=site,
                        against=", ".join(against),
                    ),
                    remedy="Ask these sites by telephone which key is theirs, and verify it with `aimer2 site roster verify`.",
                )
        except AimerError as error:
            self._refuse(site, by, error.code)
            raise
        known = {self.site, *self.entries()}
        now = self.clock.now()
        new = [Entry(name, key, "statement", by, site, now) for name, key in sorted(document.keys.items()) if name not in known]
        self._add(new, Kind.ROSTER_KEY_VERIFIED)
        return new

    def sign(self, *, by: str) -> str:
        """A statement of this site's own key and of those that were verified here directly, for other sites to take over."""
        _check_person(by)
        keys = {entry.site: entry.key for entry in self.entries().values() if entry.through is None and entry.key is not None}
        document = VerifiedKeys(site=self.site, by=by, keys={**keys, self.site: self.key.public.text}, time=self.clock.now())
        self.audit.append(Kind.ROSTER_SIGNED, actor=by, details={"sites": sorted(document.keys)})
        return sign_document(document.model_dump_json().encode(), self.key, kind=_STATEMENT)

    def remove(self, site: SiteId, *, by: str, reason: str) -> list[SiteId]:
        """From now on the site's key does not count here, nor do keys that were taken over from it. Raises NotFound."""
        _check_person(by)
        entries = self.entries()
        if site not in entries:
            raise NotFound(say("No key of '{site}' is verified here.", site=site), remedy="`aimer2 site roster show` lists them.")
        gone = [site, *(name for name, entry in entries.items() if entry.through == site)]
        now = self.clock.now()
        self._add([Entry(name, None, "removed", by, None, now) for name in gone], Kind.ROSTER_KEY_REMOVED, reason)
        return gone

    def _verified(self) -> dict[SiteId, str]:
        found = {site: entry.key for site, entry in self.entries().items() if entry.key is not None}
        return {**found, self.site: self.key.public.text}

    def _open(self, statement: str, site: SiteId) -> VerifiedKeys:
        signer = self.entries().get(site)
        if signer is None or signer.key is None or signer.through is not None:
            found = say("The key of '{site}' is not verified here: what it says about others does not count.", site=site)
            if signer and signer.key and signer.through:
                message = "The key of '{site}' is verified here only through '{through}': what it says about others does not count."
                found = say(message, site=site, through=signer.through)
            raise NotVerified(
                found,
                remedy=say("Compare its fingerprint by telephone first: aimer2 site roster verify {site} FINGERPRINT --by NAME", site=site),
            )
        try:
            text = open_document(statement, PublicKey.from_text(signer.key), kind=_STATEMENT)
        except (NotAuthenticated, Tampered):
            raise _not_of(site) from None
        document = _read(text)
        if document.site != site or document.keys.get(site) != signer.key:
            raise _not_of(site)
        return document

    def _contradicted(self, document: VerifiedKeys) -> list[SiteId]:
        last = {entry.site: entry for entry in self._last()}
        against = []
        for site, key in sorted(document.keys.items()):
            PublicKey.from_text(key)
            entry = last.get(site)
            if site == self.site:
                wrong = key != self.key.public.text
            elif entry is None:
                wrong = False
            elif entry.key is None:
                # What was taken out here comes back only by somebody's word that is newer.
                wrong = document.time <= entry.time
            else:
                wrong = entry.key != key
            if wrong:
                against.append(site)
        return against

    def _check(self, site: SiteId, by: str) -> None:
        _check_person(by)
        if site == self.site:
            raise BadInput("This site's own key needs nobody to verify it.")

    def _refuse(self, site: SiteId, by: str, what: str) -> None:
        self.audit.append(Kind.ROSTER_KEY_REFUSED, actor=by, details={"site": site, "what": what})

    def _add(self, entries: Sequence[Entry], kind: Kind, reason: str = "") -> None:
        if not entries:
            return
        self.audit.extend([Event(str(kind), entry.by, None, _details(entry, reason)) for entry in entries])
        rows = [(entry.site, entry.key, entry.how, entry.by, entry.through, entry.time) for entry in entries]
        with self._database() as database, database:
            database.executemany(_ADD, rows)

    def _last(self) -> list[Entry]:
        with self._database() as database:
            return [_entry(row) for row in database.execute(_LAST)]

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS)) as database:
            database.row_factory = sqlite3.Row
            yield database


def signer_of(statement: str, site: SiteId) -> PublicKey:
    """The key that a statement of ``site`` names as its signer's: a claim, to be compared with a fingerprint. Raises BadInput."""
    try:
        text = base64url.decode(statement.split(".")[1])
    except (ValueError, IndexError):
        raise BadInput("This is not a statement of `aimer2 site roster sign`.") from None
    document = _read(text)
    if document.site != site:
        raise BadInput(say("This is a statement of '{site}', not of '{asked}'.", site=document.site, asked=site))
    return PublicKey.from_text(document.keys.get(site, ""))


def how_to_verify(own: SiteId, sites: Sequence[SiteId], by: str) -> str:
    """What a person does about members that are not verified, with the commands."""
    lines = ["Call each site on a number that you know, and let somebody there read out its fingerprint (`aimer2 site roster show`). Then:"]
    lines += [f"  aimer2 site roster verify {site} FINGERPRINT --by {shlex.quote(by)}" for site in sites if site != own]
    if own in sites:
        lines.append("  The study has another key for this site itself: was it rotated, the study must be submitted anew; otherwise refuse it.")
    return "\n".join(lines)


def introduce(books: Sequence[AddressBook], *, by: str) -> None:
    """Each site takes every other's key from its own folder, not from a coordinator: where one person is at all of them."""
    for book in books:
        others = [other for other in books if other.site != book.site]
        now = book.clock.now()
        book._add([Entry(other.site, other.key.public.text, "in-person", by, None, now) for other in others], Kind.ROSTER_KEY_VERIFIED)


def _details(entry: Entry, reason: str) -> dict[str, Json]:
    if entry.key is None:
        return {"site": entry.site, "reason": reason[:1000]}
    return {"site": entry.site, "key": entry.key, "how": entry.how, "through": entry.through}


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(row["site"], row["key"], row["how"], row["by"], row["through"], row["time"])


def _read(text: bytes) -> VerifiedKeys:
    try:
        return VerifiedKeys.model_validate_json(text)
    except ValidationError:
        raise BadInput("This is not a statement of `aimer2 site roster sign`, or one of another version.") from None


def _not_of(site: SiteId) -> Tampered:
    return Tampered(
        say("The statement was not made with the key of '{site}' that is verified here. Nothing was taken from it.", site=site),
        remedy=say("Ask '{site}' by telephone whether it sent this statement, and whether it has replaced its key.", site=site),
    )


def _check_person(by: str) -> None:
    if len(by.strip()) < 2:
        raise BadInput("A key is verified by a named person.", remedy="Give the name with --by.")
