"""Whether the site's state is as new as its audit log. Put back from a backup, `state.sqlite` has forgotten what was said since.

What a person here ended must stay ended: a refusal or withdrawal, a freeze, a key that was taken out, a description that was taken back, an account
that was closed, a password that was exchanged. The audit log holds each before it counts (a
freeze right after), so what the state allows and the log's last word does not is found. The agent does not run then, until a named person has the
log's words taken again. A folder that was put back whole, log and all, is not found by this: the heads that others hold of the log show that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, final

from aimer2.audit.entries import Entry
from aimer2.audit.kinds import Kind
from aimer2.core.errors import AimerError, Conflict
from aimer2.core.said import Said, joined, mark, phrase, say
from aimer2.messages.wire import Decision
from aimer2.site.console.accounts import Accounts, Person
from aimer2.site.decisions import Decisions
from aimer2.site.freeze import freeze, freeze_of
from aimer2.site.publishing import published, take_back

_SAID: Mapping[str, str] = {
    Kind.STUDY_APPROVED: mark("approved"),
    Kind.STUDY_REFUSED: mark("refused"),
    Kind.STUDY_WITHDRAWN: mark("withdrawn from"),
    Kind.ROSTER_KEY_VERIFIED: mark("another key of it verified"),
    Kind.ROSTER_KEY_REMOVED: mark("its key taken out"),
    Kind.FROZEN: mark("frozen"),
    Kind.THAWED: mark("thawed"),
    Kind.DATASET_PUBLISHED: mark("its description taken back"),
    Kind.USER_ADDED: mark("made anew"),
    Kind.USER_REMOVED: mark("closed"),
    Kind.PASSWORD_CHANGED: mark("another password chosen"),
    Kind.PASSWORD_VOIDED: mark("its password voided"),
}
_NAMED_BY: Mapping[str, str] = {
    Kind.ROSTER_KEY_VERIFIED: "site",
    Kind.ROSTER_KEY_REMOVED: "site",
    Kind.DATASET_PUBLISHED: "dataset",
    Kind.USER_ADDED: "login",
    Kind.USER_REMOVED: "login",
}
"""The detail that says what an entry is about."""
_CHOSEN = frozenset({Kind.USER_ADDED, Kind.PASSWORD_CHANGED, Kind.PASSWORD_VOIDED})
"""What draws an account's `choice` anew."""
_REASON = "the site's state was put back from an older copy; its audit log says so"


@final
@dataclass(frozen=True, slots=True)
class Forgotten:
    """Something that the state allows against the last word in the audit log: a study by its digest, a site's key, a data set's
    description, an account, its password, or everything of a freeze.

    ``approved``: the last word, where that is an approval in narrower terms.
    """

    what: Literal["study", "key", "freeze", "description", "account", "password"]
    name: str
    told: str
    approved: Entry | None = None


def forgotten(decisions: Decisions) -> list[Forgotten]:
    """What the state has forgotten; reads the whole audit log. Raises Tampered where that cannot be read."""
    if not decisions.folder.console.is_file():
        return _forgotten(decisions, [])
    with _accounts_of(decisions).held() as people:
        return _forgotten(decisions, people)


def _forgotten(decisions: Decisions, people: Sequence[Person]) -> list[Forgotten]:
    studies: dict[str, Entry] = {}
    others: dict[str, dict[str, Entry]] = {"site": {}, "dataset": {}, "login": {}}
    passwords: dict[str, Entry] = {}
    frozen: Entry | None = None
    for entry in decisions.audit.read(kinds=set(_SAID)):
        if entry.kind in (Kind.FROZEN, Kind.THAWED):
            frozen = entry
        elif entry.study is not None:
            studies[entry.study] = entry
        else:
            if entry.kind in _CHOSEN:
                passwords[str(entry.details["login"])] = entry
            if (named_by := _NAMED_BY.get(entry.kind)) is not None:
                others[named_by][str(entry.details[named_by])] = entry
    found = [*_studies(decisions, studies), *_keys(decisions, others["site"]), *_freeze(decisions, frozen)]
    return [*found, *_descriptions(decisions, others["dataset"]), *_accounts(people, others["login"], passwords)]


def require_whole(decisions: Decisions) -> None:
    """Raises Conflict where the state has forgotten what the audit log holds."""
    if found := forgotten(decisions):
        raise Conflict(
            say("This folder is not as new as its audit log, as if put back from a backup. {told}", told=joined([one.told for one in found])),
            remedy="`aimer2 site recover --by NAME` takes these words again; then start the agent. If nobody here has put a backup back, call your "
            "security officer first.",
        )


