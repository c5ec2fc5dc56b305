"""Requests: what somebody who answers for the data needs before a decision, and the decision."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, final

from markupsafe import Markup
from starlette.responses import Response, StreamingResponse

from aimer2.attacks.inversion import CLOSE
from aimer2.core.errors import AimerError, BadInput, NotFound
from aimer2.core.said import Said, mark
from aimer2.messages.wire import Decision
from aimer2.site import snapshots
from aimer2.site.approval import stands, valid_until
from aimer2.site.console.door import Page, Visit
from aimer2.site.console.work import Tell
from aimer2.site.cost import foresee
from aimer2.site.decisions import Decisions, Word, decide
from aimer2.site.description import described
from aimer2.site.leak import pictures
from aimer2.site.leak.confined import Asked, read_rehearsal, rehearse
from aimer2.site.leak.findings import Example
from aimer2.site.leak.words import LIMITS, VAGUE, of_attempt, of_level, short, summary
from aimer2.site.preflight import check_here
from aimer2.site.store import KnownStudy
from aimer2.site.versions import change_of, code_of
from aimer2.web.code import coloured_files
from aimer2.web.translation import nested

_OVER = ("finished", "stopped", "failed", "archived")
_LOOK_SECONDS = 0.5
STATES = {
    "waiting": mark("waits for a decision"),
    "approved": mark("approved"),
    "refused": mark("refused"),
    "withdrawn": mark("withdrawn"),
    "expired": mark("approval expired"),
    "over": mark("over"),
    "coming": mark("not fetched yet"),
}
BADGES = {"waiting": "warn", "approved": "good", "refused": "bad", "withdrawn": "bad", "expired": "plain", "over": "plain", "coming": "plain"}

_SQUARES = (mark("In the clear"), mark("Under masks, as with secure aggregation"), mark("The same update, masked for another round"))
_IMAGES = (mark("The patient's image, as the model sees it"), mark("Rebuilt without protection"), mark("The nearest that comes of the sum"))


@final
@dataclass(frozen=True, slots=True)
class Line:
    """One study of the list. ``until``: of the approval in force, seconds since 1970; ``missing``: sites whose keys are not verified here."""

    known: KnownStudy
    state: str
    decision: Decision | None
    until: float | None
    missing: Sequence[str]


def line_of(decisions: Decisions, known: KnownStudy) -> Line:
    decision, package = decisions.store.decision(known.digest), known.package
    if package is None:
        return Line(known, "coming", decision, None, ())
    missing = decisions.address_book.unverified(package.roster) if package.study.privacy.secure_aggregation else ()
    until = valid_until(decision, package) if decision is not None and decision.decision == "approve" else None
    return Line(known, _state(decisions, known, decision), decision, until, missing)


def _state(decisions: Decisions, known: KnownStudy, decision: Decision | None) -> str:
    if decision is not None and decision.decision != "approve":
        return {"refuse": "refused", "withdraw": "withdrawn"}[decision.decision]
    if known.state in _OVER:
        return "over"
    if decision is None:
        return "waiting"
    assert known.package is not None
    return "approved" if stands(decision, known.package, decisions.clock.now()) is None else "expired"


def show_list(visit: Visit) -> Response:
    decisions = visit.console.decisions
    lines = [line_of(decisions, known) for known in reversed(decisions.store.studies())]
    waiting = [line for line in lines if line.state == "waiting"]
    others = [line for line in lines if line.state != "waiting"]
    return visit.page("requests.html", current="/", waiting=waiting, others=others, states=STATES, badges=BADGES)


def _found(visit: Visit) -> KnownStudy:
    known = visit.console.decisions.store.study(visit.name("digest"))
    if known is None:
        raise NotFound("There is no such study here.")
    return known


def _fetched(visit: Visit) -> KnownStudy:
    known = _found(visit)
    if known.package is None:
        raise NotFound("The study has not been fetched yet.", remedy="Let the agent run.")
    return known


def _name_of(known: KnownStudy) -> str:
    return f"/requests/{known.digest}"


def show(visit: Visit) -> Response:
    known, decisions = _fetched(visit), visit.console.decisions
    package = known.package
    assert package is not None
    line, study, code = line_of(decisions, known), package.study, code_of(decisions, known.digest, package)
    names = snapshots.names(decisions.folder)
    change, named = change_of(decisions, package, code), sorted(code.items())
    *texts, changed = coloured_files([*named, ("code.diff", "\n".join(change.code if change else ()))])
    dataset = line.decision.dataset if line.decision is not None and line.decision.dataset else study.cohort.dataset
    return visit.page(
        "request.html",
        current="/",
        line=line,
        states=STATES,
        badges=BADGES,
        package=package,
        study=study,
        described={part: nested(lines) for part, lines in described(package).items()},
        code=[(name, text) for (name, _), text in zip(named, texts, strict=True)],
        change=change,
        changed_code=changed if change and change.code else "",
        history=decisions.store.decisions(known.digest),
        datasets=names,
        dataset=dataset,
        cost=_cost(visit, known, dataset) if dataset in names else None,
        preflight=visit.console.work.find(f"preflight {known.digest}"),
        rehearsal=visit.console.work.find(f"rehearsal {known.digest}"),
        rehearsed=read_rehearsal(decisions.folder, known.digest) if visit.person.may("see patients") else None,
        last_day=datetime.fromtimestamp(study.expires_at, UTC).date().isoformat(),
        today=datetime.fromtimestamp(visit.console.clock.now(), UTC).date().isoformat(),
    )


def _cost(visit: Visit, known: KnownStudy, dataset: str) -> Any:
    """What it costs the budget, or the error that says why that cannot be told."""
    assert known.package is not None
    try:
        return foresee(known.package.study, known.digest, visit.console.ledgers, dataset)
    except AimerError as error:
        return error


def approve(visit: Visit) -> Response:
    until = _end_of(visit.field("until"))
    return _decide(visit, "approve", "approved", until=until, dataset=visit.field("dataset") or None)


def refuse(visit: Visit) -> Response:
    if not visit.field("reason"):
        raise BadInput("A refusal has a reason, which the researcher is told.")
    return _decide(visit, "refuse", "refused", reason=visit.field("reason"))


def withdraw(visit: Visit) -> Response:
    return _decide(visit, "withdraw", "withdrawn", reason=visit.field("reason"))


def _decide(visit: Visit, word: Word, done: str, **given: Any) -> Response:
    known = _found(visit)
    taken = decide(visit.console.decisions, word, known.digest, by=visit.person.name, **given)
    return visit.go(_name_of(known), done if taken.told else "not-told")


def _end_of(day: str) -> float | None:
    """The end of that day, seconds since 1970."""
    if not day:
        return None
    try:
        return (datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)).timestamp()
    except ValueError:
        raise BadInput("The last day of an approval is written like 2027-06-30.") from None


def begin_preflight(visit: Visit) -> Response:
    known, console = _fetched(visit), visit.console
    asked = partial(check_here, console.decisions, console.settings, known.digest, by=visit.person.name, dataset=visit.field("dataset") or None)
    console.work.begin(f"preflight {known.digest}", lambda tell: asked(), by=visit.person.name)
    return visit.go(_name_of(known), "begun")


def begin_rehearsal(visit: Visit) -> Response:
    known, console = _fetched(visit), visit.console
    with_code = visit.field("with_code") == "yes"
    asked = Asked(by=visit.person.name, dataset=visit.field("dataset") or None, with_code=with_code)

    def work(tell: Tell) -> None:
        rehearse(console.decisions, console.settings, known.digest, asked, tell)

    console.work.begin(f"rehearsal {known.digest}", work, by=visit.person.name)
    return visit.go(_name_of(known), "begun")


def show_progress(visit: Visit) -> Response:
    """A stream of events: how far preflight and rehearsal are, until both are over."""
    known, console = _found(visit), visit.console
    language = console.answers.language(visit.request)
    pieces = [console.work.find(f"{kind} {known.digest}") for kind in ("preflight", "rehearsal")]

    async def events() -> AsyncIterator[str]:
        while any(piece is not None and piece.state == "running" for piece in pieces):
            for name, piece in zip(("preflight", "rehearsal"), pieces, strict=True):
                if piece is not None and piece.state == "running":
                    yield event(f"{name}-progress", console.answers.pages.fragment("progress.html", "progress", language, piece))
            await asyncio.sleep(_LOOK_SECONDS)
        yield event("end", "reload")

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def event(name: str, content: str) -> str:
    """One event of a stream."""
    lines = "".join(f"data: {line}\n" for line in content.splitlines())
    return f"event: {name}\n{lines}\n"


def show_rehearsal(visit: Visit) -> Response:
    known = _fetched(visit)
    kept = read_rehearsal(visit.console.folder, known.digest)
    if kept is None:
        raise NotFound("This study has not been rehearsed here yet.")
    found, language = kept.findings, visit.console.answers.language(visit.request)

    def tell(said: Said) -> str:
        return language.told(said)[0]

    drawn = {
        "rebuilt": pictures.rebuilt(found, tell) if found.levels else "",
        "patient": pictures.patient(found.example.cells, tell) if found.example is not None else "",
        "traced": pictures.traced(found.tracing.results, tell) if found.tracing.results else "",
    }
    words = found.words
    shown = () if words is None else zip(_SQUARES, (words.clear, words.masked, words.again), strict=True)
    squares = [(visit.text(title), pictures.bytes_picture(content, visit.text(title))) for title, content in shown]
    assert known.package is not None
    return visit.page(
        "rehearsal.html",
        current="/",
        known=known,
        study=known.package.study,
        kept=kept,
        found=found,
        said=nested(summary(found)),
        # Made by `pictures`, which escapes what the worker has said.
        drawn={name: Markup(picture) for name, picture in drawn.items()},
        squares=[(title, Markup(picture)) for title, picture in squares],
        images=_images(visit, found.example),
        vague=nested([VAGUE]) if found.example is not None and found.example.error >= CLOSE else (),
        limits=nested([*LIMITS, *map(Said, found.notes)]),
        of_level=of_level,
        of_attempt=of_attempt,
        view=short,
    )


def _images(visit: Visit, example: Example | None) -> Sequence[tuple[str, Markup]]:
    """The shown patient's image, and what came out of its place."""
    if example is None or example.picture is None:
        return ()
    picture = example.picture
    shown = zip(_IMAGES, (picture.real, picture.alone, picture.protected), strict=True)
    titled = [(visit.text(title), content) for title, content in shown if content is not None]
    return [(title, Markup(pictures.image(picture, content, title))) for title, content in titled]


PAGES = (
    Page("GET", "/", "see", show_list),
    Page("GET", "/requests/{digest}", "see", show),
    Page("POST", "/requests/{digest}/approve", "decide", approve),
    Page("POST", "/requests/{digest}/refuse", "decide", refuse),
    Page("POST", "/requests/{digest}/withdraw", "withdraw", withdraw),
    Page("POST", "/requests/{digest}/preflight", "rehearse", begin_preflight),
    Page("POST", "/requests/{digest}/rehearsal", "rehearse", begin_rehearsal),
    Page("GET", "/requests/{digest}/rehearsal", "see patients", show_rehearsal),
    Page("GET", "/requests/{digest}/progress", "see", show_progress),
)
