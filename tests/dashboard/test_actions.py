"""What people do on the pages beside looking: drafts, accounts, tokens, the consortium; each by a plain form, behind the API's own gate."""

from __future__ import annotations

import hashlib
import html
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from reading import Person, Reader
from serving import PASSWORD, Client, Server, SiteClient, enrolled, package_of, submit, tensor

from aimer2.coordinator.permissions import PARTS, ROLES
from aimer2.core.errors import BadStudy
from aimer2.core.study import Study, read_study, study_text
from aimer2.dashboard import accounts, studies

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("study.toml"))
COUNTING = """
name = "{name}"
question = "How old are the patients of these hospitals?"
purpose = "a test"
ethics = "none needed"
principal_investigator = "Test Person"
expires = 2100-01-01
[cohort]
dataset = "registry"
features = [{{ name = "age" }}]
[[analyses]]
name = "ages"
method = "describe"
formula = "~ age"
[sites]
names = {sites}
minimum = 1
[privacy]
secure_aggregation = false
why_not_secure = "a test"
"""
TRAINING = """
name = "vast"
question = "Which of these classes is it?"
purpose = "a test"
ethics = "none needed"
principal_investigator = "Test Person"
expires = 2100-01-01
[cohort]
dataset = "registry"
features = [{{ name = "level", kind = "category", categories = {classes} }}]
target = {{ name = "class", kind = "multiclass", categories = {classes} }}
[model]
framework = "numpy"
name = "multinomial"
"""


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def typed_in(page: str, name: str) -> str:
    """What a text area of a page holds, as a browser reads it."""
    found = re.search(rf'<textarea[^>]*name="{name}"[^>]*>\n?(.*?)</textarea>', page, re.DOTALL)
    assert found is not None, page
    return html.unescape(found[1])


def begun(reader: Reader, name: str) -> str:
    answer = reader.send("/drafts", name=name)
    assert answer.status == 303, answer.data
    return answer.headers["location"]


def saved(reader: Reader, path: str, **fields: str) -> int:
    revision = re.findall(r'name="revision" value="(\d+)"', reader.text(path))[0]
    return reader.send(path, **({"revision": revision, "name": "a draft"} | fields)).status


def test_the_pages_know_every_role_and_part() -> None:
    assert accounts.ROLES == ROLES and studies.PARTS_IN_A_STUDY == PARTS


def test_a_draft_begins_whole_is_changed_with_all_its_faults_shown_and_discarded(anna: Person) -> None:
    path = begun(anna.reader, "readmissions")
    first = typed_in(anna.reader.text(path), "text")
    assert Study(**tomllib.loads(first)).name == "readmissions"
    wrong = first.replace('metrics = ["auc"', 'metrics = ["luck"').replace("minimum = 3 ", 'names = ["nowhere"]\nminimum = 3 ')
    assert saved(anna.reader, path, text=wrong.replace("\n", "\r\n")) == 303
    page = anna.reader.text(path)
    assert typed_in(page, "text") == wrong, "as it was typed, with the lines' ends of files"
    assert "luck" in text_of(page) and "not enrolled: nowhere" in text_of(page), "every fault at once"
    assert re.search(r"<button disabled>", page), "nothing with faults is submitted"
    assert saved(anna.reader, path, text="question = ") == 303
    assert "not TOML" in anna.reader.text(path)
    assert anna.reader.send(f"{path}/discard", revision="2").status == 409, "what was saved after one looked is not thrown away"
    assert "not TOML" in anna.reader.text(path)
    assert anna.reader.send(f"{path}/discard", revision="3").headers["location"] == "/drafts"
    assert anna.reader.call("GET", path).status == 404


