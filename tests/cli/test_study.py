from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from safetensors.numpy import load_file

from aimer2.cli.federation import RESEARCHER, Federation
from aimer2.client.transport import fetch_fingerprint
from aimer2.identity.keys import SigningKey
from aimer2.site.folder import SiteFolder

WriteStudy: TypeAlias = Callable[..., Path]

TEN_FAULTS = """\
version = 2
name = "Not A Name"
question = "Short"
purpose = ""
ethics = ""
principal_investigator = "X"
expires = "soon"
seed = -1
colour = "red"
cohort.dataset = "registry"
cohort.features = []
cohort.target.name = "disease"
model.name = "logistic"
"""


def test_a_new_study_has_no_faults_and_is_never_overwritten(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = command("study", "new", "my-study")
    assert told.status == 0
    assert [path.name for path in (tmp_path / "my-study").iterdir()] == ["study.toml"]
    assert command("study", "check", "my-study/study.toml").status == 0
    (tmp_path / "my-study" / "study.toml").write_text("mine")
    assert command("study", "new", "my-study").status == 4
    assert (tmp_path / "my-study" / "study.toml").read_text() == "mine"
    assert command("study", "new", "My Study").status == 2


def test_all_ten_faults_are_told_at_once(command: Any, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(TEN_FAULTS)
    places = {"version", "name", "question", "purpose", "ethics", "principal_investigator", "expires", "seed", "colour", "cohort.features"}
    told = command("study", "check", path)
    assert told.status == 2
    shown = {line.strip().partition(":")[0] for line in told.err.splitlines() if line.startswith("  ")}
    assert places <= {place.partition(".date")[0].partition(".function")[0] for place in shown} | shown
    told = command("study", "check", path, "--json")
    assert told.status == 2
    faults = json.loads(told.out)["faults"]
    assert places <= {place for fault in faults for place in places if fault["place"] == place or fault["place"].startswith(f"{place}.")}
    assert all(fault["problem"] and fault["remedy"] for fault in faults)


def test_the_privacy_that_a_study_spends_is_told_without_any_data(command: Any, write_study: WriteStudy) -> None:
    path = write_study()
    text = path.read_text().replace('[{ name = "age" }]', '[{ name = "age", minimum = 0, maximum = 120 }]').replace('"numpy"', '"torch"')
    terms = "epsilon = 3.0, delta = 1e-5, clip_norm = 1.0, sampling_rate = 0.2, evaluation_noise = 10"
    path.write_text(f'{text}cohort.standardise = "range"\nprivacy.differential_privacy = {{ {terms} }}\n')
    told = command("study", "check", path)
    assert told.status == 0
    assert "ε = 2.99" in told.out and "2 patients expected per step" in told.out
    assert json.loads(command("study", "check", path, "--json").out)["calibration"]["noise"] in told.out


def test_faults_of_sense_are_told_as_those_of_form(command: Any, write_study: WriteStudy) -> None:
    path = write_study()
    text = (
        path.read_text()
        .replace('"auc"', '"beauty"')
        .replace('"fedavg"', '"magic"')
        .replace("expires = 2", "expires = 1")
        .replace('"logistic"', '"oracle"')
    )
    path.write_text(text)
    told = command("study", "check", path, "--json")
    assert told.status == 2
    assert {fault["place"] for fault in json.loads(told.out)["faults"]} == {"expires", "method.name", "model.name", "evaluation.metrics"}


def test_a_file_that_is_not_there_or_not_toml(command: Any, tmp_path: Path) -> None:
    assert "no such file" in command("study", "check", tmp_path / "nothing.toml").err
    (tmp_path / "odd.toml").write_text("= =")
    told = command("study", "check", tmp_path / "odd.toml")
    assert told.status == 2
    assert "not TOML" in told.err


def test_a_study_from_submission_to_its_result(logged_in: Any, write_study: WriteStudy, tmp_path: Path) -> None:
    path = write_study("whole-way")
    told = logged_in("study", "submit", path, "--watch")
    assert told.status == 0, told.err
    assert "round 3 of 3" in told.out and "Finished." in told.out
    digest = json.loads(logged_in("study", "show", "whole-way", "--json").out)["digest"]
    assert digest in told.out
    again = logged_in("study", "submit", path, "--json")
    assert (json.loads(again.out)["digest"], json.loads(again.out)["state"]) == (digest, "finished")
    assert "whole-way" in logged_in("study", "list").out
    shown = logged_in("study", "show", digest[:8])
    assert "finished" in shown.out and "north" in shown.out and "approved" in shown.out
    told = logged_in("study", "results", digest[:8], "--json", "--save-model", tmp_path / "model.safetensors")
    result = json.loads(told.out)
    assert result["study"] == digest
    assert load_file(tmp_path / "model.safetensors")
    told = logged_in("study", "results", "whole-way")
    assert "auc" in told.out and result["model"]["sha256"][:16] in told.out


def test_pause_resume_stop_and_a_watch_without_a_result(logged_in: Any, write_study: WriteStudy) -> None:
    assert logged_in("study", "submit", write_study("long", rounds=900)).status == 0
    assert "paused" in _until_running(logged_in, "long")
    assert logged_in("study", "watch", "long").status == 1
    assert logged_in("study", "results", "long").status == 4
    assert "running" in logged_in("study", "resume", "long").out
    rehearsal = logged_in("study", "preflight", "long")
    assert rehearsal.status == 0, rehearsal.err
    assert "north" in rehearsal.out
    assert json.loads(logged_in("study", "stop", "long", "--final", "--reason", "Enough.", "--json").out)["reason"] == "Enough."
    assert logged_in("study", "resume", "long").status == 4


def _until_running(command: Any, name: str) -> str:
    """Pauses it as soon as it runs."""
    end = time.monotonic() + 30
    while (told := command("study", "stop", name)).status != 0:
        assert told.status == 4, told.err
        assert time.monotonic() < end, told.err
    return str(told.out)


def test_the_sites_as_a_researcher_sees_them(logged_in: Any) -> None:
    told = logged_in("sites")
    assert told.status == 0
    assert any(line.split()[:2] == ["north", "online"] for line in told.out.splitlines())
    assert [site["site"] for site in json.loads(logged_in("sites", "--json").out)] == ["north"]


def test_a_certificate_that_nobody_vouches_for_needs_a_persons_word(command: Any, federation: Federation, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(federation.password)
    told = command("login", federation.url, "--user", RESEARCHER, "--password-file", password)
    assert told.status == 3
    assert fetch_fingerprint(federation.url) in told.err
    assert not (tmp_path / "home" / "logins.json").exists()
    told = command("login", federation.url, "--user", RESEARCHER, "--fingerprint", "0" * 64, "--password-file", password)
    assert told.status == 3


def test_a_later_log_in_trusts_what_was_trusted_before_and_logout_forgets(logged_in: Any, federation: Federation, tmp_path: Path) -> None:
    told = logged_in("login", federation.url, "--user", RESEARCHER, "--password-file", tmp_path / "password")
    assert told.status == 0, told.err
    saved = tmp_path / "home" / "logins.json"
    known = json.loads(saved.read_text())
    known[0]["key"] = known[0]["key"][::-1].replace("=", "")
    saved.write_text(json.dumps(known))
    told = logged_in("login", federation.url, "--user", RESEARCHER, "--password-file", tmp_path / "password")
    assert told.status == 4
    assert "another signing key" in told.err
    assert logged_in("logout", federation.url).status == 0
    assert logged_in("study", "list").status == 3


def test_a_wrong_password_is_refused(command: Any, federation: Federation, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("not this one")
    pin = fetch_fingerprint(federation.url)
    told = command("login", federation.url, "--user", "nobody", "--fingerprint", pin, "--password-file", password)
    assert told.status == 3
    assert "not this one" not in told.err + told.out


def test_the_operator_sees_whole_fingerprints_and_times_on_a_narrow_terminal(command: Any, federation: Federation) -> None:
    told = command("coordinator", "--folder", federation.folder / "coordinator", "sites").out
    mine = SigningKey.load(SiteFolder(federation.site("north")).key).public.fingerprint
    assert "".join(re.findall(r"\b\d{5}\b", told)) == mine.replace(" ", "")
    assert "…" not in told and re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", told)


def test_a_long_ethics_reference_takes_no_line_from_the_list(logged_in: Any, write_study: WriteStudy) -> None:
    path = write_study("long-ethics")
    path.write_text(path.read_text().replace("none needed, synthetic", "none needed: " + "published, anonymous data " * 6))
    assert logged_in("study", "submit", path).status == 0
    lines = [line for line in logged_in("study", "list").out.splitlines() if "published" in line or "long-ethics" in line]
    assert len(lines) == 1 and "2099-01-01" in lines[0]
