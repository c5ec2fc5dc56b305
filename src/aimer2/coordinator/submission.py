"""Whether a coordinator can offer a submitted study: all faults at once, before any site is asked."""

from __future__ import annotations

from collections.abc import Sequence

from aimer2.coordinator.registry import Registry
from aimer2.core.errors import BadStudy, Fault
from aimer2.core.said import say
from aimer2.messages.package import Package
from aimer2.secure_aggregation.roster import MINIMUM
from aimer2.study.check import promises, too_few_groups


def check_package(package: Package, by: str, registry: Registry, missing: Sequence[str], now: float) -> None:
    """``missing``: SHA-256 of the package's blobs that its submitter has not uploaded. Raises BadStudy with every fault."""
    faults = [*promises(package.study), *faults_of_predecessor(package.supersedes, by, registry)]
    if not faults and not package.study.sites.names:
        faults += too_few_groups(package.study, len(package.roster))
    faults += [Fault("blobs", say("{sha256}… was not uploaded", sha256=sha256[:16]), "upload it, then submit again") for sha256 in missing]
    if package.study.expires_at <= now:
        faults.append(Fault("expires", "lies in the past", "give a day to come"))
    if package.study.model.code is not None and package.study.model.code not in package.files:
        faults.append(Fault("files", say("{code} is not among the files", code=package.study.model.code), "submit the study with its code"))
    faults += _faults_of_roster(package, registry)
    if faults:
        raise BadStudy(faults)


def faults_of_predecessor(supersedes: str | None, by: str, registry: Registry) -> list[Fault]:
    """Whether this person may put a new version in the place of that study."""
    if supersedes is None:
        return []
    known = registry.studies.get(supersedes)
    if known is None or known.submitted_by != by:
        return [Fault("supersedes", "is no study of yours here", "name the study's digest, as `aimer2 study list` shows it")]
    if (successor := registry.successor(supersedes)) is not None:
        return [Fault("supersedes", say("has a newer version already, {successor}", successor=successor[:16]), "make that one's next version")]
    if known.state == "running":
        return [Fault("supersedes", "is running", "stop it first, or let it finish")]
    return []


def _faults_of_roster(package: Package, registry: Registry) -> list[Fault]:
    faults = []
    for name, key in sorted(package.roster.items()):
        site = registry.sites.get(name)
        if site is None or site.revoked:
            faults.append(Fault(f"roster.{name}", "is not enrolled here", "name sites that `aimer2 sites` lists"))
        elif site.key.text != key:
            faults.append(Fault(f"roster.{name}", "has another key here", "submit again with the site's present key"))
    named = package.study.sites.names
    if named and set(named) != set(package.roster):
        faults.append(Fault("roster", "is not the list of `sites.names`", "submit the study again"))
    if len(package.roster) < package.study.sites.minimum:
        problem = say("{count} sites are asked, {minimum} must approve", count=len(package.roster), minimum=package.study.sites.minimum)
        faults.append(Fault("sites.minimum", problem, "ask more sites, or lower `minimum`"))
    if package.study.privacy.secure_aggregation and len(package.roster) < MINIMUM:
        problem = say("{count} sites are asked; secure aggregation needs at least {minimum}", count=len(package.roster), minimum=MINIMUM)
        faults.append(Fault("roster", problem, "wait until more hospitals have enrolled, or submit without secure aggregation and say why"))
    return faults
