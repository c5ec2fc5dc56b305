"""Who may do what: every role, every action, every route, each one line. Enforced by `http.access`, and walked by a test.

One coordinator serves one consortium. An account has one **role** in it. In a single study a person may besides have a **part**, which whoever
leads the study gives. Nothing here lets anybody approve for a hospital: that is decided, and signed, at the hospital.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, TypeAlias, final, get_args

from aimer2.core.errors import BadInput
from aimer2.core.said import say
from aimer2.core.task import SITE_ID

Role: TypeAlias = Literal["operator", "principal-investigator", "researcher", "site-administrator", "data-protection-officer", "auditor"]
"""What an account is in the consortium."""
ROLES: tuple[Role, ...] = get_args(Role)

SITE_ROLES: frozenset[str] = frozenset({"site-administrator", "data-protection-officer"})
"""Accounts that belong to one site."""

Part: TypeAlias = Literal["principal-investigator", "researcher", "auditor"]
"""What a person is in one study; who submits it is its principal investigator."""
PARTS: tuple[Part, ...] = get_args(Part)

SITE = "site"
"""The role of a hospital's agent, which is no person."""


@final
class Action(StrEnum):
    """What can be done; the routes that do it are in `ROUTES`."""

    OWN = "own"  # one's own log-ins, tokens and password
    SEE_SITES = "see-sites"  # which hospitals take part, and whether they are there
    SEE_STUDY = "see-study"  # the study as it was submitted, its state, what its sites decided
    FOLLOW_STUDY = "follow-study"  # its events, its result, its record, its model while it runs
    SUBMIT_STUDY = "submit-study"
    CONDUCT_STUDY = "conduct-study"  # start, pause, resume, stop
    REHEARSE_STUDY = "rehearse-study"  # ask the sites whether their data fit
    SHARE_STUDY = "share-study"  # say who else works on it
    SEE_MODELS = "see-models"  # those of the studies that one follows, and all that are released
    STAGE_MODEL = "stage-model"
    USE_BLOBS = "use-blobs"  # upload one's own, fetch those of one's studies
    SEE_PEOPLE = "see-people"
    MANAGE_PEOPLE = "manage-people"  # accounts, and other people's tokens
    SEE_CONSORTIUM = "see-consortium"  # members, agreements and who has accepted them
    MANAGE_CONSORTIUM = "manage-consortium"  # invite, off-board, put agreements before the members
    SEE_FREEZE = "see-freeze"  # whether everything is stopped, by whom and why
    FREEZE = "freeze"  # stop everything at once, and lift that
    READ_AUDIT = "read-audit"  # the coordinator's audit log
    ACCEPT_AGREEMENT = "accept-agreement"  # in the name of one's own hospital


@final
class Reach(StrEnum):
    """Of what a role may do it."""

    ALL = "all"
    PART = "part"  # the studies in which the person has a part, as far as that part allows it
    SITE = "own site"  # what concerns the person's own site


_A = Action
_STUDIES = (_A.SEE_STUDY, _A.FOLLOW_STUDY, _A.CONDUCT_STUDY, _A.REHEARSE_STUDY, _A.STAGE_MODEL)
_EVERYBODY = dict.fromkeys((_A.OWN, _A.SEE_MODELS, _A.SEE_FREEZE), Reach.ALL)

ROLE_PERMISSIONS: Mapping[str, Mapping[Action, Reach]] = {
    "operator": _EVERYBODY
    | dict.fromkeys((*_STUDIES, _A.SHARE_STUDY, _A.SEE_SITES, _A.USE_BLOBS), Reach.ALL)
    | dict.fromkeys((_A.SEE_PEOPLE, _A.MANAGE_PEOPLE, _A.SEE_CONSORTIUM, _A.MANAGE_CONSORTIUM, _A.FREEZE, _A.READ_AUDIT), Reach.ALL),
    "principal-investigator": _EVERYBODY
    | dict.fromkeys((_A.SUBMIT_STUDY, _A.SEE_SITES, _A.SEE_CONSORTIUM, _A.USE_BLOBS), Reach.ALL)
    | dict.fromkeys((*_STUDIES, _A.SHARE_STUDY), Reach.PART),
    "researcher": _EVERYBODY
    | dict.fromkeys((_A.SUBMIT_STUDY, _A.SEE_SITES, _A.SEE_CONSORTIUM, _A.USE_BLOBS), Reach.ALL)
    | dict.fromkeys(_STUDIES, Reach.PART),
    "site-administrator": _EVERYBODY | dict.fromkeys((_A.SEE_SITES, _A.SEE_STUDY, _A.SEE_CONSORTIUM, _A.ACCEPT_AGREEMENT), Reach.SITE),
    "data-protection-officer": _EVERYBODY | dict.fromkeys((_A.SEE_SITES, _A.SEE_STUDY, _A.SEE_CONSORTIUM, _A.ACCEPT_AGREEMENT), Reach.SITE),
    "auditor": _EVERYBODY
    | dict.fromkeys((_A.SEE_STUDY, _A.FOLLOW_STUDY, _A.SEE_SITES, _A.SEE_PEOPLE, _A.SEE_CONSORTIUM, _A.USE_BLOBS, _A.READ_AUDIT), Reach.ALL),
}

