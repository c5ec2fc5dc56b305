"""A model of the hospital's own: it outlives the study, predicts as in training, and is exported and deleted by named people only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from aimer2.audit.kinds import Kind
from aimer2.blobs.folder import FolderStore
from aimer2.cli.site_model import model
from aimer2.connectors.table import load_table
from aimer2.core import tree
from aimer2.core.errors import BadInput, NotFound, Tampered
from aimer2.core.study import Study
from aimer2.core.task import Answer, Task
from aimer2.messages.package import digest as digest_of
from aimer2.messages.tensors import read_tree
from aimer2.site import models, prediction
from aimer2.site.decisions import Decisions
from aimer2.site.store import Finished
from aimer2.study.checkpoint import store
from aimer2.study.evaluation import documents
from aimer2.study.pack import pack
from aimer2.study.perform import open_performer

FILE = "age,chol,disease\n0.5,1.0,1\n-2.0,0.25,0\n,1.5,1\n"


@pytest.fixture
def card(site: Decisions, snapshot: Any, a_study: Callable[..., Study], tmp_path: Path) -> models.Card:
    """Of a study that has just ended: its last answers as an agent stores them, then what the agent does at the end."""
    cohort = a_study().cohort.model_dump() | {"standardise": "site", "missing": "drop"}
    study = a_study(cohort=cohort, method={"name": "ditto", "rounds": 2, "parameters": {"validation": 0.3}}, evaluation={"held_out": 0.3})
    coming = FolderStore(tmp_path / "coming")
    package = pack(study, tmp_path, {"north": "key"}, coming)
    digest = digest_of(package)
    site.store.note_study(digest, "running", 0)
    site.store.keep_package(digest, package)
    blobs = FolderStore(site.folder.blobs(digest))
    performer = open_performer(study, load_table(snapshot.path, verify=False, sha256=snapshot.sha256), site="north", files={})
    memory: dict[str, Any] = {}
    for stage, number in (("train", 1), ("train", 2), ("final", 1)):
        task = Task.model_validate({"id": f"{stage}-{number}", "study": digest, "site": "north", "stage": stage, "round_number": number})
        done = performer.perform(task, {"model": read_tree(coming.open(package.initial))}, memory)
        kept = {name: store(leaves, blobs) for name, leaves in memory.items()}
        figures = [figure.model_dump() for figure in documents(done.figures)]
        answer = Answer(task=task.id, attempt=1, site="north")
        site.store.commit(Finished(task, answer, kept, figures, 0.0, 5.0))
    found = models.keep(site, digest, blobs)
    site.erase(digest)
    assert found is not None
    return found


@pytest.fixture
def file(site: Decisions, tmp_path: Path) -> Path:
    (site.folder.dataset("heart") / "mapping.toml").write_text("[columns.age]\n[columns.chol]\n[columns.disease]\n")
    path = tmp_path / "new.csv"
    path.write_text(FILE)
    return path


def test_it_is_there_after_the_study_was_erased(site: Decisions, card: models.Card) -> None:
    assert models.cards(site.folder) == [card]
    assert models.find(site.folder, card.digest[:6]) == card
    assert card.kept.startswith("kept: the ")
    assert {"auc", "personal auc", "local auc", "kept"} <= {figure.name for figure in card.figures}
    assert set(read_tree(models.weights(site.folder, card))) == {"coefficients", "intercept"}
    assert [entry.kind for entry in site.audit.read()] == [Kind.MODEL_KEPT]


def test_a_study_without_one_leaves_none(site: Decisions, a_study: Callable[..., Study], tmp_path: Path) -> None:
    package = pack(a_study(), tmp_path, {"north": "key"}, FolderStore(tmp_path / "coming"))
    site.store.note_study(digest_of(package), "running", 0)
    site.store.keep_package(digest_of(package), package)
    assert models.keep(site, digest_of(package), FolderStore(tmp_path / "none")) is None
    with pytest.raises(NotFound):
        models.find(site.folder, digest_of(package))


def test_predictions_are_those_of_the_formula(site: Decisions, card: models.Card, file: Path) -> None:
    """Standardised by the means of training, and the row with a missing value left out; the target of the file is not looked at."""
    names, scores = prediction.predict(site.folder, card, file)
    weights = {name: tree.load(leaf) for name, leaf in read_tree(models.weights(site.folder, card)).items()}
    mean, deviation = (np.array(card.preparation[name]) for name in ("mean", "deviation"))
    rows = (np.array([[0.5, 1.0], [-2.0, 0.25]]) - mean) / deviation
    expected = 1 / (1 + np.exp(-(rows @ weights["coefficients"] + weights["intercept"])))
    assert names == ["disease"]
    assert scores[:2, 0] == pytest.approx(expected)
    assert np.isnan(scores[2, 0])
    without = file.with_name("without.csv")
    without.write_text("chol,age\n1.0,0.5\n0.25,-2.0\n")
    assert prediction.predict(site.folder, card, without)[1][:, 0] == pytest.approx(expected)


def test_a_file_without_a_feature_or_a_data_set_without_it_is_refused(site: Decisions, card: models.Card, file: Path) -> None:
    with pytest.raises(BadInput, match="no data set 'liver'"):
        prediction.predict(site.folder, card, file, dataset="liver")
    (site.folder.dataset("heart") / "mapping.toml").write_text("[columns.age]\n")
    with pytest.raises(BadInput, match="chol"):
        prediction.predict(site.folder, card, file)


def test_weights_that_were_changed_are_not_used(site: Decisions, card: models.Card, file: Path) -> None:
    path = models.weights(site.folder, card).path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Tampered):
        prediction.predict(site.folder, card, file)


def test_exporting_and_deleting_name_a_person(site: Decisions, card: models.Card, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="names the person"):
        models.export(site, card, tmp_path / "m.safetensors", by=" ")
    models.export(site, card, tmp_path / "m.safetensors", by="Dr Ada Test")
    assert (tmp_path / "m.safetensors").read_bytes() == bytes(models.weights(site.folder, card).view())
    models.delete(site, card, by="Dr Ada Test")
    assert models.cards(site.folder) == []
    assert [(entry.kind, entry.actor) for entry in site.audit.read()][1:] == [
        (Kind.MODEL_EXPORTED, "Dr Ada Test"),
        (Kind.MODEL_DELETED, "Dr Ada Test"),
    ]


def test_the_commands(site: Decisions, card: models.Card, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimer2.cli.site_model.existing", lambda _: site.folder)
    run = CliRunner().invoke
    assert card.digest[:12] in run(model, ["list"]).output
    shown = run(model, ["show", card.digest[:8]]).output
    assert "trained alone" in shown
    assert "auc" in shown
    lines = run(model, ["predict", card.digest[:8], str(file)]).output.splitlines()
    assert lines[0] == "row,disease"
    assert lines[3] == "3,"
    assert 0 < float(lines[1].partition(",")[2]) < 1
