"""The whole story in browsers, over real processes: from a coordinator that knows no hospital to the record that checks itself.

With AIMER2_PICTURES=docs/images it takes the pictures of the documentation anew (`make pictures`).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.browser import barriers
from tests.end_to_end.enrolling import EXAMPLE, FILES, World, a_world, add_data, invite_and_enrol, meet
from tests.end_to_end.visitors import PASSWORD, SECONDS, Visitor, at_console, begin, decide, open_request, save, submit, until

from aimer2.client.coordinator import Coordinator
from aimer2.identity.invitations import Invitation
from aimer2.site.balance import Budget

DOCS = Path(__file__).parents[2] / "docs"
PURPOSE = "Shows whether ten findings spare an angiography: a teaching example on public data."
SECOND = 'name = "fedprox"\nparameters = { mu = 0.1 }'
EVIL = """question = '<img src=x onerror="document.title=1"> Who has the disease?'"""
PRIVATE = """
name = "ages"
question = "How old are the patients of these hospitals?"
purpose = "To plan a trial."
ethics = "none needed"
principal_investigator = "Dr Ada Example"
expires = 2030-12-31
[cohort]
dataset = "heart"
minimum_patients = 100
features = [{ name = "age", unit = "a", minimum = 18, maximum = 110 }]
[[analyses]]
name = "who"
method = "private_describe"
formula = "~ age"
[sites]
minimum = 3
[privacy.differential_privacy]
epsilon = 1.5
delta = 1e-5
"""


@pytest.mark.timeout(600)
def test_from_the_first_invitation_to_the_record_that_checks_itself(tmp_path: Path, chromium: Browser, data_dir: Path) -> None:
    named = os.environ.get("AIMER2_PICTURES")
    expect.set_options(timeout=SECONDS * 1000)
    with a_world(tmp_path, chromium, data_dir, Path(named) if named else None) as world:
        invite_and_enrol(world)
        add_data(world)
        meet(world)
        first = draft_refuse_and_approve(world)
        watch_live(world, first)
        second = try_another_method(world)
        compare(world, first, second)
        promote(world, second)
        check_record_offline(world, second)
        verify_logs(world)
        told = ask_in_private(world)
        leave_at_once(world)
        look_at_the_rest(world, second, told)
        read_logs(world)
        for visitor in world.people.values():
            assert visitor.faults == []
    # What the documentation shows is what these pages show.
    assert sorted(world.camera.taken) == sorted(path.name for path in (DOCS / "images").iterdir())


def draft_refuse_and_approve(world: World) -> str:
    """A draft with a fault, mended, submitted, refused by one hospital; the next version is approved there after a look at all of it."""
    ada, nagy, vogt = (world.people[name] for name in ("ada", "budapest", "cleveland"))
    text = (EXAMPLE / "study.toml").read_text(encoding="utf-8")
    begin(ada, "heart-disease", text.replace('"sensitivity"', '"luck"').replace("minimum = 3 ", 'names = ["paris"]\nminimum = 3 '))
    ada.sees("not enrolled: paris")
    ada.sees("luck")
    ada.look(picture="draft")
    save(ada, text)
    ada.sees("no faults")
    ada.look("/drafts", "drafts")
    ada.page.get_by_role("link", name="heart-disease").click()
    first = submit(ada)
    decide(vogt, first, "Approve")
    decide(nagy, first, "Refuse", "Our ethics board wants the purpose said.")
    ada.waits_for("Our ethics board wants the purpose said.", f"/studies/{first}")
    ada.sees("Dr Adam Nagy")
    ada.look(picture="study-refused")
    ada.press("Write a new version")
    written = ada.page.locator("#text").input_value()
    save(ada, re.sub("purpose = .*", f'purpose = "{PURPOSE}"', written))
    second = submit(ada)
    open_request(vogt, second)
    vogt.sees("approved by Dr Ines Vogt")
    vogt.sees('→ "Shows whether ten findings')
    vogt.look()
    vogt.press("Approve")
    vogt.sees("Approved. It is in force from now on.")
    ada.look("/", "overview")
    look_into(nagy, second)
    return second


def look_into(nagy: Visitor, digest: str) -> None:
    """Everything that a data-protection officer is shown before saying yes: what leaves, the checks of the data, the attacks."""
    open_request(nagy, digest)
    nagy.look("/", "console-requests")
    nagy.page.goto(f"/requests/{digest}")
    nagy.sees("masked: the coordinator gets the sum of at least 3 of the 3 sites")
    nagy.look(picture="console-request")
    nagy.press("Check our data")
    nagy.sees("All 11 columns are there.")
    nagy.press("Rehearse the attacks")
    nagy.page.get_by_role("link", name="what was found").click()
    nagy.sees("It stays here: do not send it to anybody outside.")
    nagy.look(picture="console-rehearsal")


def watch_live(world: World, digest: str) -> None:
    """From the last approval to the end, without loading the page again: what changes, the server sends."""
    ada, nagy = world.people["ada"], world.people["budapest"]
    ada.page.goto(f"/studies/{digest}/live")
    nagy.look(f"/requests/{digest}")
    nagy.press("Approve")
    # The page loads itself once, when the study has begun.
    expect(ada.page.get_by_role("button", name="Pause")).to_be_visible()
    ada.page.evaluate("window.here = true")
    expect(ada.page.locator("#live-state")).to_contain_text("training")
    expect(ada.page.locator("#live-sites tbody tr")).to_have_count(len(FILES))
    expect(ada.page.locator("#live-curves svg").first).to_be_visible()
    figure = ada.page.locator("#live-state .figure")
    for _ in range(2):
        before = figure.inner_text()
        expect(figure).not_to_have_text(before)
    ada.camera.take(ada.page, "live")
    assert ada.page.evaluate("window.here"), "rounds came without loading the page again"
    expect(ada.page.get_by_role("heading", level=1)).to_contain_text("finished")
    ada.look()
    ada.look(f"/studies/{digest}/results", "results")


def try_another_method(world: World) -> str:
    """A second study of the name, by another method: every hospital approves it anew; this time it is done in a moment."""
    ada = world.people["ada"]
    text = (EXAMPLE / "study.toml").read_text(encoding="utf-8").replace('name = "fedavg"\nrounds = 20', f"{SECOND}\nrounds = 5")
    begin(ada, "heart-disease", re.sub("purpose = .*", f'purpose = "{PURPOSE}"', text))
    digest = submit(ada)
    for name in ("cleveland", "budapest"):
        decide(world.people[name], digest, "Approve")
    ada.page.goto(f"/studies/{digest}/live")
    expect(ada.page.get_by_role("heading", level=1)).to_contain_text("finished")
    return digest


def compare(world: World, first: str, second: str) -> None:
    ada = world.people["ada"]
    ada.look("/models", "models")
    ada.page.get_by_role("link", name="Compare the last two versions").click()
    figures = ada.page.get_by_role("region", name="Figures").get_by_role("row")
    expect(figures.filter(has_text="auc").locator("td.n")).to_have_count(2)
    expect(ada.page.get_by_role("row", name=re.compile("method.name.*fedprox.*fedavg|method.name.*fedavg.*fedprox"))).to_be_visible()
    ada.look(picture="compare")


def promote(world: World, digest: str) -> None:
    """To released, with a reason for each step; what is taken home says so."""
    ada = world.people["ada"]
    ada.page.goto(f"/models/{digest}")
    for stage, reason in (("validated", "Judged on the held-out patients of three hospitals."), ("released", "The board of the consortium agrees.")):
        ada.page.get_by_label("Stage").select_option(stage)
        ada.page.get_by_label("Reason").fill(reason)
        ada.press("Move")
        expect(ada.page.get_by_role("heading", level=1)).to_contain_text(stage)
    expect(ada.page.locator("figure.chart svg")).to_be_visible()
    ada.look(picture="model")
    for name, ending in (("Download the card (HTML", "html"), ("Download the card (Markdown", "md")):
        card = ada.take_home(name, world.folder / f"card.{ending}").read_text("utf-8")
        assert "The board of the consortium agrees." in card and "fedprox" in card


def check_record_offline(world: World, digest: str) -> None:
    """In a browser without network the record says that it holds; with one byte changed, that it does not."""
    record = world.people["ada"].take_home("Download the record", world.folder / "record.html")
    text = record.read_text("utf-8")
    changed = world.folder / "changed.html"
    package = text.index('"package": "') + 300
    changed.write_text(text[:package] + ("A" if text[package] != "A" else "B") + text[package + 1 :], "utf-8")
    context = world.browser.new_context(offline=True, viewport={"width": 1120, "height": 800})
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(record.as_uri())
    expect(page.locator(".holds").first).to_be_visible()
    expect(page.locator(".fails")).to_have_count(0)
    assert digest in page.content()
    world.camera.take(page, "record")
    page.goto(changed.as_uri())
    expect(page.locator(".fails").first).to_be_visible()
    expect(page.locator(".holds")).to_have_count(0)
    assert asked == [record.as_uri(), changed.as_uri()]
    context.close()


def ask_in_private(world: World) -> str:
    """A question under differential privacy: two persons set the budget at a console, it is shown against the budget, and the charge is told."""
    ada, vogt, nagy = (world.people[name] for name in ("ada", "cleveland", "budapest"))
    world.federation.set_budgets(("budapest", "long-beach"), "heart", Budget(3.0, 1e-5))
    vogt.page.goto("/people")
    vogt.page.locator("#name").fill("Jan Roth")
    vogt.page.locator("#login").fill("roth")
    vogt.page.get_by_role("checkbox", name="administrator").check()
    vogt.press("Make the account")
    roth = at_console(world.browser, world.camera, vogt.page.locator(".notice code").inner_text(), "", "roth")
    vogt.page.goto("/budgets/heart")
    vogt.page.locator("#epsilon").fill("3")
    vogt.page.locator("#delta").fill("1e-5")
    vogt.press("Set or propose")
    roth.page.goto("/budgets/heart")
    roth.press("Confirm as Jan Roth")
    roth.context.close()
    begin(ada, "ages", PRIVATE)
    digest = submit(ada)
    decide(nagy, digest, "Approve")
    open_request(vogt, digest)
    vogt.sees("fits")
    vogt.press("Approve")
    ada.page.goto(f"/studies/{digest}/live")
    expect(ada.page.get_by_role("heading", level=1)).to_contain_text("finished")
    charged = ada.page.locator("#charged + .wide tbody tr")
    ada.page.goto(f"/studies/{digest}/leaves")
    until(lambda: charged.count() == len(FILES) or (ada.page.reload() and None), "what the ledgers have charged")
    vogt.look("/budgets/heart", "console-budget")
    return digest


def leave_at_once(world: World) -> None:
    """A study that runs for long is paused and resumed at the coordinator's page; a hospital leaves it, and its worker is gone."""
    ada, vogt = world.people["ada"], world.people["cleveland"]
    text = (EXAMPLE / "study.toml").read_text(encoding="utf-8")
    for old, new in (
        ("rounds = 20", "rounds = 100000"),
        ("minimum = 3 ", 'names = ["cleveland"]\nminimum = 1 '),
        ('"heart-disease"', '"many-rounds"'),
    ):
        text = text.replace(old, new)
    text = re.sub("question = .*", lambda _: EVIL, text)
    begin(ada, "many-rounds", text + '[privacy]\nsecure_aggregation = false\nwhy_not_secure = "a test of one hospital"\n')
    digest = submit(ada)
    open_request(vogt, digest)
    vogt.sees("in the clear: the coordinator sees this site's sums")
    vogt.press("Approve")
    ada.page.goto(f"/studies/{digest}/live")
    heading = ada.page.get_by_role("heading", level=1)
    ada.press("Pause")
    expect(heading).to_contain_text("paused")
    ada.press("Resume")
    expect(heading).to_contain_text("running")
    worker = vogt.page.get_by_role("row", name=re.compile("^worker .* many-rounds"))
    vogt.page.goto("/machine")
    expect(worker).to_be_visible()
    vogt.look(picture="console-machine")
    vogt.page.goto(f"/requests/{digest}")
    vogt.page.locator("#withdrawal").fill("A patient group has objected.")
    vogt.press("Withdraw")
    vogt.sees("Withdrawn. Nothing of this study runs here any more.")
    vogt.page.goto("/machine")
    expect(vogt.page.get_by_text("connected").first).to_be_visible()
    assert worker.count() == 0
    expect(heading).to_contain_text("paused")
    ada.page.goto(f"/studies/{digest}")
    ada.sees("A patient group has objected.")
    ada.page.goto(f"/studies/{digest}/stop")
    ada.page.get_by_label("Reason").fill("It was a test.")
    ada.press("Stop for good")
    expect(heading).to_contain_text("stopped")
    assert ada.page.title() == "many-rounds · AIMER2", "a text of the study was run"


