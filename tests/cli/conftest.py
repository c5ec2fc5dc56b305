"""The command as a person gives it, and a real federation to give it to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pytest

from aimer2.cli.federation import RESEARCHER, Federation, Hospital
from aimer2.cli.main import main
from aimer2.client.transport import fetch_fingerprint

POLICY = """\
[[rule]]
name = "tests"
set_by = "Dr Test, data-protection officer"
decision = "approve"
datasets = ["registry"]
methods = ["fedavg", "evaluation"]
minimum_patients = 10
maximum_rounds = 1000
maximum_days = 36600
"""

STUDY = """\
name = "{name}"
question = "Does age tell who has the disease?"
purpose = "test of the command"
ethics = "none needed, synthetic"
principal_investigator = "Dr Ada Test"
expires = 2099-01-01
cohort.dataset = "registry"
cohort.features = [{{ name = "age" }}]
cohort.target = {{ name = "disease" }}
model = {{ framework = "numpy", name = "logistic" }}
training.local_steps = 2
method = {{ name = "fedavg", rounds = {rounds} }}
sites.minimum = 1
evaluation.metrics = ["auc"]
privacy.secure_aggregation = false
privacy.why_not_secure = "test of a single site"
"""


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


Command: TypeAlias = Callable[..., Outcome]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Gives a command in this process; the folder of log-ins is empty at first."""
    monkeypatch.setenv("AIMER2_HOME", str(tmp_path / "home"))
    for name in ("AIMER2_TOKEN", "AIMER2_URL", "AIMER2_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def give(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), told.out, told.err)

    return give


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "heart", rounds: int = 3) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(STUDY.format(name=name, rounds=rounds))
        return path

    return write


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("federation")
    rng = np.random.default_rng(1)
    age = rng.normal(size=80)
    rows = [f"{float(a)!r},{int(a + rng.normal() > 0)}" for a in age]
    (folder / "north.csv").write_text("\n".join(["age,disease", *rows]) + "\n")
    with Federation(folder) as made:
        made.make_coordinator("Test coordinator")
        made.run_coordinator()
        made.make_sites([Hospital("north", folder / "north.csv", "[columns.age]\n[columns.disease]\n", POLICY)])
        made.run_site("north")
        yield made


@pytest.fixture
def logged_in(command: Any, federation: Federation, tmp_path: Path) -> Any:
    """The command, with a log-in made as a person makes it."""
    password = tmp_path / "password"
    password.write_text(federation.password + "\n")
    pin = fetch_fingerprint(federation.url)
    told = command("login", federation.url, "--user", RESEARCHER, "--fingerprint", pin, "--password-file", password)
    assert told.status == 0, told.err
    return command
