"""The data contract, checked before the first round: every fault of a site's data and machine in one answer.

Leaves the site: the checks. Their sentences name the study's columns and terms, the declared units and the versions installed; patients are
counted to the nearest five, fewer than the site's minimum cell never exactly, and no cell is quoted.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from aimer2.connectors.table import Table, count_patients
from aimer2.core.errors import BadData
from aimer2.core.said import Said, joined, mark, say
from aimer2.core.study import Cohort, Feature, Image, Study, Target
from aimer2.core.task import Check
from aimer2.learners.batches import validation
from aimer2.learners.catalogue import distribution, frameworks
from aimer2.study import cohort as cohorts
from aimer2.study.images import Masks, check_image, check_mask

DISK_BYTES = 1 << 30
"""Free disk that a study needs: models, updates and the worker's files."""

MEMORY_BYTES = 1 << 29
"""Free memory that a study needs besides its rows: the interpreter, the framework and a small model."""

COPIES = 4
"""So often the rows lie in memory at the worst moment: as table, as design, prepared, and as the framework has them."""


@final
@dataclass(frozen=True, slots=True)
class Environment:
    """What this machine offers: versions by canonical package name (and `python`), free bytes; None where it cannot be told."""

    packages: Mapping[str, str]
    disk_free: int
    memory_available: int | None


def probe(path: Path) -> Environment:
    """The facts of this process's machine; ``path`` lies on the disk that will be used."""
    return Environment(Installed(), shutil.disk_usage(path).free, _memory())


@final
class Installed(Mapping[str, str]):
    """Versions by canonical name, and `python`; looked up one by one, for to read what all of them say of themselves takes half a second."""

    def __getitem__(self, name: str) -> str:
        try:
            return platform.python_version() if name == "python" else metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        yield from {"python", *(canonicalize_name(found.name) for found in metadata.distributions())}

    def __len__(self) -> int:
        return sum(1 for _ in self)


def checks(study: Study, table: Table, environment: Environment) -> tuple[Check, ...]:
    """Every check in one go. Those that count rows (missing, patients, classes, held-out) are there only where the columns are right."""
    contract = tuple(_columns(study.cohort, table))
    # Images are read batch by batch.
    together = len(table) if study.cohort.image is None else min(len(table), study.training.batch_size or len(table))
    needed = MEMORY_BYTES + COPIES * 8 * together * prod(cohorts.feature_shape(study.cohort))
    rows = tuple(_rows(study, table)) if all(check.passed for check in contract) else ()
    return (*contract, *rows, _packages(study, environment), _framework(study, environment), *_room_for(needed, environment))


def statistical_checks(study: Study, table: Table, environment: Environment) -> tuple[Check, ...]:
    """The same of a study that asks statistical questions: its columns, its patients, this machine.

    Under differential privacy ranges are not checked: the questions clip values to them, and whether all patients are within is told without noise.
    """
    cohort = study.cohort.model_copy(update={"features": study.columns})
    is_private = study.privacy.differential_privacy is not None
    contract = tuple(check for check in _columns(cohort, table) if check.name != "ranges" or not is_private)
    enough = _enough(cohort, count_patients(table.patient))
    needed = MEMORY_BYTES + COPIES * 8 * len(table) * len(study.columns)
    return (*contract, enough, _packages(study, environment), *_room_for(needed, environment))


def _enough(cohort: Cohort, patients: int) -> Check:
    enough = patients >= cohort.minimum_patients
    told = say("There are at least the {count} patients that the study asks for.", count=cohort.minimum_patients)
    fewer = say("There are fewer usable patients than the {count} patients that the study asks for.", count=cohort.minimum_patients)
    return Check(name="patients", passed=enough, finding=told if enough else fewer)


