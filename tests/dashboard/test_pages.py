"""The pages over real HTTP, without a script: who sees what, what a form needs, and what no text of a study can do."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from reading import Person, Reader
from serving import Client, Hospital, Server, SiteClient, answer_of, eventually, submit

from aimer2.client.browser import HandedOn
from aimer2.core.said import say
from aimer2.core.task import Failure
from aimer2.dashboard.studies import differences

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
PAGES = ("/", "/studies", "/sites", "/models", "/privacy", "/audit")
OF_A_STUDY = ("", "/live", "/rounds", "/leaves", "/code", "/compare", "/stop", "/live/stream", "/results", "/result.json", "/record.html")


@pytest.fixture(scope="session")
def evil(anna: Person, three: list[SiteClient]) -> str:
    """A study whose every text is an attack, refused with one more."""
    texts = dict.fromkeys(("question", "purpose", "ethics", "principal_investigator"), EVIL)
    digest = submit(anna.api, three, **texts, privacy={"secure_aggregation": False, "why_not_secure": EVIL})
    assert three[0].decide(digest, "refuse", by=EVIL, reason=EVIL).status == 204
    three[0].post("/v1/exchange", {"wait_seconds": 0, "status": {"version": EVIL, "capabilities": {EVIL: EVIL}}})
    return digest


@pytest.fixture(scope="session")
def finished(anna: Person, three: list[SiteClient]) -> str:
    digest = submit(anna.api, three, method={"name": "fedavg", "rounds": 3})
    working = [Hospital(site) for site in three]
    for hospital in working:
        assert hospital.site.decide(digest).status == 204
        hospital.start()
    eventually(lambda: anna.api.get(f"/v1/studies/{digest}")["state"] == "finished", 30)
    for hospital in working:
        hospital.ended.set()
    return digest


@pytest.mark.parametrize("path", [*PAGES, *(f"/studies/{'0' * 64}{end}" for end in OF_A_STUDY), "/sites/berlin", f"/models/{'0' * 64}"])
def test_whoever_has_not_logged_in_is_led_to_the_log_in_and_learns_nothing(server: Server, path: str) -> None:
    response = Reader(server).call("GET", path)
    assert response.status == 303
    assert response.headers["location"].startswith("/login")
    assert not response.data


def test_after_the_log_in_one_is_where_one_wanted_to_be(server: Server, anna: Person) -> None:
    led = Reader(server).call("GET", "/studies?state=running").headers["location"]
    page = Reader(server).text(led)
    assert 'value="/studies?state=running"' in page
    assert Reader(server).log_in("anna", back="/studies?state=running").headers["location"] == "/studies?state=running"
    assert Reader(server).log_in("anna", back="//elsewhere.example").headers["location"] == "/"


def test_a_browser_hands_its_log_in_on_to_the_command_line_that_asked(server: Server, people: Callable[[str, str], Person]) -> None:
    person, ours, stranger = people("carla", "researcher"), HandedOn(server.url), HandedOn(server.url)
    page = ours.address(4567).removeprefix(server.url)
    assert Reader(server).call("GET", page).headers["location"].startswith("/login?back=%2Fcommand-line%3Fchallenge%3D")
    shown = person.reader.text(page)
    assert ours.mark in shown and "carla" in shown and "127.0.0.1" not in shown

    def code(handed_on: HandedOn, **port: str) -> str:
        challenge = parse_qs(urlsplit(handed_on.address()).query)["challenge"][0]
        answer = person.reader.send("/command-line", challenge=challenge, **port)
        refresh = answer.headers.get("Refresh")
        assert (refresh is not None) is bool(port)
        text = answer.data.decode()
        found = re.findall(r"127.0.0.1:4567/\?code=([\w-]+)" if port else r'<output class="mark">([\w-]+)<', text)[0]
        assert refresh is None or refresh == f"0; url=http://127.0.0.1:4567/?code={found}"
        return str(found)

    def log_in(code: str, verifier: str) -> urllib3.BaseHTTPResponse:
        return Client(server).call("POST", "/v1/sessions/code", {"code": code, "verifier": verifier})

    got = log_in(code(ours, port="4567"), ours.verifier)
    token = got.json()["access_token"]
    assert Client(server, token).get("/v1/session")["user"] == "carla"
    pasted = code(ours)
    assert log_in(pasted, stranger.verifier).status == 401, "who has seen the code alone"
    assert log_in(pasted, ours.verifier).status == 401, "it was used up by that"
    once = code(ours)
    assert [log_in(once, ours.verifier).status for _ in range(2)] == [200, 401]
    left = code(ours)
    assert not [entry for entry in person.api.get("/v1/sessions") if entry["kind"] == "code"]
    refused = person.api.call("POST", "/v1/session/code", {"challenge": "A" * 43})
    assert refused.status == 400, "the token of a command line makes no other one"
    for wrong in ("", "?challenge=short", page.split("?")[0] + "?challenge=" + "A" * 43 + "&port=80", page.replace("4567", "70000")):
        assert person.reader.call("GET", f"/command-line{wrong}" if wrong[:1] in ("", "?") else wrong).status == 400
    person.reader.send("/logout")
    assert log_in(left, ours.verifier).status == 401, "the browser that made it has logged out"


def test_a_session_is_new_at_each_log_in_and_ends_with_the_log_out(server: Server, anna: Person) -> None:
    reader = Reader(server, {"__Host-aimer2": "chosen by somebody else"})
    first = reader.log_in("anna")
    assert all(part in first.headers["set-cookie"].lower() for part in ("secure", "httponly", "path=/", "samesite"))
    secret = reader.cookies["__Host-aimer2"]
    assert secret != "chosen by somebody else"
    assert reader.send("/logout").status == 303
    assert Reader(server, {"__Host-aimer2": secret}).call("GET", "/").status == 303


def test_a_session_of_ones_own_that_was_planted_ends_with_the_log_in(server: Server, people: Callable[[str, str], Person]) -> None:
    """Fixation: who has put it into the browser would be logged in as whoever logs in there."""
    planted = people("mallory", "researcher").reader.cookies["__Host-aimer2"]
    people("victim", "researcher")
    victim = Reader(server, {"__Host-aimer2": planted})
    assert victim.log_in("victim").status == 303 and victim.cookies["__Host-aimer2"] != planted
    assert Reader(server, {"__Host-aimer2": planted}).call("GET", "/").status == 303


@pytest.mark.parametrize("headers", [{"Origin": "https://elsewhere.example"}, {"Sec_Fetch_Site": "cross-site"}])
def test_nobody_is_logged_in_from_a_page_elsewhere(server: Server, anna: Person, headers: dict[str, str]) -> None:
    reader = Reader(server)
    assert reader.call("POST", "/login", {"user": "anna", "password": "wrong"}, **headers).status == 403
    assert "__Host-aimer2" not in reader.cookies


def test_a_wrong_password_is_said_and_nothing_is_opened(server: Server, anna: Person) -> None:
    reader = Reader(server)
    answer = reader.log_in("anna", "wrong")
    assert answer.status == 401
    assert b'role="alert"' in answer.data
    assert "__Host-aimer2" not in reader.cookies


def test_no_text_of_a_study_or_site_is_markup_on_any_page(anna: Person, evil: str) -> None:
    paths = [
        *PAGES[:5],
        *(f"/studies/{evil}{end}" for end in ("", "/live", "/rounds", "/leaves", "/code", "/stop", f"/compare?with={evil}")),
        "/sites/berlin",
    ]
    shown = 0
    for path in paths:
        page = anna.reader.text(path)
        assert "<script>alert" not in page and "<img src=x" not in page, path
        shown += page.count("&lt;script&gt;alert(1)&lt;/script&gt;")
    assert shown >= 8
    for path in (f"/studies?words={EVIL}&state={EVIL}", f"/login?back={EVIL}", f"/studies/{evil}/compare?with={EVIL}", f"/{EVIL}"):
        assert (
            b"<script>alert" not in anna.reader.call("GET", path.replace('"', "%22").replace(" ", "%20").replace("<", "%3C").replace(">", "%3E")).data
        )


def test_no_name_of_a_person_or_site_is_markup(people: Callable[[str, str], Person], evil: str, server: Server) -> None:
    name = "<img src=x onerror=alert(1)>"
    page = people(name, "auditor").reader.text(f"/studies/{evil}")
    assert "&lt;img src=x onerror=alert(1)&gt;" in page and "<img src=x" not in page
    body = {"code": "x", "site": name, "key": "x", "version": "1"}
    Client(server).post("/v1/enrolments", body, 400)


def test_guessing_at_the_log_in_page_is_slowed_down(server: Server, people: Callable[[str, str], Person]) -> None:
    """As at the API itself: the page does not hide who asks from it."""
    people("guessed", "auditor")
    answers = [Reader(server).log_in("guessed", f"wrong {number}").status for number in range(12)]
    assert answers[0] == 401 and answers[-1] == 429 and sorted(answers) == answers
    assert Reader(server).log_in("guessed").status == 429, "the right password does not help for a while"


def test_every_page_forbids_foreign_scripts_and_frames(anna: Person, evil: str) -> None:
    for path in (*PAGES, f"/studies/{evil}", f"/studies/{evil}/live", "/login", "/nowhere"):
        headers = anna.reader.call("GET", path).headers
        assert "script-src 'self'" in headers["content-security-policy"] and "unsafe" not in headers["content-security-policy"], path
        assert "frame-ancestors 'none'" in headers["content-security-policy"] and headers["x-frame-options"] == "DENY", path
        assert headers["cache-control"] == "no-store", path


def test_another_s_study_is_as_if_it_did_not_exist(people: Callable[[str, str], Person], evil: str, finished: str) -> None:
    bert = people("bert", "researcher").reader
    for digest in (evil, finished, "0" * 64):
        answers = {end: bert.call("GET", f"/studies/{digest}{end}") for end in OF_A_STUDY if not end.startswith("/compare?")}
        assert {end: answer.status for end, answer in answers.items()} == dict.fromkeys(answers, 404)
        assert bert.send(f"/studies/{digest}/stop", reason="mine now").status == 404
    assert bert.call("GET", f"/models/{finished}").status == 404
    assert evil[:12] not in bert.text("/studies") and finished[:12] not in bert.text("/privacy")


@pytest.mark.parametrize("headers", [{"Origin": "https://elsewhere.example"}, {"Sec_Fetch_Site": "cross-site"}])
def test_a_form_of_another_page_changes_nothing(anna: Person, evil: str, headers: dict[str, str]) -> None:
    form = {"csrf": anna.reader.token(), "reason": "forged"}
    assert anna.reader.call("POST", f"/studies/{evil}/stop", form, **headers).status == 403
    assert anna.api.get(f"/v1/studies/{evil}")["state"] == "offered"


def test_a_form_without_the_session_s_own_token_changes_nothing(anna: Person, people: Callable[[str, str], Person], evil: str) -> None:
    theirs = people("bert", "researcher").reader.token()
    for token in ("", "0" * 64, theirs):
        assert anna.reader.call("POST", f"/studies/{evil}/stop", {"csrf": token, "reason": "forged"}).status == 403
    assert anna.api.get(f"/v1/studies/{evil}")["state"] == "offered"


def test_forms_and_paths_out_of_bounds_are_refused(server: Server, anna: Person) -> None:
    assert anna.reader.call("POST", "/login", {"user": "x" * 100_000, "password": ""}).status == 413
    for path in (
        "/static/../app.py",
        "/static/..%2f..%2fapp.py",
        "/studies/..%2f..%2fv1%2fsites",
        "/sites/..%2fsession",
        "/models/%2e%2e%2fcoordinator",
    ):
        assert anna.reader.call("GET", path).status == 404, path


def test_a_study_is_paused_resumed_and_stopped_from_its_page(anna: Person, three: list[SiteClient]) -> None:
    digest = submit(anna.api, three, method={"name": "fedavg", "rounds": 1000})
    for site in three:
        assert site.decide(digest).status == 204
    eventually(lambda: "waits to fetch its task" in anna.reader.text(f"/studies/{digest}/live"))
    assert anna.reader.send(f"/studies/{digest}/pause").status == 303
    assert "Paused by anna." in anna.reader.text(f"/studies/{digest}/live")
    assert anna.reader.send(f"/studies/{digest}/resume").status == 303
    assert anna.reader.send(f"/studies/{digest}/pause").status == 303
    assert anna.reader.send(f"/studies/{digest}/stop", reason="It was a test.").status == 303
    assert "It was a test." in anna.reader.text(f"/studies/{digest}")
    assert anna.reader.send(f"/studies/{digest}/resume").status == 409


def test_the_overview_counts_studies_and_says_who_is_waited_for(anna: Person, evil: str, finished: str) -> None:
    page = anna.reader.text("/")
    for state in ("offered", "finished"):
        counted = sum(study["state"] == state for study in anna.api.get("/v1/studies"))
        assert re.search(rf'state={state}"><span class="figure">{counted}<', page)
    row = page[page.index(f"/studies/{evil}") :].partition("</tr>")[0]
    assert "bonn, bremen" in row and "berlin" not in row


def test_an_archived_study_is_out_of_the_list_and_still_has_its_pages(anna: Person, three: list[SiteClient]) -> None:
    digest = submit(anna.api, three, seed=77)
    assert anna.reader.send(f"/studies/{digest}/stop", reason="It is archived.").status == 303
    anna.api.post(f"/v1/studies/{digest}/archive", {"archived": True}, 204)
    assert digest not in anna.reader.text("/studies") and digest in anna.reader.text("/studies?state=archived")
    assert "It is archived." in anna.reader.text(f"/studies/{digest}")


def test_what_leaves_a_site_is_what_the_hospital_reads(anna: Person, finished: str) -> None:
    page = anna.reader.text(f"/studies/{finished}/leaves")
    assert "data set &#39;d&#39;, at least" in page and "each round: weight = n" in page
    chinese = Reader(anna.reader.server, {**anna.reader.cookies, "__Host-language": "zh-Hans"}).text(f"/studies/{finished}/leaves")
    assert "数据集“d”" in chinese and "each round" not in chinese


def test_a_finished_study_is_downloaded_as_a_record_and_its_rounds_are_a_table(anna: Person, finished: str) -> None:
    record = anna.reader.call("GET", f"/studies/{finished}/record.html")
    assert record.headers["content-disposition"] == f'attachment; filename="record-{finished[:16]}.html"'
    assert finished.encode() in record.data
    assert json.loads(anna.reader.text(f"/studies/{finished}/result.json"))["study"] == finished
    assert anna.reader.text(f"/studies/{finished}/rounds").count("<td>train</td>") == 3
    assert "Who took part" in anna.reader.text(f"/studies/{finished}/results")
    assert "event: end" in anna.reader.text(f"/studies/{finished}/live/stream")


def test_why_a_site_was_absent_is_told_in_the_reader_s_language(anna: Person, three: list[SiteClient]) -> None:
    digest = submit(anna.api, three, name="absent", method={"name": "fedavg", "rounds": 1})
    working = [Hospital(site) for site in three[:2]]
    for site in three:
        assert site.decide(digest).status == 204
    for hospital in working:
        hospital.start()
    reason = say("about {count} patients", count=5)
    for _ in range(60):
        if anna.api.get(f"/v1/studies/{digest}")["state"] == "finished":
            break
        for task in three[2].tasks_of(three[2].exchange(wait=1)):
            if task.stage == "train":
                failure = Failure(task=task.id, attempt=task.attempt, site=three[2].name, code="internal", reason=reason)
                three[2].exchange(failure.model_dump(mode="json"), wait=0)
            else:
                answer, blobs = answer_of(three[2], task)
                three[2].exchange(answer, blobs=blobs, wait=0)
    for hospital in working:
        hospital.ended.set()
    chinese = Reader(anna.reader.server, {**anna.reader.cookies, "__Host-language": "zh-Hans"}).text(f"/studies/{digest}/results")
    assert "约 5 名患者" in chinese and str(reason) not in chinese


def test_a_model_goes_through_its_stages_and_says_who_moved_it(anna: Person, finished: str) -> None:
    assert anna.reader.send(f"/models/{finished}/stage", stage="validated", reason=EVIL).status == 303
    page = anna.reader.text(f"/models/{finished}")
    assert "<script>alert" not in page and "&lt;script&gt;" in page and "version 1" in page
    assert anna.reader.send(f"/models/{finished}/stage", stage="validated", reason="again").status == 409
    assert b"# mortality" in anna.reader.call("GET", f"/models/{finished}/card.md").data
    assert b"<h1>mortality" in anna.reader.call("GET", f"/models/{finished}/card.html").data


def test_an_auditor_reads_and_verifies_the_log_and_a_researcher_does_not(anna: Person, people: Callable[[str, str], Person], evil: str) -> None:
    auditor = people("otto", "auditor").reader
    page = auditor.text(f"/audit?study={evil[:16]}")
    assert "The log holds" in page and "study-submitted" in page and "<script>alert" not in page
    assert '<time datetime="' not in auditor.text("/audit?words=nobody+has+done+this").partition("<tbody>")[2]
    log = auditor.call("GET", "/audit/log.jsonl").data
    assert json.loads(log.splitlines()[0])["sequence"] == 1
    assert anna.reader.call("GET", "/audit").status == 403
    assert '"/audit"' not in anna.reader.text("/")


def test_an_operator_stops_everything_and_lets_it_go_on(people: Callable[[str, str], Person], anna: Person) -> None:
    operator = people("olga", "operator").reader
    assert operator.send("/freeze", reason="A drill.").status == 303
    assert "Everything is stopped" in anna.reader.text("/")
    assert anna.reader.send("/thaw", reason="mine").status == 403
    assert operator.send("/thaw", reason="It was a drill.").status == 303
    assert "Everything is stopped" not in anna.reader.text("/")


def test_pages_are_in_chinese_for_whom_wants_them(anna: Person, finished: str) -> None:
    for path in (*PAGES[:5], f"/studies/{finished}/results", f"/models/{finished}"):
        page = anna.reader.call("GET", path, Accept_Language="zh-CN,zh;q=0.9").data.decode()
        assert 'lang="zh-Hans"' in page and ">概览</a>" in page, path


def test_an_event_is_at_the_viewer_a_moment_later(server: Server, anna: Person, three: list[SiteClient]) -> None:
    digest = submit(anna.api, three, method={"name": "fedavg", "rounds": 5})
    cookie = "; ".join(f"{name}={value}" for name, value in anna.reader.cookies.items())
    stream = Client(server).pool.urlopen("GET", f"/studies/{digest}/live/stream", headers={"Cookie": cookie}, preload_content=False)
    pieces = stream.stream(1 << 16)
    text = next(pieces).decode()
    assert {"live-state", "live-curves", "live-sites", "live-recent"} == set(re.findall(r"^event: (.*)$", text, re.M))
    assert three[0].decide(digest).status == three[1].decide(digest).status == 204
    began = time.monotonic()
    assert three[2].decide(digest).status == 204
    while "data: reload" not in text:
        text += next(pieces).decode()
    assert "Started" in text
    assert time.monotonic() - began < 2, "0.2 s on a quiet machine: benchmarks/pages.py measures it"
    stream = Client(server).pool.urlopen("GET", f"/studies/{digest}/live/stream", headers={"Cookie": cookie}, preload_content=False)
    assert anna.reader.send(f"/studies/{digest}/pause").status == 303
    assert stream.data.decode().endswith("event: end\ndata: reload\n\n")


def test_differences_name_each_place_once() -> None:
    one = {"a": {"b": 1, "c": [1, 2]}, "same": "x"}
    other = {"a": {"b": 2, "c": [1, 3]}, "same": "x", "new": None}
    assert list(differences(one, other)) == [("a.b", "1", "2"), ("a.c[2]", "2", "3")]
