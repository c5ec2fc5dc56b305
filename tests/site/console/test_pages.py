"""What the console's pages show and do: the same as the commands, by the same functions, under the name of who is logged in."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.site.console.conftest import BASE, STUDY, offer, send

from aimer2.audit.kinds import Kind
from aimer2.core.study import Study
from aimer2.identity.keys import SigningKey
from aimer2.messages.wire import Decision
from aimer2.privacy.accounting import gaussian
from aimer2.site.balance import Budget
from aimer2.site.console.console import Console
from aimer2.site.cost import foresee
from aimer2.site.datasets import Datasets, DatasetSettings
from aimer2.site.description import describe_request
from aimer2.site.folder import SiteFolder
from aimer2.site.leak.confined import read_rehearsal
from aimer2.site.leak.findings import Example, Picture
from aimer2.site.settings import Retention
from aimer2.study.private_questions import question_terms
from aimer2.study.spending import spending

TERMS = {"epsilon": "3", "delta": "1e-5"}


def decided(console: Console, digest: str) -> Decision | None:
    return console.decisions.store.decision(digest)


def kinds(console: Console) -> list[tuple[str, str]]:
    return [(entry.kind, entry.actor) for entry in console.decisions.audit.read()]


def text_of(answer: Any) -> str:
    """What a person reads: one line, without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


def test_the_page_says_all_that_the_command_says(officer: TestClient, console: Console, folder: SiteFolder, tmp_path: Path) -> None:
    digest = offer(folder, tmp_path / "b", code="secret_plan = 1\n")
    package = console.decisions.store.study(digest)
    assert package is not None and package.package is not None
    shown = text_of(officer.get(f"/requests/{digest}"))
    said = [line[17:].strip() for line in describe_request(package.package, digest)]
    assert len(said) > 15 and digest in said
    # but for the moment of its end, which the page writes in another way
    assert [line for line in said if line and line not in shown and not line.endswith("Z") and "(at least" not in line] == []
    assert "secret_plan = 1" in shown.replace("  ", " ")


def test_an_approval_is_for_a_data_set_until_a_day_by_who_is_logged_in(
    officer: TestClient, console: Console, folder: SiteFolder, tmp_path: Path
) -> None:
    digest = offer(folder, tmp_path / "b")
    assert "waits for a decision" in text_of(officer.get("/"))
    path = f"/requests/{digest}"
    for wrong, status in (({"dataset": "nowhere"}, 404), ({"dataset": "registry", "until": "1999-01-01"}, 409), ({"until": "soon"}, 400)):
        assert send(officer, f"{path}/approve", **wrong).status_code == status, wrong
    assert decided(console, digest) is None
    done = send(officer, f"{path}/approve", dataset="registry", until="2050-06-30", by="Somebody Else")
    assert done.headers["location"] == f"{path}?done=not-told"
    decision = decided(console, digest)
    assert decision is not None and (decision.decision, decision.by, decision.dataset) == ("approve", "Dr Ines Vogt", "registry")
    assert decision.until == 2540246400.0, "the end of that day, UTC"
    assert ("study-approved", "Dr Ines Vogt") in kinds(console)
    assert "approved by Dr Ines Vogt, until 2050-07-01 00:00:00" in text_of(officer.get(path))
    send(officer, f"{path}/withdraw", reason="A patient group has objected.")
    assert "withdrawn by Dr Ines Vogt: A patient group has objected." in text_of(officer.get(path))
    assert [one.decision for one in console.decisions.store.decisions(digest)] == ["approve", "withdraw"]


def test_a_refusal_has_a_reason(officer: TestClient, console: Console, folder: SiteFolder, tmp_path: Path) -> None:
    digest = offer(folder, tmp_path / "b")
    assert send(officer, f"/requests/{digest}/refuse", reason="  ").status_code == 400
    assert decided(console, digest) is None
    send(officer, f"/requests/{digest}/refuse", reason="No legal basis.")
    decision = decided(console, digest)
    assert decision is not None and (decision.decision, decision.reason) == ("refuse", "No legal basis.")


