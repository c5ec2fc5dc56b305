"""Who gets in at the console: each role at each page, forged forms, planted sessions, names that were made to mean this machine."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.site.console.conftest import BASE, HOST, PASSWORD, PEOPLE, browser, log_in, offer, send, token

from aimer2.core.errors import Conflict
from aimer2.site.console.app import PAGES
from aimer2.site.console.console import Console
from aimer2.site.console.permissions import PERMISSIONS, ROLES
from aimer2.site.datasets import Datasets, DatasetSettings
from aimer2.site.folder import SiteFolder
from aimer2.site.restored import recover
from aimer2.site.settings import Retention
from aimer2.web.security import HEADERS

OURS = {"Origin": BASE, "Sec-Fetch-Site": "same-origin"}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def path_of(path: str, digest: str) -> str:
    return path.format(digest=digest, name="registry")


def test_nobody_sees_anything_without_a_log_in(console: Console, folder: SiteFolder, tmp_path: Path) -> None:
    digest, client = offer(folder, tmp_path / "b"), browser(console)
    for page in PAGES:
        answer = client.request(page.method, path_of(page.path, digest), headers=OURS)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/log-in"), page
        assert "Does age tell" not in answer.text


@pytest.mark.parametrize("role", ROLES)
def test_each_role_gets_what_the_table_says_and_nothing_else(
    role: str, entered: Callable[[str], TestClient], folder: SiteFolder, tmp_path: Path
) -> None:
    digest = offer(folder, tmp_path / "b")
    client = entered(next(login for login, _, named in PEOPLE if named == role))
    csrf = token(client)
    for page in PAGES:
        if page.path in ("/machine/live", "/machine/doctor"):
            continue  # the one never ends, the other asks the network; what guards them is the same
        path = path_of(page.path, digest)
        sent: dict[str, Any] = {"data": {"csrf": csrf, "dataset": "nowhere"}} if page.method == "POST" else {}
        answer = client.request(page.method, path, headers=OURS, **sent)
        assert (answer.status_code == 403) == (role not in PERMISSIONS[page.action]), (page.method, path, answer.status_code)
        assert answer.status_code < 500, (page.method, path, answer.text)


def test_a_form_of_somebody_else_does_nothing(
    console: Console, officer: TestClient, entered: Callable[[str], TestClient], folder: SiteFolder, tmp_path: Path
) -> None:
    digest = offer(folder, tmp_path / "b")
    own, others = token(officer), token(entered("roth"))
    path = f"/requests/{digest}/approve"
    forged: list[tuple[dict[str, str], dict[str, str]]] = [
        ({}, OURS),
        ({"csrf": others}, OURS),
        ({"csrf": "0" * 64}, OURS),
        ({"csrf": own}, {"Origin": "https://evil.example"}),
        ({"csrf": own}, {"Origin": "http://127.0.0.1:9999"}),
        ({"csrf": own}, {"Origin": "null"}),
        ({"csrf": own}, {"Sec-Fetch-Site": "cross-site"}),
        ({"csrf": own}, {"Sec-Fetch-Site": "same-site"}),
    ]
    for form, headers in forged:
        assert officer.post(path, data={"dataset": "registry", **form}, headers=headers).status_code == 403, (form, headers)
    assert officer.get(path).status_code == 405, "a link decides nothing"
    assert console.decisions.store.decisions(digest) == []
    assert officer.post(path, data={"csrf": own, "dataset": "registry"}, headers=OURS).status_code == 303
    assert console.decisions.store.decisions(digest)[0].by == "Dr Ines Vogt"


def test_a_log_out_from_elsewhere_does_nothing(officer: TestClient) -> None:
    csrf = token(officer)
    assert officer.post("/log-out", data={"csrf": "0" * 64}, headers=OURS).status_code == 403
    assert officer.get("/").status_code == 200
    assert officer.post("/log-out", data={"csrf": csrf}, headers=OURS).status_code == 303
    assert officer.get("/").status_code == 303


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8444", "127.0.0.1:9999", "127.0.0.1", f"{HOST}.evil.example", ""])
def test_a_name_that_was_made_to_mean_this_machine_gets_nothing(host: str, officer: TestClient) -> None:
    answer = officer.get("/", headers={"Host": host})
    assert answer.status_code == 421 and "Requests" not in answer.text
    assert officer.get("/", headers={"Host": "LOCALHOST:8444"}).status_code == 200


def test_a_session_that_was_planted_is_worth_nothing_after_the_log_in(console: Console, entered: Callable[[str], TestClient]) -> None:
    hers = entered("cole")
    planted = hers.cookies[console.cookie]
    client = browser(console)
    client.cookies.set(console.cookie, planted)
    done = client.post("/log-in", data={"login": "vogt", "password": PASSWORD, "back": "/audit"}, headers=OURS)
    assert done.headers["location"] == "/audit"
    given = done.headers["set-cookie"]
    assert planted not in given and "HttpOnly" in given and "SameSite=strict" in given and "Path=/" in given
    assert "expires" not in given.lower() and "max-age" not in given.lower(), "it ends with the browser"
    assert hers.get("/").status_code == 303, "the planted one ends, too"


def test_where_a_log_in_leads_stays_here(console: Console) -> None:
    done = browser(console).post("/log-in", data={"login": "vogt", "password": PASSWORD, "back": "//evil.example"}, headers=OURS)
    assert done.headers["location"] == "/"


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}])
def test_nobody_is_logged_in_from_a_page_elsewhere(headers: dict[str, str], console: Console) -> None:
    done = browser(console).post("/log-in", data={"login": "vogt", "password": PASSWORD}, headers=headers)
    assert done.status_code == 403 and "set-cookie" not in done.headers


def test_a_wrong_password_and_an_unknown_name_look_alike(console: Console) -> None:
    told = [browser(console).post("/log-in", data={"login": login, "password": "wrong password!"}, headers=OURS) for login in ("vogt", "nobody")]
    assert [answer.status_code for answer in told] == [401, 401]
    assert told[0].text.replace("vogt", "nobody") == told[1].text
    assert "wrong password!" not in told[0].text


def test_every_answer_bears_the_headers_that_protect_it(officer: TestClient, console: Console) -> None:
    for client, path in ((officer, "/"), (officer, "/nowhere"), (browser(console), "/log-in"), (browser(console), "/"), (officer, "/audit/file")):
        answer = client.get(path)
        assert {name: answer.headers.get(name) for name in HEADERS} == dict(HEADERS), path
        assert answer.status_code == 303 or answer.headers["cache-control"] == "no-store", path


@pytest.mark.parametrize(
    "path",
    ["/datasets/..%2F..%2Fsite.toml", "/datasets/%2e%2e", "/budgets/..%2Faudit", "/requests/..%2F..", "/reports/..%2F..%2Fkey.pem/file",
     "/reports/%2e%2e/log", "/models/..%2F..", "/static/..%2F..%2Fapp.py", "/static/%2e%2e%2fconsole.py"],
)  # fmt: skip
def test_no_address_leads_out_of_the_folders(path: str, officer: TestClient) -> None:
    answer = officer.get(path)
    assert answer.status_code == 404 and "PRIVATE KEY" not in answer.text


def test_text_of_a_study_is_text_and_nothing_else(console: Console, officer: TestClient, folder: SiteFolder, tmp_path: Path) -> None:
    fields = dict.fromkeys(("question", "purpose", "ethics", "principal_investigator"), EVIL)
    terms = {"secure_aggregation": False, "why_not_secure": EVIL}
    offer(folder, tmp_path / "b", **fields, privacy=terms)
    digest = offer(folder, tmp_path / "c", code=f"# </pre>{EVIL}\n", **fields, privacy=terms)
    send(officer, f"/requests/{digest}/refuse", reason=EVIL)
    for path in ("/", f"/requests/{digest}", "/audit", "/policy", f"/audit?actor={EVIL}&study={EVIL}&day={EVIL}"):
        text = officer.get(path).text
        assert "<script>alert" not in text and "<img src=x" not in text, path
    assert "&lt;script&gt;alert(1)" in officer.get(f"/requests/{digest}").text


def test_values_of_patients_and_names_of_people_are_text_and_nothing_else(
    console: Console, officer: TestClient, entered: Callable[[str], TestClient], folder: SiteFolder, tmp_path: Path
) -> None:
    """A ward's export may hold anything in a cell or a heading."""
    with open(tmp_path / "ward.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", EVIL], *([f"P{n}", EVIL if n % 2 else "other"] for n in range(80))])
    datasets = Datasets(folder, console.decisions.audit, console.clock, Retention(), EVIL)
    kind = f'source = {json.dumps(EVIL)}\nkind = "category"\ncategories = {json.dumps([EVIL, "other"])}\n'
    settings = DatasetSettings(name="ward", kind="csv", source={"path": str(tmp_path / "ward.csv")})
    datasets.add(settings, f'patient = "id"\n[columns.told]\n{kind}')
    datasets.refresh("ward")
    datasets.publish("ward", datasets.describe_for_others("ward").digest)
    console.accounts.add("evil", EVIL[:100], ["auditor"], by=EVIL)
    for client, path in ((officer, "/datasets/ward"), (officer, "/datasets"), (officer, "/audit"), (entered("roth"), "/people"),
                         (entered("roth"), "/datasets/ward/mapping")):  # fmt: skip
        text = client.get(path).text
        assert "<script>alert" not in text and "<img src=x" not in text, path
    assert officer.get("/datasets/ward").text.count("&lt;script&gt;alert(1)") >= 4
    assert "&lt;script&gt;alert(1)" in entered("roth").get("/people").text