def verify_logs(world: World) -> None:
    """The auditor's page has checked the log; the file that it hands out holds for the command too, beside a hospital's own from its console."""
    otto, vogt = world.people["otto"], world.people["cleveland"]
    otto.look("/audit", "audit")
    otto.sees("The log holds")
    key = otto.page.locator("main p.quiet code").first.inner_text()
    log = otto.take_home("Download the log", world.folder / "coordinator.jsonl")
    vogt.look("/audit?verify=yes", "console-audit")
    own = vogt.take_home("Export", world.folder / "cleveland.jsonl")
    keys = (world.federation.site("cleveland") / "public-keys.txt").read_text().split()
    given = [word for one in (key, keys[-1]) for word in ("--key", one)]
    told = world.federation.command("audit", "verify", str(log), str(own), *given, "--json")
    assert json.loads(told)["intact"], told


def read_logs(world: World) -> None:
    """Each decision has been recorded in its order, and no password anywhere."""
    for name, wanted in (
        ("cleveland", ("study-approved", "study-withdrawn")),
        ("budapest", ("study-refused", "study-checked", "study-rehearsed", "study-approved")),
    ):
        lines = (world.federation.site(name) / "audit.jsonl").read_text().splitlines()
        kinds = [json.loads(line)["kind"] for line in lines]
        order = [kinds.index(kind) for kind in wanted]
        assert order == sorted(order), name
        assert PASSWORD not in world.federation.log(f"{name}-console").read_text()