def test_secure_aggregation_waits_for_verified_keys_and_they_are_verified_here(
    officer: TestClient, console: Console, folder: SiteFolder, tmp_path: Path
) -> None:
    others = {name: SigningKey.generate().public for name in ("east", "west")}
    roster = {"north": SigningKey.load(folder.key).public.text} | {name: key.text for name, key in others.items()}
    digest = offer(folder, tmp_path / "b", roster=roster, privacy={}, sites={"minimum": 3})
    assert "2 keys are not verified" in text_of(officer.get("/"))
    answer = send(officer, f"/requests/{digest}/approve", dataset="registry")
    assert answer.status_code == 403 and "not-verified" in answer.text and decided(console, digest) is None
    wrong = str((int(others["east"].fingerprint[0]) + 1) % 10) + others["east"].fingerprint[1:]
    assert send(officer, "/keys/verify", page="/keys", site="east", fingerprint=wrong).status_code == 409
    for name, key in others.items():
        assert send(officer, "/keys/verify", page="/keys", site=name, fingerprint=key.fingerprint, how="in-person").status_code == 303
    shown = text_of(officer.get("/keys"))
    assert others["west"].fingerprint in shown and "Dr Ines Vogt in person" in shown
    assert send(officer, f"/requests/{digest}/approve", dataset="registry").status_code == 303
    send(officer, "/keys/remove", page="/keys", site="west", reason="its laptop was stolen")
    assert console.decisions.address_book.unverified(roster) == ("west",)
    signed = send(officer, "/keys/sign", page="/keys")
    assert signed.headers["content-disposition"].endswith('"north.statement"')


def test_our_data_are_checked_and_attacked_here_before_a_decision(
    officer: TestClient, entered: Callable[[str], TestClient], console: Console, folder: SiteFolder, tmp_path: Path
) -> None:
    """In confined workers, as for the study; the stream of events ends when they have."""
    digest = offer(folder, tmp_path / "b")
    path = f"/requests/{digest}"
    send(officer, f"{path}/preflight")
    send(officer, f"{path}/rehearsal")
    events = officer.get(f"{path}/progress").text
    assert "event: rehearsal-progress" in events and events.endswith("event: end\ndata: reload\n\n")
    shown = text_of(officer.get(path))
    assert "All 2 columns are there." in shown and "Rehearsed by Dr Ines Vogt" in shown
    found = officer.get(f"{path}/rehearsal")
    assert found.status_code == 200 and "the coordinator could rebuild almost exactly" in text_of(found) and found.text.count("<svg") >= 5
    done = kinds(console)
    assert ("study-checked", "Dr Ines Vogt") in done and ("study-rehearsed", "Dr Ines Vogt") in done
    assert not [kind for kind, _ in done if kind == "study-approved"]
    assert entered("cole").get(f"{path}/rehearsal").status_code == 403, "it shows a patient"
    picture = Picture(height=1, width=2, channels=1, real="00ff", alone="40c0", protected=None)
    kept = read_rehearsal(folder, digest)
    assert kept is not None
    example = Example(records=1, error=0.8, protected_error=None, cells=(), picture=picture)
    of_images = kept.model_copy(update={"findings": kept.findings.model_copy(update={"example": example})})
    (folder.path / "rehearsals" / digest / "findings.json").write_text(of_images.model_dump_json())
    page = officer.get(f"{path}/rehearsal")
    assert "rgb(64,64,64)" in page.text and "judge yourself" in text_of(page) and "Ring: the record" not in text_of(page)


def test_data_that_do_not_fit_are_named(officer: TestClient, folder: SiteFolder, tmp_path: Path) -> None:
    cohort = {"dataset": "registry", "features": [{"name": "age", "unit": "years"}, {"name": "dose"}], "target": {"name": "disease"}}
    digest = offer(folder, tmp_path / "b", cohort=cohort)
    send(officer, f"/requests/{digest}/preflight")
    officer.get(f"/requests/{digest}/progress")
    shown = text_of(officer.get(f"/requests/{digest}"))
    assert "columns not met" in shown and "dose" in shown


