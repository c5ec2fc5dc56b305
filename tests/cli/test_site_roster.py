"""Three hospitals that do not know each other, at a real coordinator, verify each other's keys."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.audit.kinds import Kind
from aimer2.cli.federation import Federation, Hospital
from aimer2.cli.site_options import open_decisions
from aimer2.core.study import read_study
from aimer2.messages.package import digest
from aimer2.site.decisions import Decisions
from aimer2.site.folder import SiteFolder

NAMES = ("east", "north", "west")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("strangers")
    rng = np.random.default_rng(1)
    rows = [f"{float(a)!r},{int(a > 0)}" for a in rng.normal(size=40)]
    (folder / "rows.csv").write_text("\n".join(["age,disease", *rows]) + "\n")
    with Federation(folder) as made:
        made.make_coordinator("Test coordinator")
        made.run_coordinator()
        made.make_sites([Hospital(name, folder / "rows.csv", "[columns.age]\n[columns.disease]\n", "") for name in NAMES], strangers=True)
        for name in NAMES:
            made.run_site(name)
        yield made


Site = Callable[..., Any]


@pytest.fixture
def at(strangers: Federation, command: Any) -> Site:
    """Gives a command of `aimer2 site` at one hospital."""
    return lambda name, *arguments: command("site", *arguments, "--folder", strangers.site(name))


def decisions_of(strangers: Federation, name: str) -> Decisions:
    return open_decisions(SiteFolder(strangers.site(name)))


def fingerprint_of(told: str, name: str) -> str:
    found = re.search(rf"^{name} +((?:\d{{5}} ?){{8}})", told, re.MULTILINE)
    assert found is not None, told
    return found[1].strip()


def has_package(decisions: Decisions, study: str) -> bool:
    known = decisions.store.study(study)
    return known is not None and known.package is not None


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def offered(strangers: Federation, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a study that all three were offered."""
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(STUDY)
    submitted = strangers.researcher().submit(read_study(path), path.parent)
    for name in NAMES:
        decisions = decisions_of(strangers, name)
        wait_for(partial(has_package, decisions, submitted.digest))
        decisions.store.close()
    return submitted.digest


STUDY = """\
name = "heart"
question = "Does age tell who has the disease?"
purpose = "test of the command"
ethics = "none needed, synthetic"
principal_investigator = "Dr Ada Test"
expires = 2099-01-01
cohort.dataset = "registry"
cohort.features = [{ name = "age" }]
cohort.target = { name = "disease" }
model = { framework = "numpy", name = "logistic" }
training.local_steps = 2
method = { name = "fedavg", rounds = 2 }
sites.names = ["east", "north", "west"]
"""


def test_three_hospitals_verify_each_other_and_then_approve(at: Site, strangers: Federation, offered: str, tmp_path: Path) -> None:
    study = offered[:12]
    shown = at("north", "roster", "show", study).out
    assert len(re.findall("NOT VERIFIED", shown)) == 2 and re.search(r"^north .* this site$", shown, re.MULTILINE)
    own = {name: fingerprint_of(at(name, "roster", "show").out, name) for name in NAMES}
    assert {name: fingerprint_of(shown, name) for name in NAMES} == own

    wrong = own["east"][:-1] + str((int(own["east"][-1]) + 1) % 10)
    refused = at("north", "roster", "verify", "east", *wrong.split(), "--by", "Dr Ines Vogt")
    assert refused.status == 4 and "not the fingerprint" in refused.err and "[tampered]" in refused.err
    assert at("north", "roster", "verify", "east", "12345", "--by", "Dr Ines Vogt").status == 2
    assert at("north", "roster", "verify", "south", own["east"], "--by", "Dr Ines Vogt").status == 4
    assert "No other site's key is verified" in at("north", "roster", "show").out

    unable = at("north", "approve", study, "--by", "Dr Ines Vogt")
    assert unable.status == 3 and "2 of 3 keys" in unable.err and "[not-verified]" in unable.err
    commands = re.findall("aimer2 site roster verify (.*) FINGERPRINT --by 'Dr Ines Vogt'", unable.err)
    assert commands == ["east", "west"]
    assert "keys not verified: east, west" in " ".join(at("north", "requests").out.split())

    verified = at("north", "roster", "verify", "east", *own["east"].split(), "--by", "Dr Ines Vogt")
    assert verified.status == 0 and re.search("verified by Dr Ines Vogt, by telephone, 20..-..-..", verified.out)
    assert "1 of 3 keys" in at("north", "approve", study, "--by", "Dr Ines Vogt").err

    assert at("east", "roster", "verify", "west", own["west"], "--by", "Dr East", "--how", "in-person").status == 0
    statement = tmp_path / "east.statement"
    assert at("east", "roster", "sign", "--out", statement, "--by", "Dr East").status == 0
    assert at("east", "roster", "sign", "--out", statement, "--by", "Dr East").status == 2, "no file is written over"
    taken = at("north", "roster", "verify", "east", "--statement", statement, "--by", "Dr Ines Vogt")
    assert taken.status == 0 and fingerprint_of(taken.out, "west") == own["west"] and "through a statement of 'east'" in taken.out
    alien = at("west", "roster", "verify", "east", "--statement", statement, "--by", "Dr West")
    assert alien.status == 3 and "[not-verified]" in alien.err

    assert "Every key is verified here" in at("north", "roster", "show", study).out
    assert at("north", "approve", study, "--by", "Dr Ines Vogt").status == 0
    decisions = decisions_of(strangers, "north")
    decision = decisions.store.decision(offered)
    assert decision is not None and decision.roster is not None
    counted = [entry.kind for entry in decisions.audit.read(kinds={Kind.ROSTER_KEY_VERIFIED, Kind.ROSTER_KEY_REFUSED})]
    assert counted == [Kind.ROSTER_KEY_REFUSED, Kind.ROSTER_KEY_VERIFIED, Kind.ROSTER_KEY_VERIFIED]
    assert "unbroken" in at("north", "audit", "verify").out
    decisions.store.close()

    assert at("east", "roster", "verify", "north", own["north"], "--by", "Dr East").status == 0
    for other in ("east", "north"):
        assert at("west", "roster", "verify", other, own[other], "--by", "Dr West").status == 0
    for name in ("east", "west"):
        assert at(name, "approve", study, "--by", f"Dr {name.title()}").status == 0
    researcher = strangers.researcher()
    wait_for(lambda: researcher.study(offered).state not in ("offered", "running"))
    assert researcher.study(offered).state == "finished"