def recover(decisions: Decisions, *, by: str) -> list[Forgotten]:
    """Takes again what was forgotten, in this person's name: withdraws, approves in the last terms, takes keys out, freezes, takes back
    descriptions, closes accounts, voids passwords. What was approved since the backup can be approved anew."""
    found = forgotten(decisions)
    for one in sorted(found, key=lambda one: one.what == "study"):  # an approval rests on the keys that are left
        if one.what == "study":
            _end_again(decisions, one, by)
        elif one.what == "freeze":
            freeze(decisions, by=by, reason=_REASON)
        elif one.what == "description":
            take_back(decisions.folder, decisions.audit, decisions.clock, one.name, by)
        elif one.what == "account":
            _accounts_of(decisions).remove(one.name, by=by)
        elif one.what == "password":
            _accounts_of(decisions).void(one.name, by=by)
        elif one.name in decisions.address_book.entries():  # it may have gone with the site it was taken over from
            decisions.address_book.remove(one.name, by=by, reason=_REASON)
    return found


def _end_again(decisions: Decisions, one: Forgotten, by: str) -> None:
    if one.approved is not None:
        terms: dict[str, Any] = {name: one.approved.details.get(name) for name in ("dataset", "until")}
        # What has expired since, or rests on what is no longer here, is withdrawn from.
        with suppress(AimerError):
            decisions.approve(one.name, by=by, **terms)
            return
    if decisions.store.study(one.name) is None:
        decisions.store.note_study(one.name, "offered", decisions.clock.now())
    decisions.withdraw(one.name, by=by, reason=_REASON)
    decisions.erase(one.name)


def _studies(decisions: Decisions, last: dict[str, Entry]) -> Iterator[Forgotten]:
    allowed = {one.study: one for one in decisions.store.decisions()}
    for study, entry in last.items():
        known = allowed.get(study)
        is_open = known is None or known.decision == "approve"
        if entry.kind != Kind.STUDY_APPROVED and is_open:
            yield Forgotten("study", study, _told(say("Study {name}", name=study[:12]), entry))
        elif known is not None and known.decision == "approve" and _allows_more(known, entry):
            yield Forgotten("study", study, _told(say("Study {name}", name=study[:12]), entry, mark("approved in other terms")), entry)
    for study in sorted(study for study, one in allowed.items() if one.decision == "approve" and study not in last):
        yield Forgotten("study", study, say("Study {name}: the log holds no approval of it.", name=study[:12]))


def _told(about: Said, entry: Entry, said: str = "") -> Said:
    return say("{about}: {said} by {who} on {day}.", about=about, said=phrase(said or _SAID[entry.kind]), who=entry.actor, day=entry.time[:10])


def _allows_more(known: Decision, entry: Entry) -> bool:
    """Whether an approval is for more than the last one that the log holds. One that is for less is what a process leaves that was killed between
    the log and the state: nobody need be called for it."""
    until = entry.details.get("until")
    ends = math.inf if until is None else float(str(until))
    elsewhere = (known.dataset, known.roster) != (entry.details.get("dataset"), entry.details.get("roster"))
    return elsewhere or (math.inf if known.until is None else known.until) > ends


def _keys(decisions: Decisions, last: dict[str, Entry]) -> Iterator[Forgotten]:
    for site, known in decisions.address_book.entries().items():
        entry = last.get(site)
        if entry is None:
            yield Forgotten("key", site, say("Site {name}: the log holds no verification of its key.", name=site))
        elif entry.details.get("key") != known.key:
            yield Forgotten("key", site, _told(say("Site {name}", name=site), entry))


def _freeze(decisions: Decisions, last: Entry | None) -> Iterator[Forgotten]:
    if last is not None and last.kind == Kind.FROZEN and freeze_of(decisions) is None:
        yield Forgotten("freeze", "", _told(say("This site"), last))


def _descriptions(decisions: Decisions, last: dict[str, Entry]) -> Iterator[Forgotten]:
    for dataset, entry in last.items():
        said = published(decisions.folder, dataset)
        if said is not None and entry.details["published"] is False:
            yield Forgotten("description", dataset, _told(say("Data set {name}", name=dataset), entry))


def _accounts(people: Sequence[Person], last: dict[str, Entry], passwords: dict[str, Entry]) -> Iterator[Forgotten]:
    for person in people:
        entry, password = last.get(person.login), passwords.get(person.login)
        about = say("Account {name} of the console", name=person.login)
        if entry is not None and entry.kind == Kind.USER_REMOVED:
            yield Forgotten("account", person.login, _told(about, entry))
        elif password is not None and password.details.get("choice") != person.choice:
            yield Forgotten("password", person.login, _told(about, password))


def _accounts_of(decisions: Decisions) -> Accounts:
    return Accounts(decisions.folder.console, decisions.audit, decisions.clock)