def test_what_was_typed_is_not_lost_where_it_cannot_be_saved(anna: Person) -> None:
    path = begun(anna.reader, "typed")
    assert saved(anna.reader, path, text="mine = 1") == 303
    answer = anna.reader.send(path, revision="1", name="typed", text="late = 2")
    assert answer.status == 409
    assert typed_in(answer.data.decode(), "text") == "late = 2" and 'role="alert"' in answer.data.decode()
    assert typed_in(anna.reader.text(path), "text") == "mine = 1"
    named = {"file-0": "model.py", "code-0": "first = 1", "file-1": "model.py", "code-1": "second = 2"}
    nameless = {"file-0": "", "code-0": "third = 3"}
    for code, words in ((named, "the same name: model.py"), (nameless, "no name")):
        refused = anna.reader.send(path, revision="2", name="typed", text="mine = 2", **code)
        page = refused.data.decode()
        assert refused.status == 400 and words in text_of(page)
        assert [typed_in(page, name) for name in code if name.startswith("code")] == [code[name] for name in code if name.startswith("code")]
    long = "# " + "\N{LATIN SMALL LETTER E WITH ACUTE}" * (1 << 19)
    refused = anna.reader.send(path, revision="2", name="typed", text=long)
    assert refused.status == 413 and typed_in(refused.data.decode(), "text") == long
    assert typed_in(anna.reader.text(path), "text") == "mine = 1"


@pytest.mark.parametrize("line", ["# \N{LATIN SMALL LETTER E WITH ACUTE}", "\r\n"], ids=["no-ascii", "ends-of-lines"])
def test_a_draft_as_large_as_the_api_takes_is_saved_from_its_page(anna: Person, line: str) -> None:
    path = begun(anna.reader, "large")
    most = (1 << 20) // len(line.replace("\r\n", "\n").encode())
    code = {"file-0": "model.py", "code-0": line * (most - 10)}
    assert saved(anna.reader, path, text=line * most, **code) == 303
    assert anna.api.get(f"/v1{path}")["text"] == line.replace("\r\n", "\n") * most


def test_a_fault_that_only_submitting_finds_is_shown_on_the_draft_s_page(anna: Person, three: list[SiteClient]) -> None:
    path = begun(anna.reader, "elsewhere")
    assert saved(anna.reader, path, text=COUNTING.format(name="elsewhere", sites=["no-such-site"])) == 303
    refused = anna.reader.send(f"{path}/submit", revision="2")
    assert refused.status < 500
    assert "no-such-site" in text_of(refused.data.decode())


def test_a_draft_of_somebody_else_is_not_there(anna: Person, people: Callable[[str, str], Person]) -> None:
    path, bert = begun(anna.reader, "secret-plan"), people("bert", "researcher").reader
    assert "secret-plan" not in bert.text("/drafts")
    assert {bert.call("GET", path).status, bert.send(f"{path}/submit", revision="1").status, bert.send(f"{path}/discard").status} == {404}
    assert anna.reader.call("GET", path).status == 200


def test_a_study_of_questions_is_submitted_from_its_draft_and_its_next_version_begins_as_it_is(anna: Person, three: list[SiteClient]) -> None:
    path = begun(anna.reader, "ages")
    text = COUNTING.format(name="ages", sites=[site.name for site in three])
    assert saved(anna.reader, path, text=text) == 303
    assert anna.reader.send(f"{path}/submit", revision="1").status == 409, "another text than the one that was looked at"
    done = anna.reader.send(f"{path}/submit", revision="2")
    assert done.status == 303, text_of(done.data.decode())
    digest = done.headers["location"].rpartition("/")[2]
    assert anna.api.get(f"/v1/studies/{digest}")["state"] == "offered"
    assert anna.reader.call("GET", path).status == 404, "the draft has become the study"
    after = anna.reader.send(f"/studies/{digest}/new-version").headers["location"]
    written = typed_in(anna.reader.text(after), "text")
    assert Study(**tomllib.loads(written)) == Study(**tomllib.loads(text))
    assert saved(anna.reader, after, text=written.replace("How old", "How old, exactly,")) == 303
    newer = anna.reader.send(f"{after}/submit", revision="2").headers["location"].rpartition("/")[2]
    assert anna.api.get(f"/v1/studies/{newer}")["supersedes"] == digest
    assert "There is a newer version" in anna.reader.text(f"/studies/{digest}")


def test_a_study_whose_model_takes_a_framework_or_code_is_left_to_the_researcher_s_machine(anna: Person) -> None:
    path = begun(anna.reader, "deep")
    text = typed_in(anna.reader.text(path), "text").replace('framework = "numpy"', 'framework = "torch"').replace("minimum = 3 ", "minimum = 1 ")
    text = text.replace('name = "logistic"', 'code = "model.py"').replace(
        "secure_aggregation = true", 'secure_aggregation = false\nwhy_not_secure = "a test"'
    )
    assert saved(anna.reader, path, text=text, **{"file-0": "model.py", "code-0": "raise SystemExit\r\n"}) == 303
    page = anna.reader.text(path)
    assert typed_in(page, "code-0") == "raise SystemExit\n"
    assert f"aimer2 study draft submit {path.rpartition('/')[2]}" in page
    assert anna.reader.send(f"{path}/submit", revision="2").status == 400