def test_a_changed_key_is_loud_and_the_doctor_finds_it(at: Site, strangers: Federation, offered: str) -> None:
    name = "west"
    decisions = decisions_of(strangers, name)
    package = decisions.find(offered).package
    assert package is not None
    keys = dict(package.roster) | {"north": package.roster["east"], "east": package.roster["north"]}
    forged = package.model_copy(update={"roster": keys})
    decisions.store.note_study(digest(forged), "running", time.time())
    decisions.store.keep_package(digest(forged), forged)
    decisions.store.close()
    shown = at(name, "roster", "show", digest(forged)[:12]).out
    assert len(re.findall(r"CHANGED: not the key that was verified by Dr West", shown)) == 2 and "2 of 3 keys are not verified" in shown
    assert at(name, "approve", digest(forged)[:12], "--by", "Dr West").status == 3
    told = " ".join(at(name, "doctor").out.split())
    assert "Roster" in told and "roster show" in told

    removed = at(name, "roster", "remove", "east", "--by", "Dr West", "--reason", "its laptop was stolen")
    assert removed.out == "No longer verified here: east\n"
    assert "NOT VERIFIED" in at(name, "roster", "show", offered[:12]).out
    assert at(name, "roster", "remove", "east", "--by", "Dr West", "--reason", "again").status == 4


def test_two_sites_meet_by_statement_and_telephone_before_any_study(at: Site, strangers: Federation, tmp_path: Path) -> None:
    statement = tmp_path / "north.statement"
    told = at("north", "roster", "sign", "--out", statement, "--by", "Dr Ines Vogt").out
    assert stat.S_ISREG(statement.stat().st_mode)
    decisions = decisions_of(strangers, "north")
    fingerprint = decisions.key.public.fingerprint
    decisions.store.close()
    assert fingerprint in told
    wrong = fingerprint[::-1]
    refused = at("east", "roster", "verify", "north", wrong, "--statement", statement, "--by", "Dr East")
    assert refused.status == 4
    met = at("east", "roster", "verify", "north", fingerprint, "--statement", statement, "--by", "Dr East")
    assert met.status == 0 and fingerprint in met.out
    assert at("east", "roster", "verify", "west", fingerprint, "--statement", statement, "--by", "Dr East").status == 2


def test_sites_that_one_person_makes_know_each_other(strangers: Federation) -> None:
    """Last: it makes an end of their being strangers."""
    strangers.introduce_sites(NAMES)
    opened = [decisions_of(strangers, name) for name in NAMES]
    roster = {each.site: each.key.public.text for each in opened}
    assert [each.address_book.unverified(roster) for each in opened] == [(), (), ()]
    for each in opened:
        each.store.close()
