"""A rehearsal as a data-protection officer has it: the real worker, confined, on real patients; what it finds, shows, and keeps to itself."""

from __future__ import annotations

import json
import re
import stat
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from aimer2.audit.kinds import Kind
from aimer2.blobs.folder import FolderStore
from aimer2.connectors.table import Column, Table, pseudonyms, save_table
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadData, BadInput, BadUpdate, NotApproved, NotFound
from aimer2.core.study import Study
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import digest as digest_of
from aimer2.site.decisions import Decisions
from aimer2.site.leak.confined import Asked, Rehearsed, rehearse
from aimer2.site.leak.effort import Effort
from aimer2.site.leak.findings import Findings
from aimer2.site.leak.rehearsal import Rehearsal
from aimer2.site.leak.report import Subject, page
from aimer2.site.leak.words import summary
from aimer2.site.performing import lay_out
from aimer2.site.settings import Settings
from aimer2.site.snapshots import SnapshotRecord, keep_record
from aimer2.study.pack import pack

RAW, OUTCOMES = load_breast_cancer(return_X_y=True)
NAMES = tuple(f"feature {place}" for place in range(10))
MLP = {"framework": "torch", "name": "mlp", "options": {"hidden": [16]}}
Offer = Callable[..., str]


def breast_table(rows: int = 150) -> Table:
    columns = {name: Column("number", RAW[:rows, place].copy()) for place, name in enumerate(NAMES)}
    columns["disease"] = Column("number", OUTCOMES[:rows].astype(np.float64))
    return Table(columns, pseudonyms([f"patient-{number}" for number in range(rows)], b"0123456789abcdef"))


def breast(a_study: Callable[..., Study], **changes: Any) -> Study:
    fields: dict[str, Any] = {
        "cohort": {"dataset": "breast", "features": [{"name": name} for name in NAMES], "target": {"name": "disease"}},
        "model": {"framework": "numpy", "name": "logistic"},
        "training": {"batch_size": 16, "local_epochs": 1},
        "sites": {"minimum": 4},
        "privacy": {},
    }
    return a_study(**(fields | changes))


HURRIED = Effort(search_seconds=0.1, steps=40, trace_seconds=0.5, worlds=4)
"""A search and a few trainings, not all for which there is time; the worker, a process of its own, takes all of it."""


@pytest.fixture
def offer(site: Decisions, blobs: FolderStore, tmp_path: Path) -> Offer:
    """A study as the agent has fetched it; nobody has approved it."""
    place = site.folder.dataset("breast")
    (place / "snapshots").mkdir(parents=True)
    (place / "dataset.toml").write_text('name = "breast"\nkind = "csv"\n[source]\npath = "breast.csv"\n')
    made = save_table(breast_table(), place / "snapshots" / "one", clock=SystemClock())
    keep_record(SnapshotRecord(path=made.path, sha256=made.sha256, rows=made.rows, patients=made.patients, created=made.created, opted_out=0))

    def make(study: Study, code: str | None = None) -> str:
        if code is not None:
            (tmp_path / "model.py").write_text(code)
        package = pack(study, tmp_path, {"north": SigningKey.generate().public.text}, blobs)
        digest = digest_of(package)
        site.store.note_study(digest, "offered", 0)
        site.store.keep_package(digest, package)
        lay_out(site.folder.study(digest), package, blobs)
        return digest

    return make


def rehearsed(site: Decisions, settings: Settings, digest: str, **given: Any) -> Rehearsed:
    return rehearse(site, settings, digest[:12], Asked(**({"by": "Dr Ines Vogt", "records": 8} | given)))


def test_before_any_approval_an_officer_sees_what_would_leak(
    site: Decisions, settings: Settings, offer: Offer, a_study: Callable[..., Study]
) -> None:
    digest = offer(breast(a_study))
    done = rehearsed(site, settings, digest)
    found = done.findings
    assert site.store.decision(digest) is None
    assert [level.records for level in found.levels] == [1, 4, 8, found.rows]
    one = {attempt.view: attempt for attempt in found.levels[0].attempts}
    assert (one["alone"].rebuilt, one["masked"].rebuilt) == (8, 0)
    assert found.words is not None and found.words.masked_found < 6 < found.words.clear_found
    assert found.sites == 4 and found.under_the_terms == "sum"
    entry = next(iter(site.audit.read(kinds={Kind.STUDY_REHEARSED})))
    assert (entry.actor, entry.study, entry.details["dataset"]) == ("Dr Ines Vogt", digest, "breast")
    assert "almost exactly 8 of 8 without protection" in "\n".join(map(str, summary(found)))