def test_a_form_has_a_limit_and_a_kind(officer: TestClient) -> None:
    csrf = token(officer)
    big = officer.post("/keys/verify", data={"csrf": csrf, "site": "x", "statement": "a" * 70_000}, headers=OURS)
    assert big.status_code == 413
    odd = officer.post("/keys/verify", json={"csrf": csrf}, headers=OURS)
    assert odd.status_code == 400


def test_a_link_to_choose_a_password_is_shown_once_and_works_once(console: Console, entered: Callable[[str], TestClient]) -> None:
    admin = entered("roth")
    made = send(admin, "/people/add", page="/people", login="lang", name="Dr Otto Lang", **{"data-protection-officer": "yes"})
    link = made.text.partition(f"{BASE}/welcome/")[2].partition("<")[0]
    assert link and link not in admin.get("/people").text
    client = browser(console)
    both = {"password": PASSWORD, "again": PASSWORD}
    assert client.post(f"/welcome/{link}", data=both | {"again": "another"}, headers=OURS).status_code == 400
    assert client.post(f"/welcome/{link}", data=both, headers=OURS).status_code == 303
    assert client.post(f"/welcome/{link}", data=both, headers=OURS).status_code == 404
    assert client.get(f"/welcome/{link}").status_code == 404
    assert log_in(console, "lang").get("/").status_code == 200
    assert send(admin, "/people/remove", page="/people", login="roth").status_code == 400, "nobody locks themselves out"


