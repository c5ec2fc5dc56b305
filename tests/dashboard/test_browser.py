"""The coordinator's pages in a real browser, over real processes: watched live; nothing keeps anybody out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect
from tests.browser import barriers

from aimer2.cli.federation import RESEARCHER, Federation, Hospital
from aimer2.client.run import Run
from aimer2.core.errors import BadInput
from aimer2.core.study import Study
from aimer2.identity.secret_files import write_secret
from aimer2.site.balance import Budget

pytestmark = pytest.mark.timeout(300)  # the first test waits for a whole federation to start

SITES = ("east", "north", "west")
POLICY = '[[rule]]\nname = "tests"\nset_by = "Test Person"\ndecision = "approve"\n'
MAPPING = 'patient = "patient"\n[columns.age]\n[columns.lactate]\n[columns.died]\n'
PRIVATE: dict[str, Any] = {
    "name": "ages",
    "question": "How old are the patients of these hospitals?",
    "purpose": "a test",
    "ethics": "none needed",
    "principal_investigator": "Test Person",
    "expires": "2100-01-01",
    "sites": {"names": list(SITES), "minimum": 3},
    "cohort": {"dataset": "registry", "minimum_patients": 100, "features": [{"name": "age", "minimum": 18, "maximum": 110}]},
    "analyses": [{"name": "who", "method": "private_describe", "formula": "~ age"}],
    "privacy": {"differential_privacy": {"epsilon": 1.5, "delta": 1e-5}},
}
EVIL = "<img src=x onerror=\"document.title='broken in'\"> Who dies in hospital?"


def hospital(folder: Path, name: str, seed: int) -> Hospital:
    rng = np.random.default_rng(seed)
    age, lactate = rng.normal(60, 12, 120), rng.exponential(2, 120)
    died = rng.random(120) < 1 / (1 + np.exp(-0.06 * (age - 60) - 0.7 * (lactate - 2)))
    lines = ["patient,age,lactate,died", *(f"P{n},{a:.1f},{b:.2f},{int(d)}" for n, (a, b, d) in enumerate(zip(age, lactate, died, strict=True)))]
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    return Hospital(name, path, MAPPING, POLICY)


def study_of(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "mortality",
        "question": EVIL,
        "purpose": "a test",
        "ethics": "none needed",
        "principal_investigator": "Test Person",
        "expires": "2100-01-01",
        "cohort": {"dataset": "registry", "features": [{"name": "age"}, {"name": "lactate"}], "target": {"name": "died"}},
        "model": {"framework": "numpy", "name": "logistic"},
        "training": {"learning_rate": 0.2, "batch_size": 16, "local_epochs": 1},
        "method": {"name": "fedavg", "rounds": 4},
        "sites": {"names": list(SITES), "minimum": 3},
        "evaluation": {"held_out": 0.25},
    }
    return Study(**(fields | changes))


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    made = Federation(tmp_path_factory.mktemp("browser"))
    made.make_coordinator("University Hospital North")
    made.run_coordinator()
    made.make_sites([hospital(made.folder, name, seed) for seed, name in enumerate(SITES)])
    for name in SITES:
        made.run_site(name)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def auditor(federation: Federation) -> str:
    """The name of one, whose password is the researcher's."""
    password = federation.folder / "auditor.password"
    write_secret(password, federation.password.encode())
    federation.command("coordinator", "user", "add", "demo-auditor", "--role", "auditor", "--password-file", str(password))
    return "demo-auditor"


@pytest.fixture(scope="module")
def finished(federation: Federation) -> Run:
    run = federation.researcher().submit(study_of(), federation.folder)
    for _ in run.events():
        pass
    return run


def visitor(chromium: Browser, federation: Federation, user: str = RESEARCHER, **options: Any) -> BrowserContext:
    """A browser of its own, logged in."""
    context = chromium.new_context(ignore_https_errors=True, base_url=federation.url, accept_downloads=True, **options)
    page = context.new_page()
    page.goto("/login")
    page.get_by_label("Name").fill(user)
    page.get_by_label("Password").fill(federation.password)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("University Hospital North")
    page.close()
    return context


@pytest.fixture(scope="module")
def context(chromium: Browser, federation: Federation) -> Iterator[BrowserContext]:
    made = visitor(chromium, federation)
    yield made
    made.close()


def test_a_study_is_watched_live_paused_and_resumed(context: BrowserContext, federation: Federation, finished: Run) -> None:
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    run = federation.researcher().submit(study_of(method={"name": "fedavg", "rounds": 20_000}), federation.folder)
    page.goto(f"/studies/{run.digest}/live")
    # Nothing of this is loaded again: the server sends it.
    expect(page.locator("#live-state")).to_contain_text("training", timeout=20_000)
    expect(page.locator("#live-curves svg").first).to_be_visible(timeout=20_000)
    expect(page.locator("#live-sites tbody tr")).to_have_count(3)
    # The page was opened before the study began, and has loaded itself again since: now it can be paused.
    expect(page.get_by_role("button", name="Pause")).to_be_visible(timeout=20_000)
    told = page.locator("#live-state .facts dd").nth(1)
    before = told.inner_text()
    expect(told).not_to_have_text(before, timeout=20_000)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("running")
    page.get_by_role("link", name="Stop for good").click()
    page.get_by_label("Reason").fill("It was a test.")
    page.get_by_role("button", name="Stop for good").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("stopped")
    assert page.title() == "mortality · AIMER2", "a text of the study was run"
    assert not said
    page.close()