def test_the_page_stays_in_the_sites_folder_for_its_owner_alone(
    site: Decisions, settings: Settings, offer: Offer, a_study: Callable[..., Study], tmp_path: Path
) -> None:
    digest = offer(breast(a_study))
    done = rehearsed(site, settings, digest)
    assert done.report.is_relative_to(site.folder.path)
    assert stat.S_IMODE(done.report.stat().st_mode) == 0o600
    assert stat.S_IMODE(done.report.parent.stat().st_mode) == 0o700
    elsewhere = tmp_path / "page.html"
    elsewhere.write_text("older")
    elsewhere.chmod(0o644)
    rehearsed(site, settings, digest, report=elsewhere)
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o600 and "<!doctype html>" in elsewhere.read_text()
    left = [path for path in site.folder.blobs(digest).rglob("*") if path.is_file()]
    assert left == [], "nothing of it lies where the agent takes what it sends"


def test_the_patient_in_the_page_is_a_patient_of_this_hospital(
    site: Decisions, settings: Settings, offer: Offer, a_study: Callable[..., Study]
) -> None:
    """In the column's own units, rebuilt to the digits; what came of the sum is not it."""
    done = rehearsed(site, settings, offer(breast(a_study)))
    example = done.findings.example
    assert example is not None
    real, rebuilt = (np.array([getattr(cell, which) for cell in example.cells]) for which in ("real", "alone"))
    assert np.abs(RAW[:150, :10] - real).max(axis=1).min() < 1e-9
    assert np.allclose(real, rebuilt, rtol=1e-4)
    assert example.protected_error is None or example.protected_error > 0.1


def test_the_page_loads_nothing_and_shows_no_markup_of_a_study(
    site: Decisions, settings: Settings, offer: Offer, a_study: Callable[..., Study]
) -> None:
    done = rehearsed(site, settings, offer(breast(a_study)))
    hostile = done.subject.study.model_copy(update={"name": "<script>alert(1)</script>", "question": "<img src=https://example.org/x>"})
    subject = Subject(hostile, done.subject.digest, "north", '"><b>', "0" * 64, "<i>me</i>", 0.0)
    text = page(done.findings, subject)
    assert "comes out of the sum as well" not in text
    assert done.findings.example is not None
    exact = done.findings.example.model_copy(update={"protected_error": 0.01})
    assert "comes out of the sum as well" in page(done.findings.model_copy(update={"example": exact}), subject)
    tags = Tags()
    tags.feed(text)
    assert not {"script", "img", "iframe", "link", "object", "i"} & tags.seen
    assert not [value for name, value in tags.attributes if name in ("src", "href", "onload", "onclick")]
    assert "default-src 'none'" in text and text.count("<svg") >= 5
    assert re.search("stays here", text) and "An attack that fails proves little" in text


def test_a_torch_model_is_searched_too(a_study: Callable[..., Study]) -> None:
    study = breast(a_study, model=MLP)
    found = Rehearsal(study, breast_table(90), {}, time.process_time, records=4, effort=HURRIED).findings()
    few = {attempt.view: attempt for attempt in found.levels[1].attempts}
    assert few["alone"].rebuilt >= 1 and few["masked"].rebuilt == 0
    assert found.tracing.worlds and {result.view for result in found.tracing.results} == {"alone", "sum"}


def test_the_studys_own_noise_is_in_the_columns_with_noise(a_study: Callable[..., Study]) -> None:
    pytest.importorskip("opacus")
    features = [{"name": name, "minimum": 0.0, "maximum": float(RAW[:, place].max())} for place, name in enumerate(NAMES)]
    cohort = {"dataset": "breast", "features": features, "target": {"name": "disease"}, "standardise": "range", "minimum_patients": 50}
    terms = {"noise_multiplier": 1.0, "delta": 1e-4, "clip_norm": 1.0, "sampling_rate": 0.2}
    study = breast(a_study, model=MLP, cohort=cohort, training={"local_steps": 3}, privacy={"differential_privacy": terms})
    found = Rehearsal(study, breast_table(120), {}, time.process_time, records=4, effort=HURRIED).findings()
    by_view = {attempt.view: attempt for attempt in found.levels[0].attempts}
    assert by_view["alone"].rebuilt == by_view["alone"].tried
    assert by_view["noisy"].rebuilt == by_view["noisy-sum"].rebuilt == 0
    assert found.under_the_terms == "noisy-sum" and "1 times the clip norm 1" in found.noise