def test_a_new_version_is_compared_with_the_one_that_was_approved_here(officer: TestClient, folder: SiteFolder, tmp_path: Path) -> None:
    """Not with the version between, though it was seen last; nor with a study that only bears the same name."""
    first = offer(folder, tmp_path / "b", code="one = 1\ntwo = 2\n")
    send(officer, f"/requests/{first}/approve", dataset="registry")
    second = offer(folder, tmp_path / "c", code="one = 1\ntwo = 4\n", supersedes=first, method={"name": "fedavg", "rounds": 5})
    third = offer(folder, tmp_path / "d", code="one = 1\ntwo = 3\n", supersedes=second, method={"name": "fedavg", "rounds": 4})
    assert "New version" not in text_of(officer.get(f"/requests/{first}"))
    shown = text_of(officer.get(f"/requests/{third}"))
    assert "approved by Dr Ines Vogt" in shown and first[:12] in shown
    assert "method.rounds: 3 → 4" in shown and "-two = 2" in shown and "+two = 3" in shown and "-one" not in shown
    other = offer(folder, tmp_path / "e", code="two = 5\n")
    assert "New version" not in text_of(officer.get(f"/requests/{other}"))
    unknown = offer(folder, tmp_path / "f", supersedes="0" * 64)
    assert "does not know that study" in text_of(officer.get(f"/requests/{unknown}"))


def test_two_persons_set_a_budget_and_one_is_not_enough(officer: TestClient, entered: Callable[[str], TestClient], console: Console) -> None:
    page = "/budgets/registry"
    assert send(officer, page, page=page, **TERMS).headers["location"] == f"{page}?done=budget-proposed"
    assert send(officer, page, page=page, confirm="yes", **TERMS).status_code == 409
    assert console.ledgers.own("registry").balance().budget is None
    assert send(entered("roth"), page, page=page, confirm="yes", **TERMS).headers["location"] == f"{page}?done=budget-set"
    balance = console.ledgers.own("registry").balance()
    assert (balance.budget, balance.set_by) == (Budget(3.0, 1e-5), ("Dr Ines Vogt", "Jan Roth"))
    assert send(officer, page, page=page, epsilon="3", delta="0.01").status_code == 400, "too large for 80 patients"
    console.ledgers.own("registry").reserve("5e" * 32, "r1", 1, gaussian(8.0))
    shown = text_of(officer.get(page))
    assert "ε = 3.00 at δ = 1e-05" in shown and "privacy-reserved r1/1" in shown
    assert 'id="spent"' in officer.get(page).text


def test_a_budget_is_shared_with_a_data_set_and_with_no_other_file(officer: TestClient, folder: SiteFolder) -> None:
    for name in ("../../outside", "nowhere"):
        assert send(officer, "/budgets/registry", page="/budgets", share=name).status_code == 404
    assert {path.name for path in folder.path.parent.rglob("*.lock")} <= {"registry.lock"}


def test_what_a_study_will_cost_is_what_its_tasks_are_charged(console: Console) -> None:
    noise = {"epsilon": 2.0, "delta": 1e-4, "clip_norm": 1.0, "sampling_rate": 0.2}
    privacy = {"secure_aggregation": False, "why_not_secure": "a test", "differential_privacy": noise}
    features = [{"name": "age", "minimum": 20, "maximum": 120}]
    cohort = {"dataset": "registry", "features": features, "target": {"name": "disease"}, "standardise": "range", "minimum_patients": 40}
    study = Study.model_validate(STUDY | {"cohort": cohort, "model": {"framework": "torch", "name": "mlp"}, "privacy": privacy})
    ledger, digest = console.ledgers.own("registry"), "4f" * 32
    assert foresee(study, digest, console.ledgers, "registry") is None, "no budget"
    ledger.propose(Budget(3.0, 1e-5), by="Dr Ines Vogt")
    ledger.confirm(Budget(3.0, 1e-5), by="Jan Roth")
    ledger.reserve("5e" * 32, "other", 1, gaussian(8.0))
    cost = foresee(study, digest, console.ledgers, "registry")
    assert cost is not None and cost.fits and cost.before == ledger.balance().epsilon
    for number in range(1, study.method.rounds + 1):
        train = spending(study, "train")
        assert train is not None
        ledger.reserve(digest, f"train-{number}", 1, train)
    if (last := spending(study, "final")) is not None:
        ledger.reserve(digest, "final", 1, last)
    assert cost.after == pytest.approx(ledger.balance().epsilon, rel=1e-6) and cost.after > cost.before + 0.5
    again = foresee(study, digest, console.ledgers, "registry")
    assert again is not None and again.begun and again.after == pytest.approx(cost.after, rel=1e-6)


