"""A hospital's people at their console, with real processes: a study arrives, is attacked, approved and runs; another is left at once."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from tests.browser import barriers, chromium

from aimer2.cli.federation import Federation, Hospital
from aimer2.core.study import Study
from aimer2.study.events import StudyPaused

PASSWORD = "correct horse battery"
PAGES = ("/", "/datasets", "/datasets/registry", "/budgets", "/budgets/registry", "/reports", "/keys", "/policy", "/audit", "/machine", "/people")
SECONDS = 60


def study(name: str, rounds: int) -> Study:
    return Study(
        name=name,
        question="Does age tell who has the disease?",
        purpose="a test",
        ethics="none needed: drawn numbers",
        principal_investigator="Dr Ada Test",
        expires="2100-01-01",
        cohort={"dataset": "registry", "features": [{"name": "age"}], "target": {"name": "disease"}},
        model={"framework": "numpy", "name": "logistic"},
        training={"local_steps": 2},
        method={"name": "fedavg", "rounds": rounds},
        sites={"minimum": 1},
        evaluation={"held_out": 0.25, "metrics": ["auc"]},
        privacy={"secure_aggregation": False, "why_not_secure": "a test of one hospital"},
    )


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("console")
    ages = np.random.default_rng(4).normal(60, 10, 120)
    rows = [f"p{number},{age!r},{int(age > 60)}" for number, age in enumerate(map(float, ages))]
    (folder / "north.csv").write_text("\n".join(["patient,age,disease", *rows]) + "\n")
    with Federation(folder) as made:
        made.make_coordinator()
        made.run_coordinator()
        made.make_sites([Hospital("north", folder / "north.csv", 'patient = "patient"\n[columns.age]\n[columns.disease]\n', "")])
        settings = made.site("north") / "site.toml"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        settings.write_text(settings.read_text() + f"\n[console]\nport = {port}\n")
        made.run_site("north")
        made.start("console", "site", "console", "--folder", str(made.site("north")))
        yield made


def printed(federation: Federation, pattern: str) -> str:
    """What the console has printed, as soon as it has."""
    return until(lambda: re.search(pattern, federation.log("console").read_text()))[0]


def until(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")


def shown(page: Page, text: str) -> bool:
    """Whether the page, asked for anew, has this text."""
    page.reload()
    return page.get_by_text(text).count() > 0


def enter(page: Page, link: str) -> None:
    """The first account, by the link that the console has printed, and its log-in."""
    page.goto(link)
    for field, value in (("Your full name", "Dr Ines Vogt"), ("Login", "vogt"), ("Password", PASSWORD), ("The same once more", PASSWORD)):
        page.get_by_label(field, exact=True).fill(value)
    page.get_by_role("button", name="Set the password").click()
    page.get_by_label("Login").fill("vogt")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()


def look_into(page: Page) -> dict[str, list[str]]:
    """A request, its data checked, its attacks rehearsed; what keeps somebody from using these pages."""
    expect(page.get_by_text("in the clear: the coordinator sees this site's sums")).to_be_visible()
    page.get_by_role("button", name="Check our data").click()
    expect(page.get_by_text("All 2 columns are there.")).to_be_visible()
    page.get_by_role("button", name="Rehearse the attacks").click()
    page.get_by_role("link", name="what was found").click()
    expect(page.get_by_text("It stays here: do not send it to anybody outside.")).to_be_visible()
    found = barriers(page)
    page.go_back()
    page.reload()
    return {"rehearsal": found, "request": barriers(page)}


def approve_and_leave(page: Page, base: str, digest: str) -> None:
    """The worker is there while the approval stands, and gone when the page says that the site has withdrawn."""
    worker = page.get_by_role("row", name=re.compile("^worker .* many-rounds"))
    page.goto(f"{base}/requests/{digest}")
    page.get_by_role("button", name="Approve", exact=True).click()
    page.goto(f"{base}/machine")
    expect(worker).to_be_visible()
    page.goto(f"{base}/requests/{digest}")
    page.get_by_label("Reason").fill("A patient group has objected.")
    page.get_by_role("button", name="Withdraw").click()
    expect(page.get_by_text("Withdrawn. Nothing of this study runs here any more.")).to_be_visible()
    page.goto(f"{base}/machine")
    expect(page.get_by_text("connected").first).to_be_visible()
    assert worker.count() == 0


def test_a_study_from_its_arrival_to_the_withdrawal_from_another(federation: Federation) -> None:
    link = printed(federation, r"http://\S+/welcome/\S+")
    base = link.partition("/welcome/")[0]
    researcher = federation.researcher()
    first = researcher.submit(study("ages", 3), federation.folder)
    with chromium() as browser:
        page = browser.new_context(color_scheme="dark").new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        page.set_default_timeout(SECONDS * 1000)
        expect.set_options(timeout=SECONDS * 1000)
        enter(page, link)
        until(lambda: shown(page, "Does age tell"))
        page.get_by_role("link", name="ages").click()
        found = look_into(page)
        page.get_by_role("button", name="Approve", exact=True).click()
        expect(page.get_by_text("Approved. It is in force from now on.")).to_be_visible()
        assert list(first.events())[-1].kind == "study-finished"
        assert [(one.site, one.by) for one in first.summary().sites] == [("north", "Dr Ines Vogt")]
        page.goto(f"{base}/reports/{first.digest}")
        expect(page.get_by_role("rowheader", name="auc")).to_be_visible()
        found["report"] = barriers(page)

        second = researcher.submit(study("many-rounds", 100_000), federation.folder)
        page.goto(base)
        until(lambda: shown(page, "many-rounds"))
        approve_and_leave(page, base, second.digest)
        assert any(isinstance(event, StudyPaused) for event in second.events())
        assert [(one.decision, one.reason) for one in second.summary().sites] == [("withdraw", "A patient group has objected.")]

        for path in PAGES:
            page.goto(base + path)
            found[path] = barriers(page)
            page.emulate_media(color_scheme="light")
            found[f"{path} in light"] = barriers(page)
            page.emulate_media(color_scheme="dark")
        assert {where: what for where, what in found.items() if what} == {}
        assert faults == [], "the policy of the pages stopped something, or a script failed"
    told = federation.command("site", "audit", "show", "--folder", str(federation.site("north")))
    order = [told.index(kind) for kind in ("study-checked", "study-rehearsed", "study-approved", "study-withdrawn")]
    assert order == sorted(order)
    assert PASSWORD not in federation.log("console").read_text()