def look_at_the_rest(world: World, digest: str, private: str) -> None:
    """Every page that the story has not come by, and how all of them are without a mouse, without scripts, on a telephone, in a frame."""
    ada, vogt, olga = (world.people[name] for name in ("ada", "cleveland", "olga"))
    ada.page.goto("/account")
    ada.fill(What_it_is_for="nightly")
    ada.press("Make a token")
    secret = ada.page.locator(".notice code")
    check_charges(world, secret.inner_text(), private)
    secret.evaluate("one => { one.textContent = one.textContent.slice(0, 12) + '…' }")
    ada.look(picture="account")
    pictured = {"/privacy": "privacy", f"/studies/{private}/leaves": "leaves"}
    for path in pages_of(digest, private):
        if path not in ada.looked_at:
            ada.look(path, pictured.get(path, ""))
        else:
            ada.page.goto(path)
        assert ada.fits_a_telephone(), path
    ada.page.goto("/sites/cleveland")
    ada.page.get_by_text("11 columns").click()
    expect(ada.page.get_by_role("rowheader", name="cholesterol")).to_be_visible()
    ada.look(picture="site")
    olga.look("/consortium", "consortium")
    world.people["otto"].look("/people")
    reports = {f"/reports/{digest}": "console-report"}
    for path in ("/datasets", "/budgets", "/reports", *reports, "/models", "/policy", "/people"):
        vogt.look(path, reports.get(path, ""))
    vogt.page.goto(f"/reports/{digest}")
    expect(vogt.page.get_by_role("rowheader", name="auc")).to_be_visible()
    use_the_keyboard(ada.page, f"/studies/{digest}/results")
    context = world.browser.new_context(
        ignore_https_errors=True, base_url=world.federation.url, storage_state=ada.context.storage_state(), java_script_enabled=False
    )
    still = context.new_page()
    still.goto(f"/studies/{digest}/live")
    expect(still.locator("#live-sites tbody tr")).to_have_count(len(FILES))
    expect(still.locator("#live-curves svg").first).to_be_visible()
    context.close()
    frame(world, ada, f"/studies/{digest}/stop")