def test_what_questions_with_noise_will_cost_is_what_their_tasks_are_charged(console: Console) -> None:
    """Of a plan in which one question takes more sums with noise than the other."""
    privacy = {"secure_aggregation": False, "why_not_secure": "a test", "differential_privacy": {"epsilon": 1.0, "delta": 1e-4}}
    columns = [{"name": "age", "minimum": 20, "maximum": 120}, {"name": "disease", "minimum": 0, "maximum": 1}]
    asked = [
        {"name": "how-old", "method": "private_describe", "formula": "~ age"},
        {"name": "how", "method": "private_glm", "formula": "disease ~ age", "options": {"family": "binomial"}},
    ]
    fields = {name: value for name, value in STUDY.items() if name not in ("model", "method", "training")}
    cohort = {"dataset": "registry", "features": columns, "minimum_patients": 40}
    study = Study.model_validate(fields | {"cohort": cohort, "privacy": privacy, "analyses": asked})
    ledger, digest = console.ledgers.own("registry"), "4f" * 32
    ledger.propose(Budget(3.0, 1e-4), by="Dr Ines Vogt")
    ledger.confirm(Budget(3.0, 1e-4), by="Jan Roth")
    cost = foresee(study, digest, console.ledgers, "registry")
    releases = question_terms(study).releases
    assert cost is not None and len(set(releases)) == 2
    for number in range(1, max(releases) + 1):
        spent = spending(study, "analyse", number)
        assert spent is not None
        ledger.reserve(digest, f"analyse-{number}", 1, spent)
    assert cost.after == pytest.approx(ledger.balance().epsilon, rel=1e-6) and 0.99 <= cost.after <= 1.0


def test_the_rules_say_what_they_would_have_decided(officer: TestClient, folder: SiteFolder, tmp_path: Path) -> None:
    offer(folder, tmp_path / "b")
    assert "There is no rule" in text_of(officer.get("/policy"))
    folder.policy.write_text('[[rule]]\nname = "short ones"\nset_by = "Dr Ines Vogt"\ndecision = "approve"\nmaximum_rounds = 2\n')
    assert "ages ask a person rule 'short ones' does not fit: it has 3 rounds" in text_of(officer.get("/policy"))
    folder.policy.write_text(folder.policy.read_text().replace("2\n", "3\n"))
    assert "ages approve short ones" in text_of(officer.get("/policy"))


def test_the_audit_log_is_filtered_verified_and_handed_on(officer: TestClient, console: Console, folder: SiteFolder, tmp_path: Path) -> None:
    digest = offer(folder, tmp_path / "b")
    send(officer, f"/requests/{digest}/refuse", reason="No legal basis.")
    shown = text_of(officer.get(f"/audit?study={digest[:8]}"))
    assert "study-refused" in shown.partition("Details")[2] and "1 entry" in shown
    assert "0 entries" in text_of(officer.get(f"/audit?study={digest[:8]}&kind=study-approved"))
    assert officer.get("/audit/file").content == folder.audit.read_bytes()
    assert "entries, unbroken" in text_of(officer.get("/audit?verify=yes"))
    folder.audit.write_bytes(folder.audit.read_bytes().replace(b"No legal basis.", b"No legal doubt."))
    assert "1 problem" in text_of(officer.get("/audit?verify=yes"))


def digest_shown(client: TestClient, name: str) -> str:
    """In the form beneath what would be published."""
    return client.get(f"/datasets/{name}").text.partition('name="digest" value="')[2].partition('"')[0]


def test_a_description_is_published_with_rounded_counts_by_name_and_taken_back(officer: TestClient, console: Console, folder: SiteFolder) -> None:
    assert "80" in text_of(officer.get("/datasets/registry"))
    assert send(officer, "/datasets/registry/take-back").status_code == 409
    assert send(officer, "/datasets/registry/publish").status_code == 409, "of nothing that was looked at"
    seen = digest_shown(officer, "registry")
    assert send(officer, "/datasets/registry/publish", digest=seen).headers["location"] == "/datasets/registry?done=not-told"
    told = json.loads(folder.published("registry").read_text())
    assert (told["site"], told["by"], told["patients"], told["published"]) == ("north", "Dr Ines Vogt", "80", True)
    assert all("quantiles" not in column for column in told["columns"])
    assert "Published by Dr Ines Vogt" in text_of(officer.get("/datasets/registry"))
    assert send(officer, "/datasets/registry/take-back").headers["location"] == "/datasets/registry?done=not-told"
    assert "Published by" not in text_of(officer.get("/datasets/registry"))
    told = json.loads(folder.published("registry").read_text())
    assert told["published"] is False and not told["columns"], "that it was taken back is told, and nothing else"
    assert kinds(console).count((str(Kind.DATASET_PUBLISHED), "Dr Ines Vogt")) == 2