def test_a_model_of_very_many_parameters_is_not_built_at_the_coordinator(anna: Person) -> None:
    path = begun(anna.reader, "vast")
    classes = [f"c{number}" for number in range(1025)]
    text = TRAINING.format(classes=classes)
    assert saved(anna.reader, path, text=text) == 303
    page = anna.reader.text(path)
    assert "no faults" in page and f"aimer2 study draft submit {path.rpartition('/')[2]}" in page and "too large" in page
    refused = anna.reader.send(f"{path}/submit", revision="2")
    assert refused.status == 400 and "is large" in text_of(refused.data.decode())
    assert saved(anna.reader, path, text=TRAINING.format(classes=classes[:1023])) == 303
    assert "too large" not in anna.reader.text(path)


def test_code_that_is_no_text_is_not_garbled_into_a_draft(anna: Person, three: list[SiteClient]) -> None:
    initial = anna.api.upload(tensor(w=np.zeros(3, np.float32)))
    package, _ = package_of(three, initial, name="latin", model={"framework": "numpy", "code": "model.py"})
    package = package.model_copy(update={"files": {"model.py": anna.api.upload(b"# caf\xe9\n")}})
    digest = anna.api.post("/v1/studies", package.model_dump(mode="json"), 201)["digest"]
    answer = anna.reader.send(f"/studies/{digest}/new-version")
    assert answer.status == 400 and "model.py is not text in UTF-8" in text_of(answer.data.decode())


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_a_study_written_as_text_is_the_same_study(file: Path) -> None:
    study = read_study(file)
    assert Study(**tomllib.loads(study_text(study))) == study


def test_any_words_survive_being_written() -> None:
    words = 'a "quoted" \\ line\nwith \x7f, \x00 and 患者 in [brackets] = {braces} # no comment'
    given = tomllib.loads(COUNTING.format(name="words", sites=["north"]))
    study = Study(**(given | {"purpose": words, "requires": {"a.b c": words}}))
    assert Study(**tomllib.loads(study_text(study))) == study
    with pytest.raises(BadStudy):
        Study(**(given | {"purpose": ""}))


def test_a_token_is_shown_once_works_and_is_revoked(server: Server, anna: Person) -> None:
    page = anna.reader.send("/account/tokens", name="nightly", role="", days="3").data.decode()
    secret = re.findall(r"<p><code>([^<]+)</code></p>", page)[0]
    script = Client(server, secret)
    assert script.get("/v1/session")["user"] == "anna"
    shown = anna.reader.text("/account")
    assert "nightly" in shown and secret not in shown
    identifier = re.findall(r'name="token" value="([^"]+)"', shown)[0]
    assert anna.reader.send("/account/tokens/revoke", token=identifier).status == 303
    assert script.call("GET", "/v1/session").status == 401
    assert anna.reader.send("/account/tokens", name="more", role="operator", days="3").status == 403


def test_one_s_own_password_is_changed_and_all_log_ins_are_ended(server: Server, people: Callable[[str, str], Person]) -> None:
    carl = people("carl", "researcher").reader
    other = Reader(server)
    assert other.log_in("carl").status == 303
    assert carl.send("/account/password", old=PASSWORD, new="a longer password", again="another password").status == 400
    assert carl.send("/account/password", old="wrong", new="a longer password", again="a longer password").status in (401, 303)
    assert carl.log_in("carl").status == 303, "a wrong old password changes nothing"
    assert carl.send("/account/password", old=PASSWORD, new="a longer password", again="a longer password").status == 303
    assert other.call("GET", "/").status == 303 and other.log_in("carl").status == 401
    assert carl.log_in("carl", "a longer password").status == 303
    assert carl.send("/account/log-out").headers["location"] == "/login"
    assert carl.call("GET", "/account").headers["location"].startswith("/login")


