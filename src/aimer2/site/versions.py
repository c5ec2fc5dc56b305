"""A new version of a study, beside the one that people here have decided about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from aimer2.core.clock import rfc3339
from aimer2.messages.package import Package
from aimer2.messages.wire import Decision
from aimer2.site.decisions import Decisions
from aimer2.study.difference import changed_code, changed_fields


@final
@dataclass(frozen=True, slots=True)
class Earlier:
    """The version before, as this site knows it: the last that was approved here, else the last that it knows. ``approval``: who and when."""

    digest: str
    package: Package
    code: Mapping[str, str]
    approval: Decision | None


@final
@dataclass(frozen=True, slots=True)
class Change:
    """Of a version that takes the place of another, ``supersedes``: a line for each changed field, and the changed lines of code.

    ``earlier``: what it is compared with; None where this site knows no earlier version.
    """

    supersedes: str
    earlier: Earlier | None
    fields: Sequence[str]
    code: Sequence[str]


def code_of(decisions: Decisions, digest: str, package: Package) -> dict[str, str]:
    """The texts of the study's files, as a worker would read them."""
    files = decisions.folder.study(digest) / "files"
    return {name: (files / name).read_text(encoding="utf-8", errors="replace") for name in package.files}


def earlier_of(decisions: Decisions, package: Package) -> Earlier | None:
    """None where the site knows no earlier version."""
    known: list[Earlier] = []
    before = package.supersedes
    while before is not None:
        study = decisions.store.study(before)
        if study is None or study.package is None:
            break
        approvals = [decision for decision in decisions.store.decisions(before) if decision.decision == "approve"]
        known.append(Earlier(before, study.package, code_of(decisions, before, study.package), approvals[-1] if approvals else None))
        before = study.package.supersedes
    return next((one for one in known if one.approval is not None), known[0] if known else None)


def change_of(decisions: Decisions, package: Package, code: Mapping[str, str]) -> Change | None:
    """None for a first version. ``code``: of ``package``."""
    if package.supersedes is None:
        return None
    earlier = earlier_of(decisions, package)
    if earlier is None:
        return Change(package.supersedes, None, (), ())
    return Change(package.supersedes, earlier, changed_fields(earlier.package, package), changed_code(earlier.code, code))


def describe_change(decisions: Decisions, package: Package, code: Mapping[str, str]) -> list[str]:
    """What a person reads about a new version: against which one, every changed field, every changed line of code. Empty for a first version."""
    change = change_of(decisions, package, code)
    if change is None:
        return []
    head = f"New version      takes the place of {change.supersedes[:16]}; it needs an approval of its own"
    earlier = change.earlier
    if earlier is None:
        return [head, "                 this site does not know that study, so nothing can be compared", ""]
    told = "nobody here has approved" if earlier.approval is None else f"{earlier.approval.by} approved on {rfc3339(int(earlier.approval.time))}"
    lines = [head, f"Changed          against {earlier.digest[:16]}, which {told}:"]
    lines += [f"                 {line}" for line in change.fields or ["no field"]]
    lines += [f"                 {line}" for line in change.code]
    return [*lines, ""]