PART_PERMISSIONS: Mapping[str, frozenset[Action]] = {
    "principal-investigator": frozenset((*_STUDIES, _A.SHARE_STUDY)),
    "researcher": frozenset((_A.SEE_STUDY, _A.FOLLOW_STUDY, _A.REHEARSE_STUDY)),
    "auditor": frozenset((_A.SEE_STUDY, _A.FOLLOW_STUDY)),
}


@final
class Door(StrEnum):
    """A route that is not for people with an account alone."""

    ANYONE = "anyone"
    AGENT = "agent"  # a hospital's agent only
    BLOBS = "blobs"  # an agent, or a person who may `use-blobs`
    PACKAGE = "package"  # an agent of its roster, or a person who may `see-study`


ROUTES: Mapping[str, Action | Door] = {
    # Whoever reaches the port
    "GET /health": Door.ANYONE,
    "GET /metrics": Door.ANYONE,
    "GET /openapi.json": Door.ANYONE,
    "GET /v1/coordinator": Door.ANYONE,
    "POST /v1/sessions": Door.ANYONE,
    "POST /v1/sessions/code": Door.ANYONE,
    "POST /v1/session": Door.ANYONE,
    "GET /v1/openid": Door.ANYONE,
    "GET /v1/openid/login": Door.ANYONE,
    "GET /v1/openid/callback": Door.ANYONE,
    "POST /v1/enrolments": Door.ANYONE,
    "POST /v1/tokens": Door.ANYONE,
    # Agents
    "POST /v1/exchange": Door.AGENT,
    "POST /v1/decisions": Door.AGENT,
    "POST /v1/sites/key": Door.AGENT,
    "POST /v1/audit/heads": Door.AGENT,
    "POST /v1/spending": Door.AGENT,
    "POST /v1/descriptions": Door.AGENT,
    # Agents and people
    "GET /v1/studies/{digest}/package": Door.PACKAGE,
    "GET /v1/blobs/{sha256}": Door.BLOBS,
    "HEAD /v1/blobs/{sha256}": Door.BLOBS,
    "PUT /v1/blobs/{sha256}": Door.BLOBS,
    # Oneself
    "GET /v1/session": Action.OWN,
    "POST /v1/session/code": Action.OWN,
    "DELETE /v1/session": Action.OWN,
    "PUT /v1/session/password": Action.OWN,
    "GET /v1/sessions": Action.OWN,
    "DELETE /v1/sessions": Action.OWN,
    "GET /v1/service-tokens": Action.OWN,
    "POST /v1/service-tokens": Action.OWN,
    "DELETE /v1/service-tokens/{identifier}": Action.OWN,
    # People
    "GET /v1/people": Action.SEE_PEOPLE,
    "POST /v1/people": Action.MANAGE_PEOPLE,
    "PUT /v1/people/{name}": Action.MANAGE_PEOPLE,
    "DELETE /v1/people/{name}": Action.MANAGE_PEOPLE,
    "GET /v1/people/{name}/sessions": Action.MANAGE_PEOPLE,
    "DELETE /v1/people/{name}/sessions": Action.MANAGE_PEOPLE,
    "GET /v1/studies/{digest}/people": Action.FOLLOW_STUDY,
    "PUT /v1/studies/{digest}/people/{name}": Action.SHARE_STUDY,
    "DELETE /v1/studies/{digest}/people/{name}": Action.SHARE_STUDY,
    # The consortium
    "GET /v1/members": Action.SEE_CONSORTIUM,
    "POST /v1/members/{site}/off-boarding": Action.MANAGE_CONSORTIUM,
    "GET /v1/invitations": Action.SEE_CONSORTIUM,
    "POST /v1/invitations": Action.MANAGE_CONSORTIUM,
    "DELETE /v1/invitations/{identifier}": Action.MANAGE_CONSORTIUM,
    "GET /v1/agreements": Action.SEE_CONSORTIUM,
    "POST /v1/agreements": Action.MANAGE_CONSORTIUM,
    "POST /v1/agreements/{digest}/acceptances": Action.ACCEPT_AGREEMENT,
    # Studies
    "GET /v1/sites": Action.SEE_SITES,
    "GET /v1/sites/{site}/descriptions": Action.SEE_SITES,
    "GET /v1/overview": Action.SEE_STUDY,
    "GET /v1/spending": Action.SEE_STUDY,
    "GET /v1/studies": Action.SEE_STUDY,
    "POST /v1/studies": Action.SUBMIT_STUDY,
    "GET /v1/studies/{digest}": Action.SEE_STUDY,
    "POST /v1/studies/{digest}/start": Action.CONDUCT_STUDY,
    "POST /v1/studies/{digest}/stop": Action.CONDUCT_STUDY,
    "POST /v1/studies/{digest}/resume": Action.CONDUCT_STUDY,
    "POST /v1/studies/{digest}/archive": Action.CONDUCT_STUDY,
    "POST /v1/studies/{digest}/preflight": Action.REHEARSE_STUDY,
    "GET /v1/studies/{digest}/events": Action.FOLLOW_STUDY,
    "GET /v1/studies/{digest}/work": Action.FOLLOW_STUDY,
    "GET /v1/studies/{digest}/result": Action.FOLLOW_STUDY,
    "GET /v1/studies/{digest}/model": Action.FOLLOW_STUDY,
    # Drafts: everybody has his own only
    "GET /v1/drafts": Action.SUBMIT_STUDY,
    "POST /v1/drafts": Action.SUBMIT_STUDY,
    "GET /v1/drafts/{draft}": Action.SUBMIT_STUDY,
    "PUT /v1/drafts/{draft}": Action.SUBMIT_STUDY,
    "DELETE /v1/drafts/{draft}": Action.SUBMIT_STUDY,
    "GET /v1/drafts/{draft}/faults": Action.SUBMIT_STUDY,
    # An incident, and the audit log
    "GET /v1/freeze": Action.SEE_FREEZE,
    "POST /v1/freeze": Action.FREEZE,
    "POST /v1/thaw": Action.FREEZE,
    "GET /v1/audit": Action.READ_AUDIT,
    # Models
    "GET /v1/models": Action.SEE_MODELS,
    "GET /v1/models/{digest}": Action.SEE_MODELS,
    "GET /v1/models/{digest}/weights": Action.SEE_MODELS,
    "GET /v1/studies/{digest}/record": Action.SEE_MODELS,
    "POST /v1/models/{digest}/stage": Action.STAGE_MODEL,
}
"""A route that is missing here is refused to everybody."""


def reach_of(role: str, action: Action) -> Reach | None:
    """How far a role's permission goes; None: it has none."""
    return ROLE_PERMISSIONS.get(role, {}).get(action)


def check_role(role: str, site: str | None) -> None:
    """Raises BadInput for a role that there is not, and where a hospital's role has no site or another role has one."""
    if role not in ROLES:
        raise BadInput(say("There is no role {role}.", role=role), remedy=say("The roles are: {roles}", roles=", ".join(ROLES)))
    if (role in SITE_ROLES) != (site is not None):
        raise BadInput("A site administrator or data-protection officer has a site, and nobody else.", remedy="Name the site, or another role.")
    if site is not None and not SITE_ID.fullmatch(site):
        raise BadInput("A site's name has lower-case letters, digits and '-', at most 63 characters.")


def covers(role: str, other: str) -> bool:
    """Whether ``role`` may do all that ``other`` may, as far: then a token of the first may be limited to the second."""
    own = ROLE_PERMISSIONS[role]
    return all(own.get(action) in (Reach.ALL, reach) for action, reach in ROLE_PERMISSIONS[other].items())
