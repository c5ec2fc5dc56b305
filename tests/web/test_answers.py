"""A console's answers: no other origin makes it do anything, nothing of a text is markup, no file but the shipped ones, forms within limits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from aimer2.core.errors import BadInput, Conflict, NotAllowed
from aimer2.web import answers as module
from aimer2.web.answers import Answers, Protected, read_form
from aimer2.web.code import MOST_OF_A_FILE, MOST_OF_A_PAGE, coloured, coloured_page
from aimer2.web.pages import Link, Pages, duration, moment, number, size
from aimer2.web.security import FormKey, local_path

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    room = tmp_path_factory.mktemp("room")
    (room / "templates").mkdir()
    text = '{% extends "layout.html" %}{% block title %}{{ said }}{% endblock %}{% block content %}<h1>{{ said }}</h1>{% endblock %}'
    (room / "templates" / "said.html").write_text(text)
    answers = Answers(Pages(room, product="AIMER2", navigation=[Link("Pages", "/")]))

    async def said(request: Request) -> Response:
        return answers.page(request, "said.html", said=request.query_params.get("said", EVIL), person="anna", current="/")

    async def told(request: Request) -> Response:
        form = await read_form(request)
        if "wrong" in form:
            raise Conflict(f"It is {form['wrong']}.")
        return PlainTextResponse(form["name"])

    routes = [Route("/", answers.guard(said)), Route("/told", answers.guard(told), methods=["POST"]), *answers.routes()]
    app = Protected(Starlette(routes=routes, exception_handlers=answers.exception_handlers()))
    with TestClient(app, base_url="https://here.example", follow_redirects=False) as client:
        yield client


def test_every_answer_forbids_foreign_scripts_styles_frames_and_guessing(browser: TestClient) -> None:
    asset = re.findall(r'href="(/static/[^"]+)"', browser.get("/").text)[0]
    for path in ("/", asset, "/nowhere", "/static/nothing.js"):
        headers = browser.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'", path
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'", path
        assert headers["x-frame-options"] == "DENY", path
        assert headers["x-content-type-options"] == "nosniff", path


def test_a_page_needs_nothing_that_its_policy_forbids(browser: TestClient) -> None:
    page = browser.get("/").text
    assert not re.search(r"<style|style=|<script(?! type=\"module\" src=\"/static/)|\son\w+=\"|https?://", page)


def test_a_text_with_markup_is_a_text(browser: TestClient) -> None:
    page = browser.get("/").text
    assert EVIL not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 2


def test_a_file_s_name_holds_its_digest_and_it_is_kept_for_good(browser: TestClient) -> None:
    for address in re.findall(r'(?:href|src)="(/static/[^"]+)"', browser.get("/").text):
        found = browser.get(address)
        assert found.status_code == 200
        assert "immutable" in found.headers["cache-control"]
        assert re.search(r"\.[0-9a-f]{16}\.", address)


@pytest.mark.parametrize("path", ["../answers.py", "%2e%2e/answers.py", "..%2fanswers.py", "style.css", "....//answers.py", "%00", "%2fetc%2fpasswd"])
def test_no_path_leads_out_of_the_shipped_files(browser: TestClient, path: str) -> None:
    assert browser.get(f"/static/{path}").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "https://here.example.elsewhere.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_origin_cannot_send_a_form(browser: TestClient, headers: dict[str, str]) -> None:
    assert browser.post("/told", data={"name": "x"}, headers=headers).status_code == 403


def test_one_s_own_form_is_taken(browser: TestClient) -> None:
    headers = {"Origin": "https://here.example", "Sec-Fetch-Site": "same-origin"}
    assert browser.post("/told", data={"name": "Ångström & Söhne"}, headers=headers).text == "Ångström & Söhne"


def test_a_form_that_is_too_large_or_no_form_is_refused(browser: TestClient) -> None:
    assert browser.post("/told", data={"name": "x" * module.LARGEST_FORM}).status_code == 413
    assert browser.post("/told", json={"name": "x"}).status_code == 400
    assert browser.post("/told", content=b"name=\xff\xfe", headers={"Content-Type": "application/x-www-form-urlencoded"}).status_code == 400
    assert browser.post("/told", data={f"f{n}": "" for n in range(300)}).status_code == 400


def test_a_form_that_does_not_arrive_is_not_waited_for() -> None:
    headers = [(b"content-type", b"application/x-www-form-urlencoded")]

    async def never() -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    async def read() -> None:
        await read_form(Request({"type": "http", "method": "POST", "headers": headers}, never), 0.01)  # type: ignore[arg-type]

    with pytest.raises(BadInput, match="in time"):
        asyncio.run(read())


def test_an_error_is_a_page_that_says_what_to_do(browser: TestClient) -> None:
    answer = browser.post("/told", data={"wrong": EVIL})
    assert answer.status_code == 409
    assert EVIL not in answer.text
    assert "conflict" in answer.text
    missing = browser.get("/nowhere", headers={"Accept-Language": "zh-CN"})
    assert (missing.status_code, 'lang="zh-Hans"' in missing.text, "操作未成功" in missing.text) == (404, True, True)
    assert browser.get("/told").status_code == 405


def test_a_language_is_chosen_once_and_leads_back_to_the_page(browser: TestClient) -> None:
    answer = browser.post("/language", data={"language": "zh-Hans", "back": "/?said=a"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?said=a")
    cookie = answer.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("__host-language=zh-hans", "httponly", "secure", "path=/", "samesite=lax"))
    assert 'lang="zh-Hans"' in browser.get("/").text
    assert "跳到正文" in browser.get("/").text
    browser.cookies.clear()
    assert "Skip to the content" in browser.get("/").text
    assert "set-cookie" not in browser.post("/language", data={"language": "x; Domain=.example", "back": "/"}).headers


@pytest.mark.parametrize("address", ["//elsewhere.example", "/\\elsewhere.example", "https://elsewhere.example", "javascript:alert(1)", "", "/a\nb"])
def test_an_address_that_leads_away_is_not_followed(address: str) -> None:
    assert local_path(address, "/here") == "/here"


def test_the_token_of_a_form_is_of_one_session_and_one_installation() -> None:
    key, other = FormKey(b"a" * 32), FormKey(b"b" * 32)
    key.check("session", key.token("session"))
    for token in (key.token("another"), other.token("session"), "", "é"):
        with pytest.raises(NotAllowed):
            key.check("session", token)


def test_code_is_coloured_and_its_markup_is_text() -> None:
    shown = str(coloured(f"def f():\n    return '{EVIL}'\n", "model.py"))
    assert '<span class="k">def</span>' in shown
    assert "<img" not in shown
    assert "style=" not in shown
    assert "<img" not in str(coloured(EVIL, "a.unknown"))


def test_of_long_code_the_first_lines_are_coloured_and_all_is_shown() -> None:
    line = f"def f(): '{EVIL}'\n"
    files = [(f"{number}.py", line * (MOST_OF_A_FILE // len(line) + 100)) for number in range(6)]
    shown = [str(one) for one in asyncio.run(coloured_page(files))]
    for text, html in zip([text for _, text in files], shown, strict=True):
        numbers = [int(one) for one in re.findall(r'<span class="linenos">\s*(\d+)</span>', html)]
        assert numbers == list(range(1, text.count("\n") + 1)) and "<img" not in html
    kept = [html.count('<span class="k">def</span>') for html in shown]
    assert all(0 < one <= MOST_OF_A_FILE // len(line) for one in kept[:4]), "of a file"
    assert sum(kept) * len(line) <= MOST_OF_A_PAGE and kept[5] == 0, "of a page"
    assert 'class="code"' in coloured("", "empty.py")


def test_numbers_read_as_people_write_them() -> None:
    assert [number(value) for value in (None, 3.0, 12345, 0.12345, 0.00012345)] == ["–", "3", "12,345", "0.123", "0.000123"]
    assert [size(value) for value in (12, 1234, 5e6, 7e9)] == ["12 B", "1 kB", "5 MB", "7.0 GB"]
    assert [duration(value) for value in (None, 1.25, 60, 600, 7200)] == ["–", "1.2 s", "60 s", "10 min", "2.0 h"]
    assert str(moment(0)) == '<time datetime="1970-01-01T00:00:00+00:00">1970-01-01 00:00:00&nbsp;UTC</time>'


def test_the_shipped_pages_are_found_from_the_package_alone() -> None:
    assert (Path(module.__file__).parent / "templates" / "layout.html").is_file()