def test_what_has_changed_since_it_was_looked_at_is_not_published(officer: TestClient, console: Console, folder: SiteFolder, tmp_path: Path) -> None:
    """By a refresh, then by the settings: what is looked at again is, and its counts are those that were shown."""
    source = tmp_path / "beds.csv"
    datasets = Datasets(folder, console.decisions.audit, console.clock, Retention(), "Test")
    mapping = 'patient = "id"\n[columns.age]\n'

    def refreshed(patients: int) -> None:
        source.write_text("\n".join(["id,age", *(f"P{n},{40 + n}" for n in range(patients))]))
        datasets.refresh("beds")

    datasets.add(DatasetSettings(name="beds", kind="csv", source={"path": str(source)}), mapping)
    refreshed(80)
    first = digest_shown(officer, "beds")
    refreshed(60)
    refused = send(officer, "/datasets/beds/publish", digest=first)
    assert refused.status_code == 409 and "Look again" in refused.text and not folder.published("beds").exists()
    second = digest_shown(officer, "beds")
    folder.settings.write_text(folder.settings.read_text() + "[disclosure]\nminimum_cell = 70\n")
    assert send(officer, "/datasets/beds/publish", digest=second).status_code == 409 and not folder.published("beds").exists()
    assert send(officer, "/datasets/beds/publish", digest=digest_shown(officer, "beds")).status_code == 303
    assert json.loads(folder.published("beds").read_text())["patients"] == "<70"


def test_what_would_be_published_is_shown_before_by_the_site_s_own_smallest_count(
    officer: TestClient, entered: Callable[[str], TestClient], console: Console, folder: SiteFolder, tmp_path: Path
) -> None:
    rows = [f"P{n},{['Ash', 'Birch'][n < 25] if n else 'Quince'},{40 + n}" for n in range(80)]
    (tmp_path / "small.csv").write_text("\n".join(["id,surname,age", *rows]))
    datasets = Datasets(folder, console.decisions.audit, console.clock, Retention(), "Test")
    mapping = 'patient = "id"\n[columns.age]\n[columns.surname]\nkind = "category"\ncategories = ["Ash", "Birch", "Quince"]\n'
    datasets.add(DatasetSettings(name="small", kind="csv", source={"path": str(tmp_path / "small.csv")}), mapping)
    datasets.refresh("small")
    folder.settings.write_text(folder.settings.read_text() + "[disclosure]\nminimum_cell = 30\n")
    before = text_of(officer.get("/datasets/small")).partition("What would be published now")[2]
    assert "Ash 55" in before and "(rarer) <30" in before and "Birch" not in before and "Quince" not in before
    assert "What would be published" not in entered("roth").get("/datasets/small").text, "he publishes nothing"
    seen = digest_shown(officer, "small")
    assert send(officer, "/datasets/small/publish", page="/datasets/small", digest=seen).status_code == 303
    age, surname = json.loads(folder.published("small").read_text())["columns"]
    assert surname["categories"] == {"Ash": "55", "(rarer)": "<30"} and age["missing"] == "<30"


def test_every_page_is_there_in_chinese(officer: TestClient, folder: SiteFolder, tmp_path: Path) -> None:
    digest = offer(folder, tmp_path / "b")
    officer.post("/language", data={"language": "zh-Hans", "back": "/"}, headers={"Origin": BASE})
    for path in (
        "/",
        f"/requests/{digest}",
        "/datasets",
        "/datasets/new",
        "/datasets/registry/mapping",
        "/budgets",
        "/reports",
        "/models",
        "/keys",
        "/policy",
        "/audit",
        "/machine",
        "/people",
    ):
        shown = officer.get(path).text
        heading = re.search(r"<h1>(.*?)</h1>", shown)
        assert 'lang="zh-Hans"' in shown and heading is not None
        assert re.search(r"[\u4e00-\u9fff]", heading[1]) or heading[1] == "ages", path