def _columns(cohort: Cohort, table: Table) -> Iterator[Check]:
    groups = () if cohort.group is None else (cohort.group,)
    asked: tuple[Feature | Target, ...] = (*cohort.features, *groups, *cohort.target.columns)
    names = [wanted.name for wanted in asked] + ([] if cohort.image is None else [cohort.image.name])
    there = [(wanted, table.columns[wanted.name]) for wanted in asked if wanted.name in table.columns]
    fitting = [(wanted, column) for wanted, column in there if _fault(cohorts.check_kind, wanted, column) is None]
    numbers = [(wanted, column) for wanted, column in fitting if isinstance(wanted, Feature) and wanted.kind == "number"]
    yield _check("columns", say("All {count} columns are there.", count=len(names)), [_fault(cohorts.find, table, name) for name in names])
    yield _check("kinds", "Every column is of the kind asked for.", [_fault(cohorts.check_kind, *pair) for pair in there])
    yield _check("units", "Every unit is the one asked for.", [_fault(cohorts.check_unit, *pair) for pair in there])
    strange = [_fault(cohorts.check_categories, *pair, table) for pair in fitting]
    yield _check("categories", "No category is unknown to the study.", strange)
    ranges = [_fault(cohorts.check_range, *pair, table) for pair in numbers]
    if all(target.name in table.columns for target in cohort.target.columns):
        ranges.append(_fault(cohorts.check_times, cohort.target, table))
    yield _check("ranges", "Every number is in its range.", ranges)
    if cohort.image is not None and cohort.image.name in table.columns:
        yield _check("images", "Channels, size and bits of the images are those asked for.", _images(cohort, cohort.image, table))


def _images(cohort: Cohort, wanted: Image, table: Table) -> list[str | None]:
    images, target = table.columns[wanted.name], cohort.target.name
    found = [_fault(check_image, wanted, images)]
    if cohort.target.kind == "segmentation" and target in table.columns:
        found.append(_fault(check_mask, wanted, target, table.columns[target], images))
    return found


def _rows(study: Study, table: Table) -> Iterator[Check]:
    cohort = study.cohort
    whole = cohorts.design(cohort, table)
    incomplete = cohorts.incomplete(whole)
    yield _missing(cohort, whole, incomplete, table)
    usable = whole.at(~incomplete) if cohort.missing == "drop" else whole
    yield _enough(cohort, count_patients(usable.patient))
    train, held_out = cohorts.split(usable, study.evaluation.held_out)
    if study.evaluates is not None:
        finding = "There are patients to measure the model on." if len(held_out) else "No patient is left to measure the model on."
        yield Check(name="held-out", passed=len(held_out) > 0, finding=finding)
        yield from _outcomes(cohort.target, held_out, mark("to measure the model on"))
        return
    yield Check(
        name="training", passed=len(train) > 0, finding="There are patients to train on." if len(train) else "No patient is left to train on."
    )
    if study.evaluation.held_out > 0:
        finding = "There are held-out patients." if len(held_out) else "No patient is held out: the site adds nothing to the evaluation."
        yield Check(name="held-out", passed=len(held_out) > 0, blocking=False, finding=finding)
    if study.training.patience is not None:
        yield _validation(study, train)
    yield from _outcomes(cohort.target, train, mark("to train on"))


def _missing(cohort: Cohort, whole: cohorts.Design, incomplete: cohorts.Rows, table: Table) -> Check:
    if cohort.missing == "refuse" and incomplete.any():
        return _check("missing", "", [_fault(cohorts.check_complete, cohort, whole, table.minimum_cell)])
    patients = cohorts.about(whole.patient[incomplete], table.minimum_cell)
    lacking = cohorts.about(table.patient[cohorts.without_target(cohort.target, table)], table.minimum_cell)
    told = {
        "refuse": say("No feature is missing; without a target: {lacking}.", lacking=lacking),
        "drop": say("Rows left out for a missing feature: {patients}; without a target: {lacking}.", patients=patients, lacking=lacking),
        "keep": say("With a missing feature: {patients}; without a target: {lacking}.", patients=patients, lacking=lacking),
    }
    filled = say("Missing features filled in: {patients}; without a target: {lacking}.", patients=patients, lacking=lacking)
    return Check(name="missing", passed=True, finding=told.get(cohort.missing, filled))


def _validation(study: Study, train: cohorts.Design) -> Check:
    """Whether early stopping has something to look at."""
    judged = validation(train.patient, study.training.validation_share)
    if judged.all() or not judged.any():
        return Check(name="validation", passed=False, finding="There are too few patients to set a validation part aside for early stopping.")
    if study.cohort.target.kind == "survival" and not np.asarray(train.targets)[judged, 1].any():
        return Check(name="validation", passed=False, finding="Nobody in the validation part has had the event: early stopping cannot judge.")
    return Check(name="validation", passed=True, finding="There are patients for early stopping to look at.")