def check_charges(world: World, token: str, private: str) -> None:
    """What the page says, a script is told too, by the token that was made on a page."""
    pin = Invitation.from_text(world.invitations["budapest"])
    client = Coordinator(world.federation.url, token=token, fingerprint=pin.fingerprint, key=pin.coordinator_key)
    told = client.spending(private)
    assert [one.site for one in told] == sorted(FILES)
    assert all(0.75 < one.epsilon <= 1.5 and one.tasks >= 1 for one in told), "all that the plan may cost, and no more"


def pages_of(digest: str, private: str) -> list[str]:
    ends = ("", "/people", "/live", "/rounds", "/leaves", "/code", "/results", f"/compare?with={private}", "/stop")
    general = ("/", "/studies", "/sites", "/sites/cleveland", "/models", f"/models/{digest}", "/privacy", "/drafts", "/consortium", "/account")
    return [*general, f"/studies/{private}/leaves", *(f"/studies/{digest}{end}" for end in ends)]


def use_the_keyboard(page: Page, results: str) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
    page.goto(results)
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("details[open] table").first).to_be_visible()


def frame(world: World, ada: Visitor, path: str) -> None:
    """No other page can frame one, even where its visitor is logged in."""
    context = world.browser.new_context(ignore_https_errors=True, storage_state=ada.context.storage_state())
    page = context.new_page()
    page.set_content(f'<iframe src="{world.federation.url}{path}"></iframe>')
    expect(page.frame_locator("iframe").locator("body")).to_be_attached()
    assert page.frames[1].locator("form").count() == 0
    page.goto(f"{world.federation.url}/nowhere")
    assert barriers(page) == []
    context.close()
