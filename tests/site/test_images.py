"""Images at a hospital: from the command that makes them known to a kept model's scores for new ones."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pydantic import ValidationError

from aimer2.blobs.folder import FolderStore
from aimer2.cli.site import site as command
from aimer2.connectors.table import Column, Table, load_table
from aimer2.core import tree
from aimer2.core.clock import SystemClock
from aimer2.core.dataset import Samples
from aimer2.core.errors import AimerError
from aimer2.core.study import Study
from aimer2.core.task import Answer, Task
from aimer2.learners.catalogue import make_learner
from aimer2.messages.package import digest as digest_of
from aimer2.messages.tensors import read_tree, write_tree
from aimer2.site import models, prediction, snapshots
from aimer2.site.decisions import Decisions
from aimer2.site.leak import pictures
from aimer2.site.leak.confined import Asked, rehearse
from aimer2.site.leak.effort import Effort
from aimer2.site.leak.findings import Picture
from aimer2.site.leak.rehearsal import Rehearsal
from aimer2.site.leak.words import summary
from aimer2.site.memory_files import MemoryFile, OpenFile
from aimer2.site.performing import lay_out
from aimer2.site.settings import Retention, Settings, WorkerSettings
from aimer2.site.store import Finished
from aimer2.site.workers import Opening, Worker
from aimer2.study.checkpoint import store
from aimer2.study.evaluation import documents
from aimer2.study.images import prepared
from aimer2.study.pack import initialise, pack
from aimer2.study.perform import open_performer

MAPPING = 'patient = "patient"\n[columns.xray]\nkind = "image"\nsource = "file"\n[columns.ill]\n'
IMAGE = {"name": "xray", "height": 8, "width": 8}


@pytest.fixture
def study(a_study: Callable[..., Study]) -> Study:
    return a_study(
        cohort={"dataset": "chest", "image": IMAGE, "target": {"name": "ill"}},
        model={"name": "cnn", "options": {"channels": [4]}},
        training={"local_steps": 3, "batch_size": 8},
        method={"name": "ditto", "rounds": 1, "parameters": {"validation": 0.3}},
        evaluation={"held_out": 0.3},
    )


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """The index of 80 images of 40 patients, and the images."""
    rng, folder = np.random.default_rng(4), tmp_path / "pacs"
    folder.mkdir()
    lines = ["patient,file,ill"]
    for row in range(80):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{row}.png")
        lines.append(f"P{row // 2},{row}.png,{row // 2 % 2}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return folder / "index.csv"


def said(site: Decisions, *arguments: str, fails: bool = False) -> str:
    (site.folder.path / "split.key").write_text("ab" * 32)
    done = CliRunner().invoke(command, [*arguments, "--folder", str(site.folder.path)])
    assert bool(done.exit_code) == fails, done.output + repr(done.exception)
    return done.output + (f"{done.exception} {done.exception.advice}" if isinstance(done.exception, AimerError) else "")


@pytest.fixture
def chest(site: Decisions, settings: Settings, scans: Path, tmp_path: Path) -> snapshots.SnapshotRecord:
    """The data set as a person adds it."""
    site.key.save(site.folder.key)
    known = settings.coordinator
    site.folder.settings.write_text(f'site = "north"\n[coordinator]\nurl = "{known.url}"\nname = "T"\nkey = "{known.key}"\n')
    (tmp_path / "mapping.toml").write_text(MAPPING)
    told = said(site, "dataset", "add", "chest", "--images", str(scans), "--mapping", str(tmp_path / "mapping.toml"))
    assert "40 patients, 80 rows" in told
    return snapshots.current(site.folder, "chest", Retention(), SystemClock().now())


def test_it_is_added_listed_and_published(site: Decisions, chest: snapshots.SnapshotRecord, scans: Path) -> None:
    assert "grey, 8×8, 8 bits" in said(site, "dataset", "list")
    digest = said(site, "dataset", "publish", "chest", fails=True).rpartition("--digest ")[2]
    assert not site.folder.published("chest").exists()
    published = said(site, "dataset", "publish", "chest", "--digest", digest)
    assert '"form": "grey, 8×8, 8 bits"' in published and '"patients": "40"' in published
    (scans.parent / "17.png").write_bytes(b"broken")
    assert "1 of 80 images: not a PNG" in said(site, "dataset", "refresh", "chest", fails=True)


def answered(folder: Path, answer: bytes) -> subprocess.CompletedProcess[bytes]:
    """What the command does at a terminal where somebody answers so."""
    person, terminal = os.openpty()
    os.write(person, answer)
    try:
        given = [sys.executable, "-m", "aimer2", "site", "dataset", "publish", "chest", "--folder", str(folder)]
        return subprocess.run(given, stdin=terminal, capture_output=True, check=False)
    finally:
        os.close(terminal)
        os.close(person)


def test_what_is_published_was_shown_to_a_person_who_said_yes(site: Decisions, chest: snapshots.SnapshotRecord) -> None:
    (site.folder.path / "split.key").write_text("ab" * 32)
    no = answered(site.folder.path, b"n\n")
    assert no.returncode == 1 and b'"patients": "40"' in no.stdout and not site.folder.published("chest").exists()
    yes = answered(site.folder.path, b"y\n")
    assert yes.returncode == 0 and yes.stdout == no.stdout, yes.stderr
    assert site.folder.published("chest").is_file()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--images", "INDEX", "--npz", "INDEX"), "Give one of"),
        (("--npz", "INDEX", "--image-folder", "FOLDER"), "--image-folder is not for --npz"),
        (("--images", "INDEX", "--parts", "train"), "--parts is not for --images"),
        (("--images", "INDEX"), "needs --mapping"),
    ],
)
def test_options_that_do_not_go_together(site: Decisions, chest: Any, scans: Path, options: tuple[str, ...], told: str) -> None:
    places = {"INDEX": str(scans), "FOLDER": str(scans.parent)}
    assert told in said(site, "dataset", "add", "more", *(places.get(word, word) for word in options), fails=True)


def test_a_confined_worker_reads_them_from_the_snapshot_alone(study: Study, chest: snapshots.SnapshotRecord, scans: Path, tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "chest"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "study.json").write_text(study.model_dump_json())
    for scan in scans.parent.iterdir():
        scan.unlink()
    opening = Opening("north", folder, chest.path, chest.sha256, 60, WorkerSettings(memory_mib=2048))

    async def train() -> dict[str, Any]:
        worker = await Worker.start(opening)
        try:
            file = MemoryFile()
            write_tree(initial(study), file)
            task = Task(id="t", study="0" * 64, site="north", stage="train", round_number=1).model_dump(mode="json")
            reply, files = await worker.ask({"task": task, "received": ["model"], "memory": []}, [file.seal()])
            return {name: read_tree(OpenFile(file)) for name, file in zip(reply["sums"], files, strict=False)}
        finally:
            await worker.end()

    sums = asyncio.run(train())
    here = open_performer(study, load_table(chest.path, verify=True), site="north", files={})
    task = Task(id="t", study="0" * 64, site="north", stage="train", round_number=1)
    expected = here.perform(task, {"model": initial(study)}, {}).sums
    for name, leaf in expected["difference"].items():
        np.testing.assert_array_equal(tree.load(sums["difference"][name]), leaf)
    assert np.abs(expected["difference"]["head.weight"]).max() > 0


def initial(study: Study) -> Any:
    learner = make_learner(study, feature_shape=(1, 8, 8), files={}, device="cpu")
    initialise(learner, study)
    return learner.parameters()


def test_a_kept_model_scores_new_images(site: Decisions, study: Study, chest: snapshots.SnapshotRecord, scans: Path, tmp_path: Path) -> None:
    coming = FolderStore(tmp_path / "coming")
    package = pack(study, tmp_path, {"north": "key"}, coming)
    digest = digest_of(package)
    site.store.note_study(digest, "running", 0)
    site.store.keep_package(digest, package)
    blobs, memory = FolderStore(site.folder.blobs(digest)), dict[str, Any]()
    performer = open_performer(study, load_table(chest.path, verify=False), site="north", files={})
    for stage in ("train", "final"):
        task = Task.model_validate({"id": stage, "study": digest, "site": "north", "stage": stage, "round_number": 1})
        done = performer.perform(task, {"model": read_tree(coming.open(package.initial))}, memory)
        kept = {name: store(leaves, blobs) for name, leaves in memory.items()}
        figures = [figure.model_dump() for figure in documents(done.figures)]
        site.store.commit(Finished(task, Answer(task=stage, attempt=1, site="north"), kept, figures, 0.0, 5.0))
    card = models.keep(site, digest, blobs)
    assert card is not None

    pixels = np.stack([np.asarray(Image.open(scans.parent / f"{number}.png")) for number in range(3)])
    learner = make_learner(study, feature_shape=(1, 8, 8), files={})
    learner.load(read_tree(models.weights(site.folder, card)))
    expected = learner.predict(ready(prepared(pixels[:, None], study.cohort.image)))  # type: ignore[arg-type]
    (scans.parent / "new.csv").write_text("file\n0.png\n1.png\n2.png\n")
    assert prediction.predict(site.folder, card, scans.parent / "new.csv")[1][:, 0] == pytest.approx(expected)
    assert prediction.predict(site.folder, card, scans.parent / "2.png")[1][:, 0] == pytest.approx(expected[2:])


def ready(features: Any) -> Any:
    return Samples(features, np.zeros(len(features), np.int64))


def test_before_any_approval_an_officer_sees_the_image_that_would_leak(
    site: Decisions, study: Study, settings: Settings, chest: Any, scans: Path, tmp_path: Path
) -> None:
    """Of a model whose first layer gives an image away; by the real worker, confined."""
    study = study.model_copy(update={"model": study.model.model_copy(update={"framework": "numpy", "name": "logistic", "options": {}})})
    package = pack(study, tmp_path, {"north": "key"}, FolderStore(tmp_path / "coming"))
    digest = digest_of(package)
    site.store.note_study(digest, "offered", 0)
    site.store.keep_package(digest, package)
    lay_out(site.folder.study(digest), package, FolderStore(tmp_path / "coming"))
    done = rehearse(site, settings, digest[:12], Asked(by="Dr Ada Test", records=4))
    one = {attempt.view: attempt for attempt in done.findings.levels[0].attempts}
    assert (one["alone"].rebuilt, one["masked"].rebuilt) == (4, 0)
    example = done.findings.example
    assert example is not None and example.picture is not None and example.cells == ()
    real, rebuilt = (np.frombuffer(bytes.fromhex(one), np.uint8).astype(float) for one in (example.picture.real, example.picture.alone))
    stored = np.stack([np.asarray(Image.open(scans.parent / f"{number}.png"), float) for number in range(80)]).reshape(80, -1)
    stretched = (stored - stored.min(axis=1, keepdims=True)) / np.ptp(stored, axis=1, keepdims=True) * 255
    assert np.abs(stretched - real).max(axis=1).min() <= 0.51, "an image of this hospital, and no other"
    assert np.abs(real - rebuilt).max() <= 1
    text = done.report.read_text()
    assert text.count("Rebuilt without protection") == 2 and "No image came out" not in text


HURRIED = Effort(search_seconds=0.1, trace_seconds=0.2, worlds=3)


def test_of_a_convolutional_network_the_columns_beside_an_image_are_read_off_and_a_picture_is_shown_at_any_rate(
    a_study: Callable[..., Study],
) -> None:
    rng = np.random.default_rng(7)
    ill, age = np.arange(60) % 2, rng.normal(60, 10, 60)
    pixels = rng.integers(0, 60, (60, 1, 8, 8), np.uint8)
    pixels[ill == 1, :, 2:6, 2:6] += 150
    columns = {"xray": Column("image", pixels), "age": Column("number", age), "ill": Column("number", ill.astype(float))}
    joined = a_study(
        cohort={"dataset": "chest", "image": IMAGE, "features": [{"name": "age"}], "target": {"name": "ill"}, "standardise": "site"},
        model={"name": "cnn", "options": {"channels": [16]}},
        training={"learning_rate": 0.1, "local_steps": 1},
        evaluation={"held_out": 0},
    )
    table = Table(columns, np.arange(60, dtype=np.uint64))
    found = Rehearsal(joined, table, {}, time.process_time, records=4, effort=HURRIED).findings()
    example = found.example
    assert example is not None and example.picture is not None
    (cell,) = example.cells
    assert np.abs(age - cell.real).min() < 1e-4 and cell.alone == pytest.approx(cell.real, abs=1e-3), "read off the last layer, exactly"
    assert (found.features, found.rows) == (65, 60) and found.tracing.worlds


def test_of_many_images_some_are_attacked_and_the_page_says_so(study: Study) -> None:
    rng = np.random.default_rng(1)
    columns = {"xray": Column("image", rng.integers(0, 256, (90, 1, 8, 8), np.uint8)), "ill": Column("number", np.arange(90) % 2.0)}
    study = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"held_out": 0})})
    table = Table(columns, np.arange(90, dtype=np.uint64))
    found = Rehearsal(study, table, {}, time.process_time, records=4, effort=replace(HURRIED, values=1)).findings()
    assert (found.rows, found.attacked) == (90, 64) and any("Of 90 images 64 were drawn" in note for note in found.notes)
    told = [str(line) for line in summary(found)]
    assert any("all your 90 images. From one of 64 that were drawn" in line for line in told) and not any("all your 64" in line for line in told)


def test_a_study_s_code_cannot_hand_out_a_picture_that_is_none() -> None:
    for shown in ("0000f", "0000", "0000ff00"):
        with pytest.raises(ValidationError):
            Picture(height=1, width=3, channels=1, real="0000ff", alone=shown, protected=None)


def test_an_image_is_drawn_pixel_by_pixel() -> None:
    picture = Picture(height=1, width=3, channels=1, real="0000ff", alone="80ff00", protected=None)
    drawn = pictures.image(picture, picture.real, "<x>")
    assert drawn.count("<rect") == 3 and "rgb(255,255,255)" in drawn and "<x>" not in drawn, "paper, a stretch of two black pixels, a white one"
