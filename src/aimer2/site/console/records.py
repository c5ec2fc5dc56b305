"""The audit log, filtered, verified and exported; and the hospital's rules, with what they would have decided."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from starlette.responses import Response, StreamingResponse

from aimer2.audit.entries import Entry
from aimer2.audit.kinds import Kind
from aimer2.audit.log import snapshot_lines
from aimer2.audit.verify import verify
from aimer2.core.errors import BadInput
from aimer2.site.approval import Approve, Ask, Policy, Refuse, StudyRequest, Verdict, decide
from aimer2.site.console.door import Page, Visit
from aimer2.site.enrolment import known_keys
from aimer2.site.settings import read_toml
from aimer2.site.store import KnownStudy

_ON_A_PAGE = 100


def show_audit(visit: Visit) -> Response:
    """Newest first."""
    entries = list(_filtered(visit))
    start = _whole(visit.asked("from", "0"))
    newest = list(islice(reversed(entries), start, start + _ON_A_PAGE))
    asked = {name: visit.asked(name) for name in ("kind", "study", "actor", "day")}
    return visit.page(
        "audit.html",
        current="/audit",
        entries=newest,
        found=len(entries),
        start=start,
        more=start + _ON_A_PAGE,
        asked=asked,
        kinds=list(Kind),
        sentence=_sentence,
        query="&".join(f"{name}={value}" for name, value in asked.items() if value.replace("-", "").isalnum()),
        verified=verify(visit.console.folder.audit, known_keys(visit.console.folder)) if visit.asked("verify") else None,
    )


def _filtered(visit: Visit) -> Iterator[Entry]:
    kind, study, actor, day = (visit.asked(name).strip() for name in ("kind", "study", "actor", "day"))
    for entry in visit.console.decisions.audit.read():
        if kind and entry.kind != kind:
            continue
        if study and not (entry.study or "").startswith(study):
            continue
        if actor and actor.casefold() not in entry.actor.casefold():
            continue
        if day and not entry.time.startswith(day):
            continue
        yield entry


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadInput("A page begins at a whole number.")
    return int(text)


def _sentence(kind: str) -> str:
    return next((known.sentence for known in Kind if known == kind), "")


def export_audit(visit: Visit) -> Response:
    """The file as it is now, entry by entry: `aimer2 audit verify` checks it on any machine."""
    headers = {"Content-Disposition": 'attachment; filename="audit.jsonl"', "Cache-Control": "no-store"}
    return StreamingResponse(snapshot_lines(visit.console.folder.audit), 200, headers, "application/jsonl")


def show_policy(visit: Visit) -> Response:
    console, problem = visit.console, None
    try:
        policy = read_toml(console.folder.policy, Policy) if console.folder.policy.is_file() else Policy()
    except BadInput as error:
        policy, problem = Policy(), error
    verdicts = [(known, _verdict(visit, policy, known)) for known in reversed(console.decisions.store.studies()) if known.package is not None]
    return visit.page("policy.html", current="/policy", policy=policy, problem=problem, verdicts=[(known, *_told(one)) for known, one in verdicts])


def _verdict(visit: Visit, policy: Policy, known: KnownStudy) -> Verdict:
    """As if the study arrived now and nobody had said anything about it."""
    assert known.package is not None
    console = visit.console
    unverified = console.decisions.address_book.unverified(known.package.roster)
    asked = StudyRequest(known.digest, known.package, console.settings.coordinator.name, console.enforced, console.clock.now(), unverified)
    return decide(policy, asked, ())


def _told(verdict: Verdict) -> tuple[str, Any]:
    match verdict:
        case Approve(rule):
            return "approve", [rule.name]
        case Refuse(rule):
            return "refuse", [rule.name]
        case Ask(reasons):
            return "ask", reasons


PAGES = (
    Page("GET", "/audit", "see", show_audit),
    Page("GET", "/audit/file", "see", export_audit),
    Page("GET", "/policy", "see", show_policy),
)