def _outcomes(target: Target, train: cohorts.Design, use: str) -> Iterator[Check]:
    """Whether there is each outcome that the model is to tell; ``use``: what the patients are for."""
    if target.kind == "survival":
        seen = bool(np.asarray(train.targets)[:, 1].any())
        finding = "The event occurs." if seen else say("No patient {use} has had the event.", use=Said(use))
        yield Check(name="events", passed=seen, blocking=False, finding=finding)
    elif target.kind == "multilabel":
        lacking = [name for name, values in zip(target.labels, np.asarray(train.targets).T, strict=True) if len(np.unique(values)) < 2]
        finding = (
            say("Only one side occurs among the patients {use}: {lacking}.", use=Said(use), lacking=", ".join(lacking))
            if lacking
            else "Every label is there and absent."
        )
        yield Check(name="classes", passed=not lacking, blocking=False, finding=finding)
    elif target.kind != "regression":
        found = train.targets.classes() if isinstance(train.targets, Masks) else np.unique(np.asarray(train.targets))
        passed = len(found) == target.classes
        finding = "Every class occurs." if passed else say("Not every class of the target occurs among the patients {use}.", use=Said(use))
        yield Check(name="classes", passed=passed, blocking=False, finding=finding)


def _packages(study: Study, environment: Environment) -> Check:
    outdated = [_outdated(name, text, environment.packages) for name, text in study.requires.items()]
    return _check("packages", "Every package is in its range.", outdated)


def _framework(study: Study, environment: Environment) -> Check:
    packages = environment.packages
    wanted = [distribution(framework) for framework in frameworks(study)]
    found = next((name for name in wanted if name in packages), None)
    finding = (
        say("{wanted} is not installed.", wanted=" or ".join(wanted))
        if found is None
        else say("{found} {packages}.", found=found, packages=packages[found])
    )
    return Check(name="framework", passed=found is not None, finding=finding)


def _room_for(needed: int, environment: Environment) -> Iterator[Check]:
    """``needed``: bytes of memory."""
    yield _room(mark("disk"), DISK_BYTES, environment.disk_free)
    if environment.memory_available is not None:
        yield _room(mark("memory"), needed, environment.memory_available)


def _outdated(name: str, wanted: str, packages: Mapping[str, str]) -> str | None:
    version = packages.get(canonicalize_name(name))
    if version is None:
        return say("{wanted} is not installed.", wanted=name)
    try:
        fits = SpecifierSet(wanted).contains(Version(version), prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return say("Whether {name} {version} is {wanted} cannot be told.", name=name, version=version, wanted=repr(wanted))
    return None if fits else say("{name} is {version}, the study asks for {wanted}.", name=name, version=version, wanted=wanted)


def _room(name: str, needed: int, free: int) -> Check:
    passed = free >= needed
    # What is free is the hospital's affair; what the study needs is not.
    enough = say("Enough {resource}: the study needs {size} free.", resource=Said(name), size=_gigabytes(needed))
    lacking = say("Not enough {resource}: the study needs {size} free.", resource=Said(name), size=_gigabytes(needed))
    return Check(
        name=name,
        passed=passed,
        finding=enough if passed else lacking,
    )


def _gigabytes(count: int) -> str:
    """To a tenth above, so that it tells the number of rows but coarsely."""
    return f"{np.ceil(count / (1 << 30) * 10) / 10:.1f} GiB"


def _check(name: str, passed: str, faults: Iterable[str | None]) -> Check:
    found = list(dict.fromkeys(fault for fault in faults if fault is not None))
    return Check(name=name, passed=not found, finding=joined(found) if found else passed)


def _fault(check: Callable[..., object], *arguments: Any) -> str | None:
    try:
        check(*arguments)
    except BadData as error:
        return error.sentence
    return None


def _memory() -> int | None:
    """Bytes that a process can still have: what Linux says is available, not more than this control group may use."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
    try:
        return min(available, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return available
