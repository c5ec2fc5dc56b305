"""Sums in secret over real processes: killed in the middle, the bits of the simulator; and what the coordinator's disk never holds."""

from __future__ import annotations

import base64
import datetime
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2 import ask, diagnose, simulate
from aimer2.blobs.memory import MemoryStore
from aimer2.cli.federation import RESEARCHER, Federation, Hospital
from aimer2.client.questions import Terms
from aimer2.client.run import Run
from aimer2.client.transport import fetch_fingerprint
from aimer2.connectors.table import Table, load_table
from aimer2.core import tree
from aimer2.core.clock import SystemClock
from aimer2.core.errors import AimerError, BadStudy
from aimer2.core.study import Study, read_study
from aimer2.core.task import Task
from aimer2.messages.tensors import read_tree
from aimer2.repository import evaluation
from aimer2.site import snapshots
from aimer2.site.folder import SiteFolder
from aimer2.site.settings import Retention
from aimer2.study.checkpoint import store
from aimer2.study.events import Event, ReplyReceived, RoundFinished, StudyFinished
from aimer2.study.pack import pack
from aimer2.study.perform import open_performer

SITES = ("east", "north", "south", "west")
FEATURES = ("age", "dose", "pressure")
POLICY = '[[rule]]\nname = "tests"\nset_by = "Test Person"\ndecision = "approve"\n'
MAPPING = 'patient = "patient"\n' + "".join(f"[columns.{name}]\n" for name in (*FEATURES, "event"))
CANARY = ("3.731058578630005", "-1.6180339887498949", "2.7182818284590451")
"""One patient of north."""
TRIAL = """\
name = "differ"
question = "How do these hospitals differ?"
purpose = "test"
ethics = "none needed: drawn numbers"
principal_investigator = "Test Person"
expires = 2100-01-01
cohort = { dataset = "registry", features = [{ name = "age" }, { name = "dose" }], target = { name = "event" } }
model = { framework = "numpy", name = "logistic" }
training = { learning_rate = 0.2, local_steps = 2 }
sites = { names = ["east", "north", "south", "west"], minimum = 4 }
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("secure")
    with Federation(folder) as made:
        made.make_coordinator()
        made.run_coordinator()
        made.make_sites([hospital(folder, number, name) for number, name in enumerate(SITES)])
        for name in SITES:
            made.run_site(name)
        yield made


def hospital(folder: Path, number: int, name: str) -> Hospital:
    rng = np.random.default_rng(number)
    rows = [[*map(repr, map(float, rng.normal(size=3))), str(rng.integers(2))] for _ in range(60 + 10 * number)]
    if name == "north":
        rows[7] = [*CANARY, "1"]
    lines = [",".join(("patient", *FEATURES, "event")), *(",".join((f"{name}-{row}", *values)) for row, values in enumerate(rows))]
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    # Of somebody whom it does not know, a person at west decides.
    return Hospital(name, path, MAPPING, POLICY + ('principal_investigators = ["Test Person"]\n' if name == "west" else ""))


def study_of(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "secure",
        "question": "Is the sum that nobody can look into the right one?",
        "purpose": "test",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Test Person",
        "expires": datetime.date(2100, 1, 1),
        "cohort": {
            "dataset": "registry",
            "features": [{"name": name} for name in FEATURES],
            "target": {"name": "event"},
            "standardise": "none",
        },
        "model": {"framework": "numpy", "name": "logistic"},
        "training": {"learning_rate": 0.2, "batch_size": 16, "local_epochs": 1},
        "method": {"name": "scaffold", "rounds": 8},
        "sites": {"names": list(SITES), "minimum": 4, "quorum": 3, "deadline_seconds": 60},
        "evaluation": {"held_out": 0.25},
    }
    return Study(**(fields | changes))


def table_of(federation: Federation, name: str) -> Table:
    record = snapshots.current(SiteFolder(federation.site(name)), "registry", Retention(), SystemClock().now())
    return load_table(record.path, verify=True)


def is_reply(event: Event, number: int) -> bool:
    return isinstance(event, ReplyReceived) and event.stage == "train" and event.round_number == number


def test_killed_in_the_middle_of_its_phases_it_has_the_bits_of_the_simulator(federation: Federation) -> None:
    study = study_of()
    assert study.privacy.secure_aggregation, "on by default"
    run = federation.researcher().submit(study, federation.folder)
    events: list[Event] = []
    victims = {1: "north", 3: "coordinator", 5: "south", 6: "coordinator"}
    for event in run.events():
        events.append(event)
        number = next((number for number in victims if is_reply(event, number)), None)
        if number is not None:
            victim = victims.pop(number)
            federation.kill(victim)
            federation.run_coordinator() if victim == "coordinator" else federation.run_site(victim)
    assert not victims
    assert isinstance(events[-1], StudyFinished), events[-1]
    finished = [event for event in events if isinstance(event, RoundFinished) and event.stage == "train"]
    assert [(event.round_number, event.took_part) for event in finished] == [(number, SITES) for number in range(1, 9)]
    assert all(event.secrecy is not None and event.attempt == 1 for event in finished)
    simulated = simulate(study, {name: table_of(federation, name) for name in SITES})
    model = federation.researcher().model(run.digest)
    assert model.keys() == simulated.model.keys()
    for name, leaf in simulated.model.items():
        np.testing.assert_array_equal(model[name], leaf, strict=True)
    result = run.result()
    assert result["figures"] == [figure.model_dump() for figure in simulated.figures]


def test_a_statistical_question_of_hospitals_is_answered_at_once_where_their_rules_approve(federation: Federation) -> None:
    terms = Terms(ethics="none needed", principal_investigator="Test Person")
    found = ask("glm", "dose ~ age + pressure", federation.researcher(), dataset="registry", terms=terms)
    tables = [table_of(federation, name).columns for name in SITES]
    age, dose, pressure = (np.concatenate([table[name].values for table in tables]) for name in ("age", "dose", "pressure"))
    design = np.column_stack([np.ones(len(age)), age, pressure])
    expected, *_ = np.linalg.lstsq(design, dose)
    np.testing.assert_allclose(found.frame("Coefficients")["estimate"], expected, rtol=1e-10, atol=1e-12)
    summary = federation.researcher().study("question-glm")
    assert summary.round_number >= 1, "the rounds of a question are counted too"
    result = Run(federation.researcher(), summary.digest).result()
    assert result["tables"] == [table.model_dump(mode="json") for table in found]
    assert result["privacy"]["secure_aggregation"]["sites"] == 4 and result["analyses"][0]["formula"] == "dose ~ age + pressure"


@pytest.fixture
def command(federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A researcher's command, by a process of its own, with a log-in made as a person makes it; returns what it prints."""
    monkeypatch.setenv("AIMER2_HOME", str(tmp_path / "home"))
    password = tmp_path / "password"
    password.write_text(federation.password + "\n")
    pin = fetch_fingerprint(federation.url)
    federation.command("login", federation.url, "--user", RESEARCHER, "--fingerprint", pin, "--password-file", str(password))
    return federation.command