def test_the_noise_of_whole_sites_is_in_the_columns_with_noise(a_study: Callable[..., Study]) -> None:
    """With next to none of it the same columns show what is rebuilt without: it is the noise that helps, and the scale is right."""
    rebuilt = {}
    for noise in (2.0, 1e-6):
        terms = {"level": "site", "noise_multiplier": noise, "delta": 1e-4, "clip_norm": 100.0, "clip_quantile": 0.5}
        study = breast(a_study, privacy={"differential_privacy": terms}, evaluation={"held_out": 0})
        found = Rehearsal(study, breast_table(60), {}, time.process_time, records=4, effort=HURRIED).findings()
        by_view = {attempt.view: attempt for attempt in found.levels[0].attempts}
        assert by_view["alone"].rebuilt == by_view["alone"].tried
        assert f"{noise:g} times the clip norm 100" in found.noise
        rebuilt[noise] = by_view["noisy"].rebuilt
    assert rebuilt == {2.0: 0, 1e-6: by_view["alone"].tried}


def test_what_cannot_be_attacked_is_said(a_study: Callable[..., Study]) -> None:
    study = breast(a_study, model={**MLP, "options": {"hidden": [4], "batch_norm": True}}, method={"name": "fedavg", "rounds": 1})
    found = Rehearsal(study, breast_table(60), {}, time.process_time, records=4, effort=HURRIED).findings()
    assert found.levels[0].records == 2 and any("batch normalisation" in note for note in found.notes)
    few = Rehearsal(breast(a_study), breast_table(30), {}, time.process_time, records=4, effort=HURRIED).findings()
    assert few.tracing.worlds == 0 and "30 training rows" in few.tracing.untried


def test_data_that_do_not_meet_the_contract_are_refused(a_study: Callable[..., Study]) -> None:
    study = breast(a_study, cohort={"dataset": "breast", "features": [{"name": "weight"}], "target": {"name": "disease"}})
    with pytest.raises(BadData, match="weight"):
        Rehearsal(study, breast_table(), {}, time.process_time, effort=HURRIED).findings()


def test_unknown_studies_data_sets_and_sizes_are_refused(site: Decisions, settings: Settings, offer: Offer, a_study: Callable[..., Study]) -> None:
    digest = offer(breast(a_study))
    with pytest.raises(NotFound, match="no data set"):
        rehearsed(site, settings, digest, dataset="lungs")
    with pytest.raises(BadInput):
        rehearsed(site, settings, digest, records=100_000)
    with pytest.raises(NotFound):
        rehearsed(site, settings, "f" * 64)
    assert not list(site.audit.read(kinds={Kind.STUDY_REHEARSED}))


CODE = """
import os, socket
import aimer2.site.leak.serving as serving
from aimer2.models.linear import Logistic

def attempt(what):
    try:
        what()
    except OSError:
        return False
    return True

def build(features, classes):
    # not where the package is made, which is this test's own process
    if os.getcwd().endswith("scratch"):
        out = attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        read = attempt(lambda: open({key!r}).read())
        started = attempt(os.fork)
        print("out", out, "read", read, "started", started, flush=True)
        {also}
    return Logistic(features)
"""


def test_the_studys_code_runs_confined(site: Decisions, settings: Settings, offer: Offer, a_study: Callable[..., Study]) -> None:
    """Before anybody has approved it: no network, no files of the site, no process."""
    site.key.save(site.folder.key)
    code = CODE.format(key=str(site.folder.key), also="pass")
    digest = offer(breast(a_study, model={"framework": "numpy", "code": "model.py"}), code)
    with pytest.raises(NotApproved, match="code of its own"):
        rehearsed(site, settings, digest)
    rehearsed(site, settings, digest, with_code=True)
    log = (site.folder.path / "rehearsals" / digest / "worker.log").read_text()
    assert "out False read False started False" in log and "True" not in log.split("out")[1]


def test_findings_of_another_form_are_not_taken_from_the_worker(
    site: Decisions, settings: Settings, offer: Offer, a_study: Callable[..., Study]
) -> None:
    honest = "honest = serving.Line.send"
    lie = "serving.Line.send = lambda line, told, files=None: honest(line, {'findings': {'sites': -1}} if 'findings' in told else told, files)"
    forged = CODE.format(key="/dev/null", also=f"{honest}; {lie}")
    digest = offer(breast(a_study, model={"framework": "numpy", "code": "model.py"}), forged)
    with pytest.raises(BadUpdate, match="agreed form"):
        rehearsed(site, settings, digest, with_code=True)


def test_findings_are_a_document(a_study: Callable[..., Study]) -> None:
    found = Rehearsal(breast(a_study), breast_table(60), {}, time.process_time, records=4, effort=HURRIED).findings()
    assert Findings.model_validate(json.loads(found.model_dump_json())) == found


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes += attrs
