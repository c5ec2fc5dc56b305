"""`aimer2 site rehearse`, as the data-protection officer of a hospital gives it before anybody has decided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.blobs.folder import FolderStore
from aimer2.client.questions import Asked, Terms
from aimer2.core.study import read_study
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import digest
from aimer2.site.folder import SiteFolder
from aimer2.site.performing import lay_out
from aimer2.site.settings import CoordinatorAddress, first_settings
from aimer2.site.store import Store
from aimer2.study.pack import pack


@pytest.fixture
def folder(tmp_path: Path, command: Callable[..., Any]) -> Path:
    """A site with a data set, enrolled somewhere that is not there."""
    place = SiteFolder(tmp_path / "site")
    place.path.mkdir(mode=0o700)
    key = SigningKey.generate()
    key.save(place.key)
    place.public_keys.write_text(key.public.text + "\n")
    place.split_key.write_text("00" * 32)
    place.settings.write_text(first_settings("north", CoordinatorAddress(url="https://127.0.0.1:1", name="Test", key=key.public.text)))
    rng = np.random.default_rng(4)
    ages = rng.normal(60, 10, 80)
    rows = [f"p{number},{age},{int(age > 60)}" for number, age in enumerate(ages)]
    (tmp_path / "registry.csv").write_text("\n".join(["patient,age,disease", *rows]))
    added = command("site", "dataset", "add", "registry", "--csv", tmp_path / "registry.csv", "--patient", "patient", "--folder", place.path)
    assert added.status == 0, added.err
    return place.path


@pytest.fixture
def offered(folder: Path, tmp_path: Path, write_study: Callable[..., Path]) -> str:
    site, blobs = SiteFolder(folder), FolderStore(tmp_path / "blobs")
    package = pack(read_study(write_study("ages")), tmp_path, {"north": SigningKey.generate().public.text}, blobs)
    store = Store(site.state)
    store.note_study(digest(package), "offered", 0)
    store.keep_package(digest(package), package)
    store.close()
    lay_out(site.study(digest(package)), package, blobs)
    return digest(package)


def test_it_says_what_leaks_where_the_page_is_and_what_it_does_not_prove(command: Callable[..., Any], folder: Path, offered: str) -> None:
    done = command("site", "rehearse", offered[:12], "--records", "8", "--by", "Dr Ines Vogt", "--folder", folder)
    assert done.status == 0, done.err
    said = " ".join(done.out.split())
    assert "the coordinator could rebuild almost exactly 8 of 8" in said
    assert "An attack that fails proves little" in said and "It stays here" in said
    assert (folder / "rehearsals" / offered / "report.html").is_file()
    logged = command("site", "audit", "show", "--folder", folder).out
    assert "study-rehearsed" in logged and "Dr Ines Vogt" in logged
    assert "approved" not in command("site", "requests", "--folder", folder).out


def test_a_study_that_is_not_known_ends_with_its_status(command: Callable[..., Any], folder: Path) -> None:
    done = command("site", "rehearse", "abcdef", "--folder", folder)
    assert done.status == 4 and "No study here" in done.err


def test_a_question_has_no_updates_to_attack(command: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    site, blobs = SiteFolder(folder), FolderStore(tmp_path / "blobs")
    question = Asked(method="describe", formula="~ age", dataset="registry", terms=Terms(why_not_secure="a test", minimum_sites=1)).study()
    package = pack(question, tmp_path, {"north": SigningKey.generate().public.text}, blobs)
    store = Store(site.state)
    store.note_study(digest(package), "offered", 0)
    store.keep_package(digest(package), package)
    store.close()
    done = command("site", "rehearse", digest(package)[:12], "--folder", folder)
    assert done.status != 0 and "asks statistical questions" in done.err and "not-available" in done.err
