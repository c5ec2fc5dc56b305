"""What the site tells of itself: all that was charged whatever was decided since, and each take-back whatever stands in the way."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.site.console.conftest import Clock, offer

from aimer2.audit.kinds import Kind
from aimer2.core.errors import AimerError, ClockSkew, Conflict, NotAuthenticated, NotFound, Unreachable
from aimer2.identity.base64url import decode
from aimer2.privacy.accounting import Spent, epsilon, gaussian
from aimer2.site.balance import Budget
from aimer2.site.console.accounts import Accounts
from aimer2.site.console.console import Console
from aimer2.site.control import serve_control
from aimer2.site.datasets import Datasets
from aimer2.site.decisions import Decisions, open_decisions
from aimer2.site.folder import SiteFolder
from aimer2.site.freeze import coordinator_said, freeze
from aimer2.site.ledger import Ledger, Ledgers
from aimer2.site.restored import recover, require_whole
from aimer2.site.settings import Retention
from aimer2.site.telling import Telling

PRIVATE: dict[str, Any] = {
    "model": None,
    "method": None,
    "training": None,
    "analyses": [{"name": "who", "method": "private_describe", "formula": "~ age"}],
    "cohort": {"dataset": "registry", "minimum_patients": 10, "features": [{"name": "age", "minimum": 18, "maximum": 98}]},
    "privacy": {"secure_aggregation": False, "why_not_secure": "a test", "differential_privacy": {"epsilon": 2, "delta": 1e-5}},
}


class Line:
    """The way to a coordinator: what arrived, and what becomes of each statement on it."""

    def __init__(self, fate: Callable[[dict[str, Any]], AimerError | None] = lambda said: None) -> None:
        self.fate = fate
        self.arrived: list[dict[str, Any]] = []

    def tell(self, path: str, statement: str) -> None:
        said = json.loads(decode(statement.split(".")[1]))
        if error := self.fate(said):
            raise error
        self.arrived.append(said)


@pytest.fixture
def decisions(folder: SiteFolder, clock: Clock) -> Decisions:
    return open_decisions(folder, clock)


@pytest.fixture
def datasets(decisions: Decisions) -> Datasets:
    return Datasets(decisions.folder, decisions.audit, decisions.clock, Retention(), "Dr Ines Vogt")


@pytest.fixture
def telling(decisions: Decisions, console: Console) -> Callable[[Line], Telling]:
    """As a new start of the agent makes it."""
    return lambda line: Telling(decisions, console.settings, line)  # type: ignore[arg-type]


def publish(datasets: Datasets, name: str) -> None:
    datasets.publish(name, datasets.describe_for_others(name).digest)


def another(folder: SiteFolder, name: str) -> None:
    shutil.copytree(folder.dataset("registry"), folder.dataset(name))


def budgeted(decisions: Decisions, name: str) -> Ledger:
    ledger = Ledgers(decisions.folder, decisions.key, decisions.audit, decisions.clock).of(name)
    assert not ledger.propose(Budget(9.0, 1e-5), by="Dr Ada Test")
    ledger.confirm(Budget(9.0, 1e-5), by="Bea Roth")
    return ledger


def charge(ledger: Ledger, study: str, task: str, spent: Spent) -> None:
    ledger.reserve(study, task, 1, spent)
    ledger.commit(study, task, 1)


def test_what_was_charged_is_told_whatever_was_decided_since(
    decisions: Decisions, telling: Callable[[Line], Telling], folder: SiteFolder, tmp_path: Path
) -> None:
    study, line = offer(folder, tmp_path / "b", **PRIVATE), Line()
    another(folder, "second")
    first, second, agent = budgeted(decisions, "registry"), budgeted(decisions, "second"), telling(line)
    decisions.approve(study, by="Dr Ines Vogt")
    charge(first, study, "t1", gaussian(4.0))
    charge(first, "0" * 64, "t1", gaussian(2.0))
    agent.tell()
    charge(first, study, "t2", gaussian(4.0))
    decisions.withdraw(study, by="Dr Ines Vogt")
    agent.tell()
    decisions.approve(study, by="Dr Ines Vogt", dataset="second")
    charge(second, study, "t3", gaussian(40.0))
    agent.tell()
    agent.tell()
    expected = [(1, [gaussian(4.0)]), (2, [gaussian(4.0)] * 2), (3, [gaussian(4.0), gaussian(4.0), gaussian(40.0)])]
    assert [(said["tasks"], said["epsilon"]) for said in line.arrived] == [(n, pytest.approx(epsilon(all_of, 1e-5))) for n, all_of in expected]
    # Its end, at which the hospital has withdrawn again, and a new start of the agent.
    decisions.withdraw(study, by="Dr Ines Vogt")
    decisions.store.note_study(study, "finished", decisions.clock.now())
    telling(line).tell()
    assert (line.arrived[-1]["tasks"], line.arrived[-1]["epsilon"]) == (3, line.arrived[-2]["epsilon"])


def test_what_was_read_and_has_not_changed_is_not_read_again(
    decisions: Decisions,
    datasets: Datasets,
    telling: Callable[[Line], Telling],
    folder: SiteFolder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All of it is spoilt behind the agent's back: whoever read it again would have a problem to log."""
    first, line = offer(folder, tmp_path / "b", **PRIVATE), Line()
    offer(folder, tmp_path / "plain")
    another(folder, "second")
    ledger, agent = budgeted(decisions, "registry"), telling(line)
    decisions.approve(first, by="Dr Ines Vogt")
    charge(ledger, first, "t1", gaussian(4.0))
    publish(datasets, "registry")
    agent.tell()
    new = offer(folder, tmp_path / "c", question="Is that so elsewhere?", **PRIVATE)
    decisions.approve(new, by="Dr Ines Vogt")
    with closing(sqlite3.connect(folder.state)) as database, database:
        database.execute("UPDATE studies SET package = 'spoilt' WHERE digest != ?", (new,))
        database.execute("UPDATE decisions SET document = 'spoilt' WHERE study != ?", (new,))
    file = folder.published("registry")
    before = file.stat()
    file.write_bytes(b"x" * before.st_size)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    charge(ledger, first, "t2", gaussian(4.0))
    charge(ledger, new, "t1", gaussian(2.0))
    publish(datasets, "second")
    agent.tell()
    told = [(said.get("study"), said.get("tasks"), said.get("dataset")) for said in line.arrived]
    assert told[:2] == [(first, 1, None), (None, None, "registry")]
    assert told[2:] == [(first, 2, None), (new, 1, None), (None, None, "second")] and not caplog.records
    publish(datasets, "registry")
    agent.tell()
    assert [said["dataset"] for said in line.arrived[5:]] == ["registry"]


