"""The whole story in browsers, over real processes: from a coordinator that knows no hospital to the record that checks itself.

With AIMER2_PICTURES=docs/images it takes the pictures of the documentation anew (`make pictures`).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from tests.end_to_end.enrolling import EXAMPLE, FILES, World, a_world, add_data, invite_and_enrol, meet
from tests.end_to_end.visitors import PASSWORD, SECONDS, Visitor, begin, decide, open_request, save, submit

DOCS = Path(__file__).parents[2] / "docs"
PURPOSE = "Shows whether ten findings spare an angiography: a teaching example on public data."
SECOND = 'name = "fedprox"\nparameters = { mu = 0.1 }'


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
    nagy.page.goto(f"/requests/{digest}")
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
    kinds = [json.loads(line)["kind"] for line in (world.federation.site("budapest") / "audit.jsonl").read_text().splitlines()]
    order = [kinds.index(kind) for kind in ("study-refused", "study-checked", "study-rehearsed", "study-approved")]
    assert order == sorted(order)
    assert all(PASSWORD not in world.federation.log(f"{name}-console").read_text() for name in ("cleveland", "budapest"))
