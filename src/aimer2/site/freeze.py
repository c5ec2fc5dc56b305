"""A hospital's own emergency stop: every worker ends at once, and no task is answered until a named person thaws it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, final

from aimer2.audit.kinds import Kind
from aimer2.core.errors import BadInput, Conflict, Frozen
from aimer2.core.said import say
from aimer2.site.control import ask_agent
from aimer2.site.decisions import Decisions

_FACT = "frozen"
_TOLD = "frozen by the coordinator"


@final
@dataclass(frozen=True, slots=True)
class Freeze:
    """Who has frozen this site, why and when (seconds since 1970). The reason stays here; the coordinator learns that it is frozen."""

    by: str
    reason: str
    time: float


def freeze_of(decisions: Decisions) -> Freeze | None:
    """The freeze that is in force."""
    text = decisions.store.fact(_FACT)
    return Freeze(**json.loads(text)) if text else None


def freeze(decisions: Decisions, *, by: str, reason: str) -> Freeze:
    """Kept over restarts. Raises BadInput without a name and a reason, Conflict where it is frozen already."""
    _check(by, reason)
    known = freeze_of(decisions)
    if known is not None:
        raise Conflict(say("This site is frozen already, by {by}: {reason}", by=known.by, reason=known.reason))
    made = Freeze(by, reason, decisions.clock.now())
    # In force first: a log that cannot be written must not keep an emergency stop from happening.
    decisions.store.note(_FACT, json.dumps(asdict(made)))
    decisions.audit.append(Kind.FROZEN, actor=by, details={"reason": reason})
    return made


def thaw(decisions: Decisions, *, by: str, reason: str) -> None:
    """Raises BadInput without a name and a reason, Conflict where it is not frozen."""
    _check(by, reason)
    if freeze_of(decisions) is None:
        raise Conflict("This site is not frozen.")
    decisions.audit.append(Kind.THAWED, actor=by, details={"reason": reason})
    decisions.store.note(_FACT, "")


def order(decisions: Decisions, word: Literal["freeze", "thaw"], *, by: str, reason: str) -> None:
    """By the running agent, which acts on it at once; where none runs, here. Raises what ``freeze`` and ``thaw`` raise."""
    if ask_agent(decisions.folder, {"command": word, "by": by, "reason": reason}) is None:
        (freeze if word == "freeze" else thaw)(decisions, by=by, reason=reason)


def coordinator_said(decisions: Decisions, frozen: str) -> bool:
    """Notes what the coordinator says of itself: who has frozen it and why, empty where nobody has. True where that is news."""
    if frozen == (decisions.store.fact(_TOLD) or ""):
        return False
    decisions.store.note(_TOLD, frozen)
    kind = Kind.COORDINATOR_FROZEN if frozen else Kind.COORDINATOR_THAWED
    decisions.audit.append(kind, actor="agent", details={"said": frozen[:1000]} if frozen else {})
    return True


def halted(decisions: Decisions) -> str:
    """Why nothing of any study may run here now; empty where it may."""
    if freeze_of(decisions) is not None:
        return "This site has been frozen by its hospital."
    return "The coordinator has been frozen." if decisions.store.fact(_TOLD) else ""


def refuse_frozen(decisions: Decisions) -> None:
    """Raises Frozen while this hospital has stopped everything."""
    known = freeze_of(decisions)
    if known is not None:
        raise Frozen(
            say("This site was frozen by {by}: {reason}", by=known.by, reason=known.reason), remedy="`aimer2 site thaw REASON --by NAME` lifts it."
        )


def _check(by: str, reason: str) -> None:
    if len(by.strip()) < 2 or not 3 <= len(reason.strip()) <= 500:
        raise BadInput("A freeze, and its end, name the person and say why (3 to 500 characters).")
