"""What takes long does not keep the loop from answering others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aimer2.audit.entries import Event, Head, digest, sign_line
from aimer2.audit.log import EMPTY
from aimer2.dashboard.app import Dashboard
from aimer2.identity.keys import SigningKey

DIGEST = "d" * 64
KEY = SigningKey.generate()
ME = {"user": "otto", "role": "auditor", "actions": ["read-audit"], "csrf": "c"}


def answering(path: str, content: object) -> Route:
    async def endpoint(request: Request) -> Response:
        return Response(content) if isinstance(content, bytes | str) else JSONResponse(content)

    return Route(path, endpoint)


async def longest_silence(work: Awaitable[object]) -> float:
    """For how much of the work's time the loop answered nobody, at a stretch."""
    loop, silence = asyncio.get_running_loop(), 0.0
    began, task = loop.time(), asyncio.ensure_future(work)
    last = began
    while not task.done():
        await asyncio.sleep(0.001)
        silence, last = max(silence, loop.time() - last), loop.time()
    await task
    return silence / (last - began)


def log_of(entries: int) -> bytes:
    head, lines = EMPTY, []
    for number in range(1, entries + 1):
        line = sign_line(Event("login-succeeded", "otto", None, {}), after=head, time="2026-01-01T00:00:00Z", key=KEY)
        head = Head(number, digest(line))
        lines.append(line)
    return b"\n".join([*lines, b""])


def test_others_are_answered_while_a_long_audit_log_is_verified() -> None:
    log = log_of(4000)

    routes = [answering("/v1/audit", log), answering("/v1/session", ME), answering("/v1/coordinator", {"key": KEY.public.text})]
    api = Starlette(routes=routes)

    async def story() -> None:
        transport = httpx2.ASGITransport(Dashboard(api, lambda *_: ()))
        async with httpx2.AsyncClient(transport=transport, base_url="https://coordinator.test") as reader:
            # The templates are read at the first time.
            assert (await reader.get("/audit?words=nobody")).status_code == 200
            asked = asyncio.ensure_future(reader.get("/audit?words=nobody"))
            assert await longest_silence(asked) < 0.4
            page = asked.result().text
            assert "The log holds" in page and "Entries: 4000" in page

    asyncio.run(story())


def test_others_are_answered_while_a_large_draft_is_shown() -> None:
    text = "".join(f"[[wrong]]\nname = {number}\n" for number in range(20_000))
    draft = {"id": "1", "name": "n", "text": text, "files": {}, "supersedes": None, "revision": 1, "made": 0, "changed": 0}
    routes = [answering("/v1/session", ME), answering("/v1/drafts/1", draft), answering("/v1/drafts/1/faults", {"faults": []})]

    async def story() -> None:
        transport = httpx2.ASGITransport(Dashboard(Starlette(routes=routes), lambda *_: ()))
        async with httpx2.AsyncClient(transport=transport, base_url="https://coordinator.test") as reader:
            # The templates are read at the first time.
            assert (await reader.get("/drafts/1")).status_code == 200
            asked = asyncio.ensure_future(reader.get("/drafts/1"))
            assert await longest_silence(asked) < 0.4
            assert "name = 19999" in asked.result().text

    asyncio.run(story())


def test_others_are_answered_while_the_code_of_a_study_is_coloured() -> None:
    code = "x = f(1) + 'a'\n" * 6000
    package = json.loads((Path(__file__).parents[1] / "golden" / "package-1.json").read_text())
    study = {"digest": DIGEST, "name": "n", "question": "q", "state": "offered", "reason": "", "result": None}
    api = Starlette(
        routes=[
            answering("/v1/session", ME | {"actions": ["see-study", "use-blobs"]}),
            answering(f"/v1/studies/{DIGEST}", study),
            answering(f"/v1/studies/{DIGEST}/package", package),
            answering(f"/v1/blobs/{'a' * 64}", code),
        ]
    )

    async def story() -> None:
        transport = httpx2.ASGITransport(Dashboard(api, lambda *_: ()))
        async with httpx2.AsyncClient(transport=transport, base_url="https://coordinator.test") as reader:
            # Templates and the syntax are read at the first time.
            assert (await reader.get(f"/studies/{DIGEST}/code")).status_code == 200
            asked = asyncio.ensure_future(reader.get(f"/studies/{DIGEST}/code"))
            assert await longest_silence(asked) < 0.4
            assert '<span class="n">f</span>' in asked.result().text

    asyncio.run(story())
