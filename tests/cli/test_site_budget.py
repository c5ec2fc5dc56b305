"""The ledger's commands, as two people at a hospital give them."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from aimer2.audit.log import AuditLog
from aimer2.core.clock import SystemClock
from aimer2.identity.keys import SigningKey
from aimer2.privacy.accounting import epsilon, gaussian
from aimer2.site.balance import ceiling
from aimer2.site.folder import SiteFolder
from aimer2.site.ledger import Ledger, Ledgers
from aimer2.site.settings import CoordinatorAddress, first_settings

STUDY = "4f" * 32
TERMS = ("--epsilon", "3", "--delta", "1e-5")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any) -> SiteFolder:
    """A site with `heart` and its women, without a coordinator."""
    made = SiteFolder(tmp_path / "site")
    made.path.mkdir()
    key = SigningKey.generate()
    key.save(made.key)
    made.public_keys.write_text(key.public.text + "\n")
    made.split_key.write_text(secrets.token_hex(32))
    address = CoordinatorAddress(url="https://127.0.0.1:1", name="Test", key=key.public.text)
    made.settings.write_text(first_settings("north", address))
    monkeypatch.setenv("AIMER2_SITE", str(made.path))
    for name, step in (("heart", 1), ("women", 2)):
        rows = (f"p{number},{40 + number % 30}" for number in range(0, 200, step))
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,age", *rows]) + "\n")
        assert command("site", "dataset", "add", name, "--csv", tmp_path / f"{name}.csv", "--patient", "id").status == 0
    return made


def ledger_of(folder: SiteFolder) -> Ledger:
    key = SigningKey.load(folder.key)
    return Ledgers(folder, key, AuditLog(folder.audit, key, SystemClock()), SystemClock()).of("heart")


def test_two_people_set_a_budget_and_everybody_sees_who(folder: SiteFolder, command: Any) -> None:
    told = command("site", "budget", "set", "heart", *TERMS, "--by", "Dr Ada")
    assert "not in force yet" in told.out
    assert "Dr Ada proposed ε = 3.00 at δ = 1e-05" in command("site", "budget", "show").out
    again = told.out.split("aimer2 ")[1].strip().replace('"NAME"', "Dr_Ada").split()
    assert command(*again).status == 4
    assert "from now on" in command(*[word.replace("Ada", "Bea") for word in again]).out
    shown = json.loads(command("site", "budget", "show", "heart", "--json").out)[0]
    assert (shown["budget"], shown["set_by"], shown["proposed"]) == ({"epsilon": 3.0, "delta": 1e-5}, ["Dr Ada", "Dr_Bea"], None)


@pytest.fixture
def used(folder: SiteFolder, command: Any) -> SiteFolder:
    command("site", "budget", "set", "heart", *TERMS, "--by", "Dr Ada")
    command("site", "budget", "set", "heart", *TERMS, "--confirm", "--by", "Dr Bea")
    ledger = ledger_of(folder)
    for number in range(2):
        ledger.reserve(STUDY, f"task-{number}", 1, gaussian(4))
    ledger.commit(STUDY, "task-0", 1)
    return folder


def test_what_is_spent_and_by_whom(used: SiteFolder, command: Any) -> None:
    told = command("site", "budget", "show", "heart").out.splitlines()[1].split()
    assert told[:6] == ["heart", "3.00", "1e-05", ceiling(epsilon([gaussian(4, 2)], 1e-5)), "1", "task"]
    assert "4f4f4f4f4f4f (2 tasks)" in " ".join(told)
    shown = json.loads(command("site", "budget", "show", "--json").out)[0]
    assert (shown["spent"], shown["reserved"], shown["studies"]) == (epsilon([gaussian(4, 2)], 1e-5), 1, {STUDY: 2})


def test_the_history_says_who_when_and_which_study(used: SiteFolder, command: Any) -> None:
    lines = command("site", "budget", "history", "heart").out.splitlines()
    assert [line.split()[1] for line in lines] == ["budget-proposed", "budget-set", "privacy-reserved", "privacy-reserved", "privacy-spent"]
    assert "by Dr Ada and Dr Bea" in lines[1]
    assert lines[2].split()[3:5] == ["4f4f4f4f4f4f", "task-0/1:"]
    assert f"1 × gaussian (noise_multiplier 4); ε {ceiling(epsilon([gaussian(4)], 1e-5))}" in lines[2]
    entries = json.loads(command("site", "budget", "history", "heart", "--json").out)
    assert [(entry["sequence"], entry["actor"], entry["study"]) for entry in entries[1:3]] == [(2, "Dr Bea", None), (3, "agent", STUDY)]


def test_the_verification_tells_which_ledger_was_cut(used: SiteFolder, command: Any) -> None:
    assert "heart: 5 entries, unbroken" in command("site", "budget", "verify").out
    lines = used.ledger("heart").read_bytes().splitlines(keepends=True)
    used.ledger("heart").write_bytes(b"".join(lines[:2]))
    told = command("site", "budget", "verify")
    assert (told.status, "heart: line 0: cut-off" in told.out) == (4, True)
    used.ledger("heart").write_bytes(b"".join(lines))
    used.audit.write_bytes(used.audit.read_bytes().replace(b'"heart"', b'"h3art"'))
    assert "audit log: line" in command("site", "budget", "verify").out


def test_the_doctor_looks_at_ledgers(used: SiteFolder, command: Any) -> None:
    told = " ".join(command("site", "doctor").out.split())
    assert f"Privacy ledger heart ε {ceiling(epsilon([gaussian(4, 2)], 1e-5))} spent" in told
    used.ledger("heart").unlink()
    assert "✗ Privacy ledger heart There is no ledger" in " ".join(command("site", "doctor").out.split())


def test_patients_of_another_data_set_have_no_second_budget(used: SiteFolder, command: Any) -> None:
    told = command("site", "budget", "set", "women", *TERMS, "--by", "Dr Ada")
    assert (told.status, "100 patients of 'women' are in 'heart', too" in told.err) == (4, True)
    for confirm, by in (((), "Dr Ada"), (("--confirm",), "Dr Bea")):
        assert command("site", "budget", "set", "women", "--share", "heart", *confirm, "--by", by).status == 0
    assert "under 'heart'" in command("site", "budget", "show", "women").out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("set", "heart", "--epsilon", "3", "--delta", "1e-3", "--by", "Dr Ada"), "Give --delta 0.0001 or less."),
        (("set", "heart", "--epsilon", "3", "--by", "Dr Ada"), "give --epsilon and --delta"),
        (("set", "lung", *TERMS, "--by", "Dr Ada"), "no data set 'lung'"),
        (("set", "women", *TERMS, "--share", "heart", "--by", "Dr Ada"), "give --share alone"),
        (("set", "women", "--share", "heart", "--by", "Dr Ada"), "no budget of its own"),
        (("show", "lung"), "there is: heart, women"),
        (("history", "heart"), "Nothing was ever set or spent"),
    ],
)
def test_what_cannot_be_is_said_with_the_remedy(arguments: tuple[str, ...], told: str, folder: SiteFolder, command: Any) -> None:
    outcome = command("site", "budget", *arguments)
    assert outcome.status in (2, 4)
    assert told in outcome.err


def test_where_no_budget_is_set_that_is_said(folder: SiteFolder, command: Any) -> None:
    assert "whatever would be charged is refused" in command("site", "budget", "show").out