def test_what_nobody_foresaw_is_a_page_and_a_line_that_quotes_nothing(
    officer: TestClient, folder: SiteFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """The file of what is published was spoilt by hand: what reads it raises an error whose text quotes it."""
    folder.published("registry").write_text('{"site": "north", "by": "P-4711"}')
    answer = officer.get("/datasets/registry")
    assert answer.status_code == 500 and "Something went wrong" in answer.text and "P-4711" not in answer.text
    (line,) = [record.getMessage() for record in caplog.records if record.name == "aimer2.site.console"]
    assert line.startswith("GET /datasets/{name}: ValidationError at ") and "P-4711" not in caplog.text


def test_nobody_gets_in_by_accounts_that_were_put_back_while_the_console_runs(
    console: Console, officer: TestClient, folder: SiteFolder, clock: Any, tmp_path: Path
) -> None:
    """An exchanged password would work again, and choosing another by it would hide that it did."""
    digest, csrf = offer(folder, tmp_path / "b"), token(officer)
    accounts, client = console.accounts, browser(console)
    accounts.accept(accounts.add("jan", "Dr Jan Roth", ["administrator"], by="Jan Roth"), PASSWORD)
    link, kept = accounts.link("jan", by="Jan Roth"), folder.console.read_bytes()
    accounts.accept(link, "staple of another kind")
    assert officer.get("/").status_code == 200
    folder.console.write_bytes(kept)
    entry = {"login": "jan", "password": PASSWORD, "back": "/"}
    for answer in (
        client.post("/log-in", data=entry, headers=OURS),
        client.get(f"/welcome/{link}"),
        client.post(f"/welcome/{link}", data={"password": PASSWORD, "again": PASSWORD}, headers=OURS),
        officer.get("/"),
        officer.post(f"/requests/{digest}/approve", data={"csrf": csrf, "dataset": "registry"}, headers=OURS),
        officer.post("/people/link", data={"csrf": csrf, "login": "jan"}, headers=OURS),
    ):
        assert answer.status_code == 409 and "aimer2 site recover" in answer.text and "Account jan of the console" in answer.text
    assert console.decisions.store.decisions(digest) == []
    with pytest.raises(Conflict, match="Account jan of the console"):
        Console(folder, clock)
    assert [one.what for one in recover(console.decisions, by="Bea Roth")] == ["password"]
    assert client.post("/log-in", data=entry, headers=OURS).status_code == 401
    assert officer.get("/").status_code == 200


def test_no_decision_is_taken_on_a_state_that_was_put_back_while_the_console_runs(
    console: Console, officer: TestClient, folder: SiteFolder, tmp_path: Path
) -> None:
    digest, copy = offer(folder, tmp_path / "b"), tmp_path / "state.sqlite"
    console.decisions.approve(digest, by="Dr Ines Vogt")
    with closing(sqlite3.connect(folder.state)) as now, closing(sqlite3.connect(copy)) as then:
        now.backup(then)
    console.decisions.withdraw(digest, by="Dr Ines Vogt")
    assert officer.get("/").status_code == 200
    for suffix in ("-wal", "-shm"):
        Path(f"{folder.state}{suffix}").unlink(missing_ok=True)
    copy.replace(folder.state)
    answer = officer.get("/")
    assert answer.status_code == 409 and f"{digest[:12]}: withdrawn from" in answer.text
    recover(console.decisions, by="Bea Roth")
    assert officer.get("/").status_code == 200
    assert console.decisions.store.decisions(digest)[-1].by == "Bea Roth"