def test_a_trial_of_hospitals_says_how_they_differ(federation: Federation, command: Callable[..., str], tmp_path: Path) -> None:
    """`study diagnose --submit`: the figures and the recommendation of the simulator, of sums that nobody could look into."""
    path = tmp_path / "study.toml"
    path.write_text(TRIAL)
    digest = json.loads(command("study", "diagnose", str(path), "--submit", "--rounds", "2", "--json"))["digest"]
    ended = [*Run(federation.researcher(), digest).events()][-1]
    assert isinstance(ended, StudyFinished), ended
    found = json.loads(command("study", "results", digest, "--json"))
    assert found["privacy"]["secure_aggregation"]["sites"] == 4 and found["released"] == {}
    simulated = diagnose(read_study(path), {name: table_of(federation, name) for name in SITES}, rounds=2)
    assert found["diagnosis"]["measured"] == pytest.approx(simulated.measured, rel=1e-6, abs=1e-6)
    assert found["diagnosis"]["recommendation"]["method"] == simulated.method
    assert "Recommended:" in command("study", "results", digest)


def test_how_many_patients_there_are_is_told_once_a_person_has_approved_the_question(
    federation: Federation, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`study feasibility` waits for west, whose rules do not know the investigator; then it prints each hospital's rounded counts, added."""
    criteria = ("--where", "age >= 0", "--where", "dose < 1")
    told = ("--dataset", "registry", "--ethics", "none needed", "--investigator", "Dr Otto Fremd")
    with ThreadPoolExecutor(1) as beside:
        printed = beside.submit(command, "study", "feasibility", *criteria, *told)
        asked = approved_at_west(federation, "feasibility")
        text = printed.result(60)
    counts = np.zeros(3)
    for name in SITES:
        columns = table_of(federation, name).columns
        older = columns["age"].values >= 0
        left = np.array([len(older), older.sum(), (older & (columns["dose"].values < 1)).sum()])
        counts += np.where(left < 10, 0, 10 * ((left + 5) // 10))
    for stage, count in zip(("all patients", "age >= 0", "dose < 1"), counts, strict=True):
        assert re.search(rf"{stage}\s+{count:.0f}\b", text), text
    decided = {one.site: one for one in asked.summary().sites}
    assert decided["west"].by == "Dr Ines Vogt" and decided["east"].by != "Dr Ines Vogt"


def approved_at_west(federation: Federation, name: str) -> Run:
    """The study of this name, once it has come to west and a person there has approved it."""
    researcher = federation.researcher()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        known = [study.digest for study in researcher.studies() if study.name == name]
        if known:
            with suppress(AimerError):
                # until it has been fetched
                federation.command("site", "approve", known[0][:16], "--by", "Dr Ines Vogt", "--folder", str(federation.site("west")))
                return Run(researcher, known[0])
    raise AssertionError(f"{name} has not come to west")


def test_a_version_is_measured_by_a_study_of_its_own_that_outlives_the_coordinator(
    federation: Federation, command: Callable[..., str], tmp_path: Path
) -> None:
    """With the weights and the common moments of its training, on the patients held out then, it finds what that study found."""
    cohort = study_of().cohort.model_dump() | {"standardise": "federated"}
    made = federation.researcher().submit(study_of(name="measured", cohort=cohort, method={"name": "fedavg", "rounds": 2}), federation.folder)
    assert isinstance([*made.events()][-1], StudyFinished)
    asked = command("model", "evaluate", "measured", "--ethics", "none needed", "--investigator", "Test Person", "--minimum", "4", "--json")
    run = Run(federation.researcher(), json.loads(asked)["digest"])
    events: list[Event] = []
    for event in run.events():
        events.append(event)
        if isinstance(event, RoundFinished) and event.stage == "preflight":
            federation.kill("coordinator")
            federation.run_coordinator()
    assert isinstance(events[-1], StudyFinished), events[-1]
    before, result = made.result(), run.result()
    assert result["evaluation"] == {"of": made.digest, "dataset": "registry", "held_out": 0.25}
    assert result["model"] == before["model"]
    assert result["privacy"]["secure_aggregation"]["sites"] == 4
    figures = [[(one["name"], one["n"], one["value"]) for one in found["figures"]] for found in (result, before)]
    assert [one[:2] for one in figures[0]] == [one[:2] for one in figures[1]]
    assert [one[2] for one in figures[0]] == pytest.approx([one[2] for one in figures[1]], rel=1e-6)
    told = next(one for one in federation.researcher().models() if one.study == made.digest)
    assert [(one.study, one.sites) for one in told.evaluations] == [(run.digest, SITES)]
    assert run.digest not in [one.study for one in federation.researcher().models()], "it has left no model of its own"
    assert "Evaluated by measured-evaluation" in " ".join(command("model", "show", "measured").split())
    misled(federation, tmp_path)


def misled(federation: Federation, folder: Path) -> None:
    """The same study with other moments is refused by the coordinator, which knows those of the training."""
    researcher, blobs = federation.researcher(), MemoryStore()
    version = researcher.pull("measured", folder / "version")
    terms = evaluation.Terms(ethics="none needed", principal_investigator="Test Person", expires=datetime.date(2100, 1, 1), sites=SITES)
    roster = {site.site: site.key for site in researcher.sites()}
    package = pack(evaluation.evaluation_of(version, terms), folder / "version", roster, blobs)
    assert package.moments is not None
    moments = {name: tree.load(leaf) + (name == "mean") for name, leaf in read_tree(blobs.open(package.moments)).items()}
    package = package.model_copy(update={"moments": store(moments, blobs)})
    for ref in package.blobs:
        researcher._upload(blobs.open(ref))
    with pytest.raises(BadStudy, match="moments"):
        researcher._transport.ask("POST", "/v1/studies", package)


def needles(federation: Federation, study: Study) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What to look for on the coordinator's disk: north's first update before it was masked, and the canary's values."""
    performer = open_performer(study, table_of(federation, "north"), site="north", files={})
    task = Task(id="t", study="5e" * 32, site="north", stage="train", round_number=1)
    model: Mapping[str, Any] = {"coefficients": np.zeros(3), "intercept": np.zeros(1)}
    sums = performer.perform(task, {"model": model}, {}).sums
    update = {leaf: np.asarray(array).tobytes() for leaf, array in sums["difference"].items()} | {
        "loss": np.asarray(sums["metrics"]["loss"]).tobytes()
    }
    values = {f"{text} as {kind}": np.array(float(text), kind).tobytes() for text in CANARY for kind in ("float64", "float32")}
    values |= {f"{text} as text": text[:12].encode() for text in CANARY}
    return update, values


def found(folder: Path, wanted: Mapping[str, bytes]) -> set[str]:
    """Which of it lies in a file of the folder: as bytes, or within base64."""
    hits = set()
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        for name, data in wanted.items():
            coded = [base64.b64encode(bytes(shift) + data)[(4 * shift + 2) // 3 + 1 : -4] for shift in range(3)]
            if data in content or any(len(part) >= 8 and part in content for part in coded):
                hits.add(name)
    return hits


# In the clear comes last: a database keeps what was deleted until its pages are used again.
@pytest.mark.parametrize("secure", [True, False], ids=["in secret", "power check: in the clear"])
def test_the_coordinators_disk_never_holds_an_update_or_a_patient(federation: Federation, secure: bool) -> None:
    """Looked for while north has answered and another site has not: in the clear the update lies there then, so it would be found."""
    privacy = {} if secure else {"privacy": {"secure_aggregation": False, "why_not_secure": "a test"}}
    sites = {"names": list(SITES), "minimum": 4, "quorum": 3, "deadline_seconds": 2}
    study = study_of(name="in-secret" if secure else "in-the-clear", method={"name": "fedavg", "rounds": 2}, sites=sites, **privacy)
    update, values = needles(federation, study)
    assert all(len(data) >= 8 for data in update.values())
    run = federation.researcher().submit(study, federation.folder)
    hits: set[str] = set()
    replies = 0
    for event in run.events():
        if isinstance(event, RoundFinished) and event.stage == "preflight":
            federation.kill("west")
        replies += is_reply(event, 1)
        if is_reply(event, 1):
            hits |= found(federation.folder / "coordinator", update | values)
    federation.run_site("west")
    assert replies >= 3
    hits |= found(federation.folder / "coordinator", update | values)
    assert hits == (set() if secure else set(update))
    assert not found(federation.folder / "coordinator", values)
    assert run.result()["figures"]
