"""Images and columns beside them over real processes: files at hospitals, snapshots, confined workers; the same bits as in the simulator."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
from PIL import Image

from aimer2 import Study, simulate
from aimer2.cli.federation import Federation
from aimer2.connectors.table import load_table
from aimer2.core.clock import SystemClock
from aimer2.site import snapshots
from aimer2.site.folder import SiteFolder
from aimer2.site.settings import Retention
from aimer2.study.events import StudyFinished

SITES = ("east", "north", "west")
MAPPING = 'patient = "patient"\n[columns.xray]\nkind = "image"\nsource = "file"\n[columns.spot]\n'
MAPPING += '[columns.age]\n[columns.sex]\nkind = "category"\ncategories = ["f", "m"]\n'
STUDY = Study(
    name="bright-spots",
    question="Which images show a bright spot?",
    purpose="test",
    ethics="none needed",
    principal_investigator="Test Person",
    expires=datetime.date(2100, 1, 1),
    cohort={
        "dataset": "scans",
        "image": {"name": "xray", "height": 8, "width": 8},
        "features": [{"name": "age"}, {"name": "sex", "kind": "category", "categories": ["f", "m"]}],
        "target": {"name": "spot"},
        "missing": "mean",
    },
    model={"name": "cnn", "options": {"channels": [8, 8]}},
    training={"optimiser": "adam", "learning_rate": 0.02, "batch_size": 16, "local_epochs": 2},
    method={"name": "fedavg", "rounds": 4},
    sites={"names": SITES, "minimum": 3},
    evaluation={"held_out": 0.25},
    privacy={"secure_aggregation": False, "why_not_secure": "a test"},
)


def scans(folder: Path, seed: int) -> Path:
    """The index of sixty patients with two images each, half of them with a bright square; of some the age is not known."""
    rng = np.random.default_rng(seed)
    (folder / "scans").mkdir(parents=True)
    lines = ["patient,file,spot,age,sex"]
    for row in range(120):
        pixels, spot = rng.integers(0, 100, (8, 8), np.uint8), row // 2 % 2
        if spot:
            top, left = rng.integers(0, 5, 2)
            pixels[top : top + 3, left : left + 3] = 230
        Image.fromarray(pixels).save(folder / "scans" / f"{row}.png")
        age = "" if row % 9 == 0 else f"{rng.normal(60, 10):.1f}"
        lines.append(f"P{row // 2},scans/{row}.png,{spot},{age},{'fm'[row // 2 % 3 > 0]}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return folder / "index.csv"


def test_confined_workers_learn_from_images_and_columns_what_the_simulator_learns(federation: Federation, tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(MAPPING)
    for seed, name in enumerate(SITES):
        given = ("--images", str(scans(tmp_path / name, seed)), "--mapping", str(mapping), "--folder", str(federation.site(name)))
        federation.command("site", "dataset", "add", "scans", *given)
    run = federation.researcher().submit(STUDY, tmp_path)
    events = list(run.events())
    assert isinstance(events[-1], StudyFinished), events[-1]
    tables = {}
    for name in SITES:
        record = snapshots.current(SiteFolder(federation.site(name)), "scans", Retention(), SystemClock().now())
        assert (record.patients, record.rows) == (60, 120)
        tables[name] = load_table(record.path, verify=True)
    shown = federation.command("site", "show", run.digest[:12], "--folder", str(federation.site("east")))
    assert "xray (images: grey, 8×8)" in shown
    assert "age" in shown and "sex" in shown
    model, result = federation.researcher().model(run.digest), run.result()
    simulated = simulate(STUDY, tables)
    for name, leaf in simulated.model.items():
        np.testing.assert_array_equal(model[name], leaf, strict=True)
    assert model["head.weight"].shape == (1, 8 + 2) and np.abs(model["head.weight"][0, -2:]).min() > 0
    assert result["figures"] == [figure.model_dump() for figure in simulated.figures]
    assert next(figure["value"] for figure in result["figures"] if figure["name"] == "auc") > 0.95
