"""What an approval covers: the rounds of each stage, and the methods in the versions that were approved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aimer2.algorithms import catalogue
from aimer2.core.errors import VersionMismatch
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.core.task import Stage
from aimer2.messages.package import Package
from aimer2.statistics import catalogue as statistics
from aimer2.study import evaluating
from aimer2.study.analysing import VERSION


def rounds(study: Study, stage: Stage) -> int:
    """How many the approved study has."""
    if study.analyses:
        return {"preflight": 1, "analyse": study.rounds}.get(stage, 0)
    if study.evaluates is not None:
        return {"preflight": 1, "final": 1}.get(stage, 0)
    moments, final = 2 if study.cohort.common_moments else 0, 1 if study.evaluation.held_out > 0 else 0
    return {"preflight": 1, "moments": moments, "train": study.method.rounds, "final": final}.get(stage, 0)


def require_methods(package: Package) -> None:
    """Raises VersionMismatch where this installation would compute something else than what was approved."""
    if package.study.evaluates is not None:
        if package.method_version != evaluating.VERSION:
            raise VersionMismatch(
                say(
                    "This site does not have version {method_version} of the way in which a model is measured.", method_version=package.method_version
                )
            )
        return
    if not package.study.analyses:
        _require(package.study.method.name, package.method_version, catalogue.names(), catalogue.version)
        return
    if package.method_version != VERSION:
        raise VersionMismatch(
            say(
                "This site does not have version {method_version} of the way in which analyses go through a study.",
                method_version=package.method_version,
            )
        )
    for name in package.study.methods:
        _require(name, package.versions.get(name), statistics.names(), statistics.version)


def _require(name: str, wanted: int | None, known: Sequence[str], version: Callable[[str], int]) -> None:
    if name not in known or version(name) != wanted:
        raise VersionMismatch(say("This site does not have version {wanted} of the method '{name}'.", wanted=wanted, name=name))
