"""The pages as one ASGI application in front of the coordinator's API: what is not a page goes on to the API."""

from __future__ import annotations

from pathlib import Path
from typing import final

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from aimer2.core.said import mark
from aimer2.dashboard import accounts, audit, consortium, doors, drafts, models, overview
from aimer2.dashboard.api import Api
from aimer2.dashboard.live import Live
from aimer2.dashboard.studies import Describe, StudyPages
from aimer2.dashboard.visit import Page, visited
from aimer2.web.answers import Answers, Protected
from aimer2.web.pages import Link, Pages

NAVIGATION = (
    Link(mark("Overview"), "/"),
    Link(mark("Studies"), "/studies"),
    Link(mark("Drafts"), "/drafts", "submit-study"),
    Link(mark("Sites"), "/sites"),
    Link(mark("Models"), "/models"),
    Link(mark("Privacy"), "/privacy"),
    Link(mark("Consortium"), "/consortium", "see-consortium"),
    Link(mark("People"), "/people", "see-people"),
    Link(mark("Audit"), "/audit", "read-audit"),
)
_API = ("/v1/", "/health", "/metrics", "/openapi.json")


@final
class Dashboard:
    """``api``: the API's application; it is asked in process, and answers by itself what begins with one of its paths."""

    def __init__(self, api: ASGIApp, describe: Describe) -> None:
        # Browsers open addresses of the API too. What a site asks at each round is answered before all this.
        self._api = Protected(api)
        self._pages = Protected(_application(Api(api), describe))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and not scope["path"].startswith(_API)
        await (self._pages if is_page else self._api)(scope, receive, send)


def _application(api: Api, describe: Describe) -> Starlette:
    pages = Pages(Path(__file__).parent, product="AIMER2", navigation=NAVIGATION)
    answers = Answers(pages)
    study = StudyPages(Live(api, pages), describe)

    def get(path: str, page: Page) -> Route:
        return Route(path, visited(api, answers, page), methods=["GET"])

    def post(path: str, page: Page) -> Route:
        return Route(path, visited(api, answers, page), methods=["POST"])

    routes = [
        Route("/login", answers.guard(doors.log_in_page(api, answers)), methods=["GET"]),
        Route("/login", answers.guard(doors.log_in(api, answers)), methods=["POST"]),
        post("/logout", doors.log_out),
        get("/command-line", doors.command_line),
        post("/command-line", doors.hand_on),
        get("/", overview.overview),
        get("/studies", overview.studies),
        get("/sites", overview.sites),
        get("/sites/{site}", overview.site),
        get("/privacy", overview.privacy),
        get("/audit", audit.audit),
        get("/audit/log.jsonl", audit.audit_file),
        post("/freeze", audit.freeze),
        post("/thaw", audit.thaw),
        get("/models", models.models),
        get("/models/{digest}", models.model),
        get("/models/{digest}/card.html", models.card_page),
        get("/models/{digest}/card.md", models.card_text),
        post("/models/{digest}/stage", models.move),
        get("/consortium", consortium.consortium),
        post("/consortium/invite", consortium.invite),
        post("/consortium/invitations/{identifier}/take-back", consortium.take_back),
        post("/consortium/agreements", consortium.add_agreement),
        post("/consortium/agreements/{digest}/accept", consortium.accept),
        get("/consortium/{site}/off-board", consortium.off_board_page),
        post("/consortium/{site}/off-board", consortium.off_board),
        get("/people", accounts.people),
        post("/people/add", accounts.add_person),
        post("/people/change", accounts.change_person),
        post("/people/log-out", accounts.log_person_out),
        post("/people/close", accounts.close_person),
        get("/account", accounts.account),
        post("/account/tokens", accounts.make_token),
        post("/account/tokens/revoke", accounts.revoke_token),
        post("/account/password", accounts.change_password),
        post("/account/log-out", accounts.log_out_everywhere),
        get("/drafts", drafts.drafts),
        post("/drafts", drafts.begin),
        get("/drafts/{draft}", drafts.draft),
        post("/drafts/{draft}", drafts.save),
        post("/drafts/{draft}/submit", drafts.submit),
        post("/drafts/{draft}/discard", drafts.discard),
        get("/studies/{digest}", study.document),
        get("/studies/{digest}/live", study.live),
        get("/studies/{digest}/live/stream", study.stream),
        get("/studies/{digest}/rounds", study.rounds),
        get("/studies/{digest}/leaves", study.leaves),
        get("/studies/{digest}/code", study.code),
        get("/studies/{digest}/results", study.results),
        get("/studies/{digest}/result.json", study.result_file),
        get("/studies/{digest}/record.html", study.record),
        get("/studies/{digest}/compare", study.compare),
        get("/studies/{digest}/stop", study.stop_page),
        post("/studies/{digest}/stop", study.stop),
        post("/studies/{digest}/start", study.start),
        post("/studies/{digest}/pause", study.pause),
        post("/studies/{digest}/resume", study.resume),
        post("/studies/{digest}/archive", study.archive),
        post("/studies/{digest}/data-check", study.check_data),
        post("/studies/{digest}/new-version", drafts.next_version),
        get("/studies/{digest}/people", study.people),
        post("/studies/{digest}/people", study.share),
        post("/studies/{digest}/people/remove", study.unshare),
        *answers.routes(),
    ]
    return Starlette(routes=routes, exception_handlers=answers.exception_handlers())