@pytest.mark.parametrize("whose", ["site", "coordinator"])
def test_a_take_back_is_told_during_a_freeze_and_nothing_else(
    whose: str, decisions: Decisions, datasets: Datasets, telling: Callable[[Line], Telling], folder: SiteFolder
) -> None:
    another(folder, "second")
    line = Line()
    agent = telling(line)
    publish(datasets, "registry")
    agent.tell()
    if whose == "site":
        freeze(decisions, by="Dr Ines Vogt", reason="an incident")
    else:
        assert coordinator_said(decisions, "Ann Ops: an incident")
    publish(datasets, "second")
    assert not datasets.take_back("registry"), "no agent runs that was told of it"
    agent.tell()
    assert [(said["dataset"], said["published"]) for said in line.arrived] == [("registry", True), ("registry", False)]


def test_one_statement_that_does_not_get_through_keeps_back_no_other(
    datasets: Datasets, telling: Callable[[Line], Telling], folder: SiteFolder
) -> None:
    for name in ("aaa", "zzz"):
        another(folder, name)
    for name in ("aaa", "registry", "zzz"):
        publish(datasets, name)
    line = Line(lambda said: Unreachable(said["dataset"]) if said["dataset"] in ("aaa", "registry") else None)
    agent = telling(line)
    for _ in range(2):
        with pytest.raises(Unreachable, match="aaa"):
            agent.tell()
    assert [said["dataset"] for said in line.arrived] == ["zzz"]
    line.fate = lambda said: None
    agent.tell()
    assert [said["dataset"] for said in line.arrived] == ["zzz", "aaa", "registry"]


@pytest.mark.parametrize("refused", [Conflict, ClockSkew])
def test_what_a_clock_that_was_ahead_has_dated_is_told_by_the_clock_of_now(
    refused: type[AimerError], datasets: Datasets, telling: Callable[[Line], Telling], clock: Clock
) -> None:
    publish(datasets, "registry")
    clock.ahead = -3600.0
    now = clock.now()
    line = Line(lambda said: refused() if said["time"] > now + 60 else None)
    agent = telling(line)
    agent.tell()
    agent.tell()
    assert [(said["dataset"], said["published"], said["time"] == pytest.approx(now, abs=30)) for said in line.arrived] == [("registry", True, True)]


@pytest.mark.parametrize("then", ["take back", "publish less"])
def test_what_was_put_back_from_a_backup_is_not_dated_anew(
    then: str, datasets: Datasets, telling: Callable[[Line], Telling], folder: SiteFolder
) -> None:
    """As a coordinator has it, which keeps the later of two statements."""
    line = Line()
    line.fate = lambda said: Conflict() if line.arrived and said["time"] <= line.arrived[-1]["time"] else None
    publish(datasets, "registry")
    file = folder.published("registry")
    kept = file.read_bytes()
    if then == "take back":
        datasets.take_back("registry")
    else:
        publish(datasets, "registry")
    telling(line).tell()
    file.write_bytes(kept)
    telling(line).tell()
    assert [said["published"] for said in line.arrived] == [then != "take back"]