def test_an_operator_makes_changes_and_closes_accounts(server: Server, anna: Person, people: Callable[[str, str], Person]) -> None:
    olga, name = people("olga", "operator").reader, "dr ines/vogt"
    assert olga.send("/people/add", name="eve", role="data-protection-officer", site="").status == 400
    page = olga.send("/people/add", name="ines vogt", role="researcher", site="").data.decode()
    password = re.findall(r"<p><code>([^<]+)</code></p>", page)[0]
    ines = Reader(server)
    assert ines.log_in("ines vogt", password).status == 303
    assert olga.send("/people/change", name="ines vogt", role="auditor", site="").status == 303
    assert "/audit" in ines.text("/")
    assert olga.send("/people/log-out", name="ines vogt").status == 303
    assert ines.call("GET", "/").status == 303
    assert olga.send("/people/close", name="olga").status == 409, "nobody closes his own"
    assert olga.send("/people/close", name=name).status == 404
    assert olga.send("/people/close", name="ines vogt").status == 303
    assert ines.log_in("ines vogt", password).status == 401
    assert anna.reader.call("GET", "/people").status == 403
    assert anna.reader.send("/people/add", name="mallory", role="operator", site="").status == 403


def test_a_hospital_is_invited_agrees_and_is_off_boarded(server: Server, anna: Person, people: Callable[[str, str], Person]) -> None:
    olga = people("olga", "operator").reader
    page = olga.send("/consortium/invite", site="kiel").data.decode()
    assert "aimer2" in shown_text(page)
    assert "Take back" in olga.text("/consortium") and "Take back" not in anna.reader.text("/consortium")
    identifier = re.findall(r"/consortium/invitations/([0-9a-f]+)/take-back", olga.text("/consortium"))[0]
    assert anna.reader.send(f"/consortium/invitations/{identifier}/take-back").status == 403
    assert olga.send(f"/consortium/invitations/{identifier}/take-back").status == 303
    digest = hashlib.sha256(b"the agreement").hexdigest()
    assert olga.send("/consortium/agreements", title="Data use", dated="2026-11-01", digest=digest).status == 303
    site = enrolled(server, "husum")
    server.command("user", "add", "husum-dpo", "--role", "data-protection-officer", "--site", "husum", "--password-file", "-", input=PASSWORD)
    officer = Reader(server)
    assert officer.log_in("husum-dpo").status == 303
    assert olga.send(f"/consortium/agreements/{digest}/accept", by="Somebody Else").status == 403
    assert officer.send(f"/consortium/agreements/{digest}/accept", by="Dr Ines Vogt").status == 303
    assert "husum: Dr Ines Vogt" in text_of(olga.text("/consortium"))
    assert "Record the acceptance" not in officer.text("/consortium")
    assert anna.reader.send("/consortium/husum/off-board", reason="forged").status == 403
    assert olga.send("/consortium/husum/off-board", reason="The hospital has closed.").status == 303
    assert "The hospital has closed." in olga.text("/consortium")
    assert site.call("POST", "/v1/exchange", {}).status == 401


def shown_text(page: str) -> str:
    found = re.search(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert found is not None, page
    return html.unescape(found[1])


def test_a_part_is_given_and_taken_back_and_an_ended_study_archived(
    anna: Person, three: list[SiteClient], people: Callable[[str, str], Person]
) -> None:
    lead, helper = people("petra", "principal-investigator"), people("hugo", "researcher").reader
    digest = submit(lead.api, three, name="shared")
    page = f"/studies/{digest}/people"
    assert helper.call("GET", page).status == 404
    assert lead.reader.send(page, name="hugo", part="researcher").status == 303
    assert "petra" in helper.text(page)
    assert helper.send(page, name="hugo", part="principal-investigator").status == 403
    assert lead.reader.send(f"{page}/remove", name="hugo").status == 303
    assert helper.call("GET", page).status == 404
    assert lead.reader.send(f"/studies/{digest}/data-check").status == 409, "no site has approved yet"
    assert lead.reader.send(f"/studies/{digest}/archive", archived="yes").status == 409
    assert lead.reader.send(f"/studies/{digest}/stop", reason="a test").status == 303
    assert lead.reader.send(f"/studies/{digest}/archive", archived="yes").status == 303
    assert digest[:12] not in lead.reader.text("/studies") and digest[:12] in lead.reader.text("/studies?state=archived")
    assert lead.reader.send(f"/studies/{digest}/archive", archived="no").status == 303
    assert digest[:12] in lead.reader.text("/studies")
