"""The documentation names everything that there is, its commands exist, its links lead somewhere, its examples run."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from aimer2.algorithms import catalogue
from aimer2.cli.main import aimer2
from aimer2.client.simulate import simulate
from aimer2.compression import catalogue as compressions
from aimer2.connectors.csv import Csv
from aimer2.connectors.images import Images
from aimer2.connectors.mapping import ColumnMapping, DataMapping, read_mapping
from aimer2.connectors.npz import Npz
from aimer2.coordinator.app import build_app
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.permissions import PARTS, ROLES
from aimer2.coordinator.settings import Folder, OpenIdSettings
from aimer2.coordinator.settings import Settings as CoordinatorSettings
from aimer2.coordinator.setup import initialise
from aimer2.core import errors, study
from aimer2.core.clock import SystemClock
from aimer2.core.disclosure import Disclosure
from aimer2.learners.catalogue import _FRAMEWORKS
from aimer2.learners.schedules import SCHEDULES
from aimer2.metrics import figures
from aimer2.models import catalogue as models
from aimer2.site import settings as site
from aimer2.site.approval import Policy, Rule
from aimer2.site.datasets import DatasetSettings
from aimer2.statistics import catalogue as statistics
from aimer2.study.check import check

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
KINDS = get_args(figures.Task)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """From a heading to the next one."""
    _, _, rest = page(name).partition(f"\n{heading}")
    assert rest, f"{name} has no heading {heading}"
    return re.split(r"\n#+ ", rest)[0]


def missing(names: object, text: str) -> list[str]:
    return [name for name in names if f"`{name}`" not in text]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("document", "heading"),
    [
        (study.Study, "## The study itself"),
        (study.Cohort, "## `[cohort]`"),
        (study.Feature, "### `[[cohort.features]]`"),
        (study.Image, "### `[cohort.image]`"),
        (study.Target, "### `[cohort.target]`"),
        (study.Analysis, "## `[[analyses]]`"),
        (study.Model, "## `[model]`"),
        (study.Training, "## `[training]`"),
        (study.Method, "## `[method]`"),
        (study.Compression, "### `[method.compression]`"),
        (study.Sites, "## `[sites]`"),
        (study.Evaluation, "## `[evaluation]`"),
        (study.Privacy, "## `[privacy]`"),
        (study.DifferentialPrivacy, "## `[privacy]`"),
    ],
)
def test_every_field_of_a_study(document: type[BaseModel], heading: str) -> None:
    assert missing(document.model_fields, section("docs/study-file.md", heading)) == []


def test_every_metric_model_optimiser_and_schedule() -> None:
    text = page("docs/study-file.md")
    assert missing([metric for kind in KINDS for metric in figures.available(kind)], text) == []
    for framework, has in _FRAMEWORKS.items():
        rows = [line for line in text.splitlines() if line.startswith(f"| `{framework}` |")]
        for model in models.available(framework):
            row = next(line for line in rows if f"| `{model}` |" in line)
            assert missing(models.options(framework, model).model_fields, row) == []
        assert missing(has.optimisers, text) == []
    assert missing(SCHEDULES, text) == []


def test_every_method_with_its_hyper_parameters() -> None:
    for name in catalogue.names():
        fields = {field.name for field in dataclasses.fields(catalogue.example(name))} - {"rounds"}
        assert missing(fields, section("docs/methods.md", f"## `{name}`")) == []


def test_every_method_states_a_limit_that_a_test_holds_it_to() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| .+ \| .+ \| `(\w+\.py)`: `(\w+)` \|$", section("docs/methods.md", "## In which limit a method is another"), re.MULTILINE
    )
    assert sorted(name for name, _, _ in rows) == sorted(catalogue.names())
    for name, file, test in rows:
        assert f"\ndef {test}(" in (ROOT / "tests" / "algorithms" / file).read_text(encoding="utf-8"), name


def test_every_statistical_method_with_its_options() -> None:
    for name in statistics.names():
        assert missing(statistics.options(name), section("docs/statistics.md", f"### `{name}`")) == []


def test_every_compression_with_its_parameters_and_equation() -> None:
    for name in compressions.names():
        fields = {field.name for field in dataclasses.fields(compressions.example(name))}
        text = section("docs/compression.md", f"### `{name}`")
        assert missing(fields, text) == []
        assert re.search(r"\b(19|20)\d\d\b", text), f"{name}: no source"
    assert missing(compressions.names(), section("docs/study-file.md", "### `[method.compression]`")) == []


def test_every_error() -> None:
    text = page("docs/errors.md")
    assert [code for code, error in errors.catalogue().items() if f"| `{code}` | {error.status} |" not in text] == []


def test_every_setting() -> None:
    settings = page("docs/site-settings.md")
    for document in (
        site.Settings,
        site.CoordinatorAddress,
        site.WorkerSettings,
        site.Retention,
        site.ConsoleSettings,
        Disclosure,
        DatasetSettings,
        Csv,
        Images,
        Npz,
    ):
        assert missing(document.model_fields.keys() - {"worker", "coordinator", "retention", "disclosure", "console"}, settings) == []
    guide = page("docs/site-guide.md")
    assert missing([*Rule.model_fields, *ColumnMapping.model_fields], guide) == []
    assert [name for name in DataMapping.model_fields if name not in guide] == []
    assert missing([*CoordinatorSettings.model_fields, *OpenIdSettings.model_fields, *ROLES, *PARTS], page("docs/coordinator-guide.md")) == []


def test_every_route(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "coordinator")
    initialise(folder, CoordinatorSettings(name="Test", url="https://127.0.0.1:8443"), SystemClock())

    async def paths() -> dict[str, dict[str, object]]:
        coordinator = Coordinator.open(folder)
        try:
            described: dict[str, dict[str, object]] = build_app(coordinator).openapi()["paths"]
            return described
        finally:
            await coordinator.close()

    routes = [f"{method.upper()} {path}" for path, methods in asyncio.run(paths()).items() for method in methods]
    assert missing(routes, page("docs/wire-protocol.md")) == []


def commands(group: click.Command, name: str = "aimer2") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(group, click.Group):
        yield name, group
        return
    context = click.Context(group)
    for word in group.list_commands(context):
        found = group.get_command(context, word)
        assert found is not None
        yield from commands(found, f"{name} {word}")


def test_every_command() -> None:
    text = _without_group_option(" ".join(" ".join(path.read_text(encoding="utf-8").split()) for path in PAGES))
    assert [name for name, _ in commands(aimer2) if name not in text] == []


def test_commands_of_the_documentation_exist_with_their_options() -> None:
    known = dict(commands(aimer2))
    for path in PAGES:
        for line in _commands_of(path.read_text(encoding="utf-8")):
            name = max((name for name in known if f"{line} ".startswith(f"{name} ")), key=len, default=None)
            assert name is not None, f"{path.name}: there is no command `{line}`"
            options = {option for parameter in known[name].params for option in parameter.opts}
            unknown = [word for word in shlex.split(line) if re.fullmatch("--[a-z-]+", word) and word not in options]
            assert not unknown, f"{path.name}: `{line}`"


def _commands_of(text: str) -> Iterator[str]:
    """Lines of code blocks that call aimer2, without comments and redirections."""
    for block in re.findall(r"```\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"\s*(?:\S*/bin/)?(aimer2 [^#<>|&]+)", line):
                yield _without_group_option(found[1].strip())


def _without_group_option(text: str) -> str:
    """An option of a group may stand before the command."""
    return re.sub(r"(aimer2 coordinator) --folder \S+", r"\1", text)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match("[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = path.parent / place if place else path
        assert file.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in {_anchor(title) for title in re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)}, target


def test_every_picture_is_shown_and_small() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    for picture in (ROOT / "docs" / "images").iterdir():
        assert f"](images/{picture.name})" in text, picture.name
        assert picture.stat().st_size < 150_000, picture.name


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_python_of_the_pages_runs() -> None:
    for block in re.findall(r"```python\n(.*?)```", page("docs/methods.md"), re.DOTALL):
        exec(compile(block, "docs/methods.md", "exec"), {})


@pytest.mark.parametrize("script", ["own_algorithm.py", "simulate_breast_cancer.py", "simulate_lung_cancer.py"])
def test_the_scripts_run(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
    assert re.search(r"\d\.\d", capsys.readouterr().out)


def test_the_survival_example_has_no_faults_as_it_is_and_with_its_intervals(tmp_path: Path) -> None:
    folder = ROOT / "examples" / "breast-cancer-survival"
    text = (folder / "study.toml").read_text(encoding="utf-8")
    for other in (text, re.sub(r"(?m)^# (intervals|horizons)", r"\1", text)):
        (tmp_path / "study.toml").write_text(other, encoding="utf-8")
        assert check(study.read_study(tmp_path / "study.toml"), tmp_path, SystemClock()) == []


def test_the_trial_s_plan_is_answered_in_secret() -> None:
    """By three of its hospitals; the plan has no faults as it is."""
    folder = ROOT / "examples" / "trial-plan"
    plan = study.read_study(folder / "study.toml")
    assert check(plan, folder, SystemClock()) == []
    hospital = runpy.run_path(str(ROOT / "examples" / "simulate_trial.py"), run_name="example")["hospital"]
    few = plan.model_copy(update={"sites": plan.sites.model_copy(update={"minimum": 3})})
    found = simulate(few, {f"hospital-{number}": hospital(number) for number in range(3)}).tables
    assert {table.analysis for table in found} == {analysis.name for analysis in plan.analyses}
    assert not [table.title for table in found if table.title == "No answer"]


def test_the_study_folder_is_a_study_with_a_mapping_and_rules() -> None:
    folder = ROOT / "examples" / "heart-disease"
    example = study.read_study(folder / "study.toml")
    assert check(example, folder, SystemClock()) == []
    columns = read_mapping(folder / "mapping.toml").columns
    for wanted in (*example.cohort.features, example.cohort.target):
        assert columns[wanted.name].categories == wanted.categories
        assert columns[wanted.name].unit == wanted.unit
    approving = site.read_toml(folder / "policy.toml", Policy).rule[0]
    assert (example.cohort.dataset in approving.datasets, example.method.name in approving.methods) == (True, True)


@pytest.mark.parametrize("name", ["lung-cancer-survival", "heart-disease", "trial-plan"])
def test_an_ethics_board_can_read_what_an_example_asks_and_what_leaves(name: str) -> None:
    file = ROOT / "examples" / name / "study.toml"
    told = CliRunner().invoke(aimer2, ["study", "explain", str(file), "--hospitals", "17"])
    asked = study.read_study(file)
    assert told.exit_code == 0 and asked.question in told.output and asked.ethics in told.output
    assert all(column.name in told.output for column in asked.columns) and "of the 17 sites" in told.output
    assert all(analysis.formula in told.output for analysis in asked.analyses) and "Digest" not in told.output