def test_a_description_and_an_account_that_were_ended_stay_so(decisions: Decisions, datasets: Datasets, folder: SiteFolder) -> None:
    accounts = Accounts(folder.console, decisions.audit, decisions.clock)
    accounts.add("jan", "Dr Jan Roth", ["administrator"], by="Dr Ines Vogt")
    publish(datasets, "registry")
    require_whole(decisions)
    kept = {file: file.read_bytes() for file in (folder.published("registry"), folder.console)}
    accounts.remove("jan", by="Dr Ines Vogt")
    datasets.take_back("registry")
    require_whole(decisions)
    for file, content in kept.items():
        file.write_bytes(content)
    with pytest.raises(Conflict, match=r"registry: its description taken back by Dr Ines Vogt.*Account jan of the console: closed"):
        require_whole(decisions)
    assert [one.what for one in recover(decisions, by="Bea Roth")] == ["description", "account"]
    require_whole(decisions)
    assert datasets.published("registry") is None and accounts.people() == []
    accounts.add("jan", "Dr Jan Roth", ["administrator"], by="Dr Ines Vogt")
    publish(datasets, "registry")
    require_whole(decisions)


@pytest.mark.parametrize(
    ("since", "wrong"),
    [
        ("another password", {}),
        ("another password", {"old": 3600.0}),
        ("another password", {"new": 3 * 365 * 86_400.0}),
        ("closed and made anew", {}),
    ],
)
@pytest.mark.parametrize("backup", ["of the old password", "of the link to it"])
def test_a_password_that_was_exchanged_does_not_come_back(
    since: str, wrong: dict[str, float], backup: str, decisions: Decisions, folder: SiteFolder, clock: Clock
) -> None:
    """Whatever the clock said when one of them was chosen; ``wrong``: by how much it was ahead."""
    accounts, old, new = Accounts(folder.console, decisions.audit, decisions.clock), "correct horse battery", "staple of another kind"
    link = accounts.add("jan", "Dr Jan Roth", ["administrator"], by="Dr Ines Vogt")
    before = folder.console.read_bytes()
    clock.ahead = wrong.get("old", 0.0)
    accounts.accept(link, old)
    clock.ahead = wrong.get("new", 0.0)
    kept = folder.console.read_bytes() if backup == "of the old password" else before
    if since == "another password":
        accounts.accept(accounts.link("jan", by="Dr Ines Vogt"), new)
    else:
        accounts.remove("jan", by="Dr Ines Vogt")
        accounts.accept(accounts.add("jan", "Dr Jan Roth", ["administrator"], by="Dr Ines Vogt"), new)
    clock.ahead = 0.0
    require_whole(decisions)
    folder.console.write_bytes(kept)
    with pytest.raises(Conflict, match=r"Account jan of the console: another password chosen by Dr Jan Roth"):
        require_whole(decisions)
    assert [one.what for one in recover(decisions, by="Bea Roth")] == ["password"]
    *_, last = decisions.audit.read()
    assert (last.kind, last.actor, last.details["login"]) == (Kind.PASSWORD_VOIDED, "Bea Roth", "jan")
    require_whole(decisions)
    with pytest.raises(NotAuthenticated):
        accounts.log_in("jan", old)
    with pytest.raises(NotFound):
        accounts.accept(link, old)
    accounts.accept(accounts.link("jan", by="Dr Ines Vogt"), new)
    require_whole(decisions)


def test_a_password_of_an_account_that_was_closed_is_none_of_its_successors(decisions: Decisions, folder: SiteFolder) -> None:
    accounts = Accounts(folder.console, decisions.audit, decisions.clock)
    accounts.accept(accounts.add("jan", "Dr Jan Roth", ["administrator"], by="Dr Ines Vogt"), "correct horse battery")
    kept = folder.console.read_bytes()
    accounts.remove("jan", by="Dr Ines Vogt")
    accounts.add("jan", "Dr Jan Roth", ["administrator"], by="Dr Ines Vogt")
    require_whole(decisions)
    folder.console.write_bytes(kept)
    with pytest.raises(Conflict, match="Account jan of the console: made anew by Dr Ines Vogt"):
        require_whole(decisions)
    recover(decisions, by="Bea Roth")
    require_whole(decisions)
    with pytest.raises(NotAuthenticated):
        accounts.log_in("jan", "correct horse battery")


def test_a_take_back_says_whether_an_agent_has_heard_of_it(datasets: Datasets, folder: SiteFolder) -> None:
    heard: list[dict[str, Any]] = []

    async def command(asked: dict[str, Any]) -> dict[str, Any]:
        heard.append(asked)
        return {}

    async def with_agent() -> bool:
        async with serve_control(folder, command):
            await asyncio.to_thread(publish, datasets, "registry")
            return await asyncio.to_thread(datasets.take_back, "registry")

    assert asyncio.run(with_agent())
    assert heard == [{"command": "tell"}] * 2
