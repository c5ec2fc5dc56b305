"""A model from the study that made it to the people who use it, by commands against a real coordinator."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aimer2.identity.keys import SigningKey

WriteStudy = Callable[..., Path]


def test_a_model_is_pulled_checked_moved_on_compared_and_used(logged_in: Any, write_study: WriteStudy, tmp_path: Path) -> None:
    for name, rounds in (("ages", 3), ("ages", 5)):
        assert logged_in("study", "submit", write_study(name, rounds), "--watch").status == 0
    listed = json.loads(logged_in("model", "list", "--json").out)
    mine = [one for one in listed if one["name"] == "ages"]
    assert [(one["number"], one["stage"], one["sites"]) for one in mine] == [(1, "candidate", 1), (2, "candidate", 1)]
    assert "ages@2" in logged_in("model", "list").out

    folder = tmp_path / "pulled"
    told = logged_in("model", "pull", "ages@1", folder)
    assert told.status == 0, told.err
    assert logged_in("model", "pull", "ages", folder).status == 4, "another version is never mixed in"
    told = logged_in("model", "verify", folder)
    assert told.status == 0 and "approval of north" in told.out and "FAILS" not in told.out

    assert logged_in("model", "promote", "ages@1", "--to", "released", "--reason", "Too soon.").status == 4
    for stage in ("validated", "released"):
        assert logged_in("model", "promote", "ages@1", "--to", stage, "--reason", "It held on new patients.").status == 0
    assert logged_in("model", "retire", "ages@1", "--reason", "The second is better.").status == 0
    assert logged_in("model", "pull", "ages@1", folder).status == 0
    shown = logged_in("model", "show", folder)
    assert "retired" in shown.out and "The second is better." in shown.out
    assert json.loads(logged_in("model", "list", "--json").out)[listed.index(mine[0])]["stage"] == "retired"

    told = logged_in("model", "compare", folder, "ages@2", "--json")
    found = json.loads(told.out)
    assert found["differences"] == {"method.rounds": [3, 5]}
    assert found["figures"].keys() == {"auc", "loss"}

    new = tmp_path / "new.csv"
    new.write_text("age\n-2.0\n2.0\n")
    rows = list(csv.reader(logged_in("model", "predict", folder, new).out.splitlines()))
    assert rows[0] == ["row", "disease"] and 0 < float(rows[1][1]) < float(rows[2][1]) < 1

    assert logged_in("model", "export", folder, tmp_path / "out", "--to", "folder").status == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", "config.json", "card.md", "card.html"}
    assert "PyTorch" in logged_in("model", "export", folder, tmp_path / "out.onnx", "--to", "onnx").err


def test_a_model_is_measured_by_a_study_of_its_own(logged_in: Any, federation: Any, write_study: WriteStudy, tmp_path: Path) -> None:
    assert logged_in("study", "submit", write_study("judged"), "--watch").status == 0
    told = logged_in("model", "evaluate", "judged")
    assert told.status == 2 and "--investigator" in told.err
    terms = ("--ethics", "none needed", "--investigator", "Dr Eva Test", "--why-not-secure", "a test of one site", "--minimum", 1)
    told = logged_in("model", "evaluate", "judged", *terms, "--watch")
    assert told.status == 0, told.err
    assert "the 20% of patients held out at all sites" in " ".join(told.out.split())
    model = next(one for one in json.loads(logged_in("model", "list", "--json").out) if one["name"] == "judged")
    assert [(one["name"], one["sites"], one["figures"]) for one in model["evaluations"]] == [("judged-evaluation", ["north"], model["figures"])]
    assert "judged-evaluation" not in logged_in("model", "list").out
    found = json.loads(logged_in("model", "compare", "judged", "judged", "--json").out)
    assert found["evaluations"]["auc (north: registry, 20% held out)"][0]["value"] == model["figures"][0]["value"]
    assert "auc (north" in logged_in("model", "compare", "judged", "judged").out

    folder = tmp_path / "judged"
    assert logged_in("model", "pull", "judged", folder).status == 0
    assert "evaluation by judged-evaluation" in logged_in("model", "verify", folder).out
    file = federation.folder / "north.csv"
    told = logged_in("model", "evaluate", folder, "--sites", f"new={file}", "--json")
    assert told.status == 0, told.err
    here = json.loads(told.out)
    assert here["evaluation"]["held_out"] == 1 and here["figures"][0]["n"] == 80
    assert logged_in("model", "evaluate", folder, "--patient", "age").status == 2


def test_a_finished_study_becomes_one_page(logged_in: Any, write_study: WriteStudy, tmp_path: Path) -> None:
    page = tmp_path / "record.html"
    path = write_study("paged", 900)
    assert logged_in("study", "submit", path).status == 0
    assert logged_in("study", "export", "paged", page).status == 4, "it is not finished"
    assert not page.exists()
    assert logged_in("study", "stop", "paged").status == 0
    assert logged_in("study", "submit", write_study("page-done"), "--watch").status == 0
    assert logged_in("study", "export", "page-done", page).status == 0
    assert json.loads(logged_in("study", "show", "page-done", "--json").out)["digest"] in page.read_text("utf-8")


def test_a_changed_folder_is_not_believed(logged_in: Any, write_study: WriteStudy, tmp_path: Path) -> None:
    assert logged_in("study", "submit", write_study("changed"), "--watch").status == 0
    folder = tmp_path / "pulled"
    assert logged_in("model", "pull", "changed", folder).status == 0
    weights = folder / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    told = logged_in("model", "verify", folder, "--json")
    assert told.status == 4
    assert [one["what"] for one in json.loads(told.out) if not one["holds"]] == ["weights"]
    told = logged_in("model", "verify", folder, "--key", SigningKey.generate().public.text)
    assert told.status == 3 and "not known" in told.err
    assert logged_in("model", "show", "no-such-model").status == 4
    assert logged_in("model", "verify", tmp_path).status == 2