def test_what_ledgers_have_charged_and_hospitals_publish_is_on_the_pages(context: BrowserContext, federation: Federation) -> None:
    federation.set_budgets(SITES, "registry", Budget(3.0, 1e-5))
    publishing = ("site", "dataset", "publish", "registry", "--folder", str(federation.site("north")))
    with pytest.raises(BadInput) as nobody:
        federation.command(*publishing)
    federation.command(*publishing, "--digest", nobody.value.advice.rpartition("--digest ")[2])
    run = federation.researcher().submit(Study(**PRIVATE), federation.folder)
    for _ in run.events():
        pass
    page = context.new_page()
    page.goto("/sites/north")
    # The agents tell it by themselves: the description when it is published, what was charged at the study's end.
    with_data = page.get_by_role("heading", name="registry", exact=True)
    expect(_again(page, with_data)).to_be_visible()
    page.get_by_text("3 columns").click()
    expect(page.get_by_role("rowheader", name="lactate")).to_be_visible()
    page.goto(f"/studies/{run.digest}/leaves")
    expect(_again(page, page.locator("#charged + .wide tbody tr").nth(2))).to_be_visible()
    told = federation.researcher().spending(run.digest)
    assert [one.site for one in told] == list(SITES)
    asked = 1.5
    assert all(0.5 * asked < one.epsilon <= asked and one.tasks >= 1 for one in told), "all that the plan may cost, and no more"
    page.close()


def _again(page: Page, wanted: Locator, seconds: float = 20.0) -> Locator:
    """Loads the page until it is there."""
    end = time.monotonic() + seconds
    while not wanted.count() and time.monotonic() < end:
        page.reload()
    return wanted


def pages_of(digest: str) -> list[str]:
    ends = ("", "/people", "/live", "/rounds", "/leaves", "/code", "/results", f"/compare?with={digest}", "/stop")
    return [
        "/",
        "/studies",
        "/sites",
        "/sites/east",
        "/models",
        f"/models/{digest}",
        "/privacy",
        "/drafts",
        "/consortium",
        "/account",
        "/nowhere",
        *(f"/studies/{digest}{end}" for end in ends),
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(chromium: Browser, federation: Federation, finished: Run, auditor: str, scheme: str) -> None:
    # The pages' own policy would not run a script of ours. What is not colour is the same in the dark.
    level = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']"
    rules = level if scheme == "light" else "{type: 'rule', values: ['color-contrast']}"
    found = []
    for user, paths in ((RESEARCHER, ["/login", *pages_of(finished.digest)]), (auditor, ["/audit", "/people"])):
        context = visitor(chromium, federation, user, color_scheme=scheme, bypass_csp=True)
        page = context.new_page()
        for path in paths:
            answer = page.goto(path, wait_until="domcontentloaded")
            assert answer is not None and (answer.ok or path == "/nowhere"), path
            found += [f"{path}: {one}" for one in barriers(page, rules)]
        context.close()
    assert not found, json.dumps(found, indent=1)


def test_the_pages_are_used_by_keyboard_alone(context: BrowserContext, finished: Run) -> None:
    page = context.new_page()
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
    page.goto(f"/studies/{finished.digest}/results")
    summary = page.locator("summary").first
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.locator("details[open] table").first).to_be_visible()
    page.close()


def test_without_scripts_every_page_is_complete(chromium: Browser, federation: Federation, finished: Run) -> None:
    context = visitor(chromium, federation, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"/studies/{finished.digest}/live")
    expect(page.locator("#live-sites tbody tr")).to_have_count(3)
    expect(page.locator("#live-curves svg").first).to_be_visible()
    context.close()


def test_a_telephone_shows_every_page_without_scrolling_sideways(chromium: Browser, federation: Federation, finished: Run) -> None:
    context = visitor(chromium, federation, viewport={"width": 360, "height": 780})
    page = context.new_page()
    for path in pages_of(finished.digest):
        page.goto(path, wait_until="domcontentloaded")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    context.close()


def test_no_other_page_can_frame_a_page(chromium: Browser, federation: Federation, finished: Run) -> None:
    context = visitor(chromium, federation)
    page = context.new_page()
    page.set_content(f'<iframe src="{federation.url}/studies/{finished.digest}/stop"></iframe>')
    expect(page.frame_locator("iframe").locator("body")).to_be_attached()
    assert page.frames[1].locator("form").count() == 0
    context.close()
