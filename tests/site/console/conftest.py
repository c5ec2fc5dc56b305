"""A site with a data set and a study that asks for it, and its console as a browser without a screen meets it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from aimer2.audit.log import AuditLog
from aimer2.blobs.folder import FolderStore
from aimer2.core.clock import SystemClock
from aimer2.core.study import Study
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import digest
from aimer2.site.console.accounts import Accounts
from aimer2.site.console.app import build_app
from aimer2.site.console.console import Console
from aimer2.site.datasets import Datasets, DatasetSettings
from aimer2.site.folder import SiteFolder
from aimer2.site.performing import lay_out
from aimer2.site.settings import CoordinatorAddress, Retention, first_settings
from aimer2.site.store import Store
from aimer2.study.pack import pack

HOST = "127.0.0.1:8444"
BASE = f"http://{HOST}"
PASSWORD = "correct horse battery"
PEOPLE = (("vogt", "Dr Ines Vogt", "data-protection-officer"), ("roth", "Jan Roth", "administrator"), ("cole", "Ann Cole", "auditor"))
STUDY: dict[str, Any] = {
    "name": "ages",
    "question": "Does age tell who has the disease?",
    "purpose": "a test",
    "ethics": "none needed",
    "principal_investigator": "Dr Ada Test",
    "expires": "2099-01-01",
    "cohort": {"dataset": "registry", "features": [{"name": "age"}], "target": {"name": "disease"}},
    "model": {"framework": "numpy", "name": "logistic"},
    "method": {"name": "fedavg", "rounds": 3},
    "training": {"local_steps": 2},
    "sites": {"minimum": 1},
    "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
}


class Clock:
    """The machine's, moved by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._true = SystemClock()

    def now(self) -> float:
        return self._true.now() + self.ahead

    def monotonic(self) -> float:
        return self._true.monotonic() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path, clock: Clock) -> SiteFolder:
    place = SiteFolder(tmp_path / "site")
    place.path.mkdir(mode=0o700)
    key = SigningKey.generate()
    key.save(place.key)
    place.public_keys.write_text(key.public.text + "\n")
    place.split_key.write_text("00" * 32)
    place.settings.write_text(first_settings("north", CoordinatorAddress(url="https://127.0.0.1:1", name="Test", key=key.public.text)))
    ages = np.random.default_rng(4).normal(60, 10, 80)
    (tmp_path / "registry.csv").write_text("\n".join(["patient,age,disease", *(f"p{n},{age},{int(age > 60)}" for n, age in enumerate(ages))]))
    datasets = Datasets(place, AuditLog(place.audit, key, clock), clock, Retention(), "Test")
    settings = DatasetSettings(name="registry", kind="csv", source={"path": str(tmp_path / "registry.csv")})
    datasets.add(settings, 'patient = "patient"\n[columns.age]\n[columns.disease]\n')
    datasets.refresh("registry")
    return place


def offer(
    folder: SiteFolder, blobs: Path, *, code: str | None = None, roster: dict[str, str] | None = None, supersedes: str | None = None, **changes: Any
) -> str:
    """A study arrives, as the agent lays it out; its digest. ``changes``: of its fields, None for one that it lacks."""
    study = Study.model_validate({name: value for name, value in (STUDY | changes).items() if value is not None})
    named = roster or {"north": SigningKey.load(folder.key).public.text}
    store = FolderStore(blobs)
    package = pack(study, blobs, named, store)
    package = package.model_copy(update={"supersedes": supersedes})
    if code is not None:
        package = package.model_copy(update={"files": {"model.py": store.put(code.encode())[0]}})
    known = Store(folder.state)
    known.note_study(digest(package), "offered", SystemClock().now())
    known.keep_package(digest(package), package)
    known.close()
    lay_out(folder.study(digest(package)), package, store)
    return digest(package)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """One account of each role, logged in: passwords are slow on purpose, so this is done once. The file, and the sessions' secrets."""
    place = SiteFolder(tmp_path_factory.mktemp("people"))
    key, clock = SigningKey.generate(), SystemClock()
    accounts = Accounts(place.console, AuditLog(place.audit, key, clock), clock)
    for login, name, role in PEOPLE:
        accounts.accept(accounts.add(login, name, [role], by="Test"), PASSWORD)
    return place.console, {login: accounts.log_in(login, PASSWORD) for login, _, _ in PEOPLE}


@pytest.fixture
def console(folder: SiteFolder, clock: Clock, people: tuple[Path, dict[str, str]]) -> Iterator[Console]:
    shutil.copy(people[0], folder.console)
    made = Console(folder, clock)
    yield made
    made.work.close()


@pytest.fixture
def entered(console: Console, people: tuple[Path, dict[str, str]]) -> Callable[[str], TestClient]:
    """A browser in which one of the people has logged in."""

    def enter(login: str) -> TestClient:
        client = browser(console)
        client.cookies.set(console.cookie, people[1][login])
        return client

    return enter


def browser(console: Console) -> TestClient:
    return TestClient(build_app(console), base_url=BASE, follow_redirects=False)


def log_in(console: Console, login: str) -> TestClient:
    """A browser in which somebody has logged in."""
    client = browser(console)
    done = client.post("/log-in", data={"login": login, "password": PASSWORD, "back": "/"})
    assert done.status_code == 303, done.text
    return client


def token(client: TestClient, path: str = "/") -> str:
    """Of a form of this session."""
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', client.get(path).text)
    assert found is not None
    return found[1]


def send(client: TestClient, path: str, /, page: str = "/", **fields: str) -> Any:
    """A form, as a browser sends it from one of the console's pages."""
    return client.post(path, data={"csrf": token(client, page), **fields}, headers={"Origin": BASE, "Sec-Fetch-Site": "same-origin"})


@pytest.fixture
def officer(entered: Callable[[str], TestClient]) -> TestClient:
    return entered("vogt")
