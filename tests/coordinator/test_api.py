"""The interface as others see it: its description, its errors, its figures."""

from __future__ import annotations

import re
import socket
import ssl
import time
from contextlib import ExitStack
from typing import Any

import pytest
from serving import Client, Server, SiteClient

from aimer2.coordinator.settings import Settings


@pytest.fixture(scope="module")
def description(server: Server) -> Any:
    return Client(server).get("/openapi.json")


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(inner) for inner in node.values()))
    return set().union(*(references(inner) for inner in node)) if isinstance(node, list) else set()


def test_every_route_is_described_in_words(description: Any) -> None:
    operations = [operation for methods in description["paths"].values() for operation in methods.values()]
    assert all(operation.get("description") for operation in operations)


def test_the_description_is_whole(description: Any) -> None:
    assert description["openapi"].startswith("3.1")
    schemas = description["components"]["schemas"]
    assert {ref.rpartition("/")[2] for ref in references(description)} <= schemas.keys()
    assert {"Exchange", "Exchanged", "Package", "Problem", "Study"} <= schemas.keys()


@pytest.mark.parametrize("path", ["/v1/info", "/v1/session", "/v1/studies", "/v1/nothing", "/openapi.json", "/health"])
def test_no_browser_takes_an_answer_for_a_page_or_frames_it(researcher: Client, path: str) -> None:
    headers = researcher.call("GET", path).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'" and "unsafe" not in str(policy)
    assert (headers["X-Frame-Options"], headers["X-Content-Type-Options"]) == ("DENY", "nosniff")
    assert headers["Content-Type"].partition(";")[0] != "text/html"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/nothing", None, 404, "not-found"),
        ("DELETE", "/v1/studies", None, 405, "bad-input"),
        ("GET", "/v1/studies/" + "0" * 64, None, 404, "not-found"),
        ("POST", "/v1/studies", b"not JSON", 400, "bad-input"),
        ("POST", "/v1/studies", {"format": 1}, 400, "bad-input"),
        ("POST", "/v1/sessions", {"user": "x"}, 400, "bad-input"),
        ("POST", "/v1/tokens", b"grant_type=password", 400, "bad-input"),
        ("PUT", "/v1/blobs/" + "0" * 64, b"x", 400, "bad-input"),
        ("GET", "/v1/blobs/" + "0" * 64, None, 404, "not-found"),
        ("POST", "/v1/sessions", b"x" * 100_000, 413, "too-large"),
    ],
)
def test_every_error_is_a_problem_document(researcher: Client, method: str, path: str, body: Any, status: int, code: str) -> None:
    answer = researcher.call(method, path, body)
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status, problem["status"], problem["code"], problem["type"]) == (status, status, code, f"urn:aimer2:error:{code}")
    assert problem["detail"]
    assert problem["remedy"]


def test_a_study_with_faults_names_each(researcher: Client) -> None:
    package = {"format": 1, "study": {"name": "No Name"}, "method_version": 1, "initial": {"sha256": "0" * 64, "size": 0}, "roster": {}}
    problem = researcher.post("/v1/studies", package, 400)
    assert problem["code"] == "bad-study"
    assert {"name", "question", "cohort", "model"} <= {fault["place"] for fault in problem["faults"]}


def test_health_and_figures(server: Server, researcher: Client, sites: list[SiteClient]) -> None:
    assert researcher.get("/health")["status"] == "ok"
    sites[0].exchange(wait=0)
    text = Client(server).call("GET", "/metrics").data.decode()
    figures = dict(re.findall(r"^(aimer2_\S+) ([\d.e+]+)$", text, re.MULTILINE))
    assert float(figures["aimer2_exchanges_total"]) >= 1
    assert float(figures["aimer2_sites_online"]) >= 1
    assert 'aimer2_studies{state="running"}' in figures
    assert "aimer2_round_seconds_count" in figures
    assert sites[0].name not in text


def test_a_site_shows_what_it_says_of_itself(researcher: Client, sites: list[SiteClient]) -> None:
    sites[0].post("/v1/exchange", {"wait_seconds": 0, "status": {"version": "9.9"}})
    found = {site["site"]: site for site in researcher.get("/v1/sites")}
    assert found[sites[0].name]["online"]
    assert found[sites[0].name]["status"] == {"version": "9.9"}
    assert not found[sites[1].name]["online"]


def test_the_log_says_what_happens_and_no_secret(server: Server, sites: list[SiteClient]) -> None:
    text = server.log()
    assert "site-enrolled" in text
    assert sites[0].token not in text
    assert "POST /v1/exchange" not in text


def test_every_setting_is_documented() -> None:
    assert not [name for name, field in Settings.model_fields.items() if not field.description]


def test_requests_that_never_end_keep_nobody_waiting(server: Server, researcher: Client) -> None:
    """Half of them do not even begin to speak TLS; the server closes them all after half a minute."""
    context = ssl.create_default_context(cafile=str(server.folder / "tls" / "certificate.pem"))
    with ExitStack() as still_open:
        for number in range(64):
            line = still_open.enter_context(socket.create_connection(("127.0.0.1", server.port), 5))
            if number % 2:
                half = still_open.enter_context(context.wrap_socket(line, server_hostname="127.0.0.1"))
                half.sendall(b"POST /v1/sessions HTTP/1.1\r\nHost: here\r\nContent-Le")
        began = time.monotonic()
        assert Client(server).get("/health")["status"] == "ok"
        assert time.monotonic() - began < 5
