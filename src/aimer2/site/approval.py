"""Whether this hospital takes part in a study: one pure function over the hospital's own rules.

Without a rule every study waits for a named person. A rule can approve, or refuse, whole classes of studies on behalf of the person who set
it. A study is approved by a rule only if *every* condition of that rule holds; the first rule that fits decides; refusing rules come first.
What a person has said about a study is never overruled by a rule.

    [[rule]]
    name = "established methods on the heart registry"
    set_by = "Dr Ines Vogt, data-protection officer"
    decision = "approve"
    coordinators = ["University Hospital North"]
    datasets = ["heart"]
    methods = ["fedavg", "fedprox"]
    minimum_patients = 50
    maximum_rounds = 200
    maximum_days = 180
    require = ["network", "files"]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

from pydantic import Field

from aimer2.core.task import Document, SiteId
from aimer2.messages.package import Package
from aimer2.messages.wire import Decision
from aimer2.site.settings import Protection

_DAY = 86_400


class Rule(Document):
    """A class of studies. An empty list of names: any name; a limit that is not set: no limit."""

    name: str = Field(min_length=3, max_length=200)
    set_by: str = Field(min_length=3, max_length=200, description="the named person who answers for what this rule decides")
    decision: Literal["approve", "refuse"]
    coordinators: tuple[str, ...] = Field(default=(), description="names, as given at enrolment")
    principal_investigators: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    columns: tuple[str, ...] = Field(default=(), description="approving: the study reads no others; refusing: it reads one of these")
    allow_code: bool = Field(default=False, description="also studies that bring a `model.py` of their own")
    allow_release_per_site: bool = Field(default=False, description="also studies in whose result this site's own figures are named")
    minimum_patients: int = Field(default=0, ge=0, description="the study itself asks for cohorts of at least so many patients")
    maximum_rounds: int | None = Field(default=None, ge=1)
    maximum_days: float | None = Field(default=None, gt=0, description="from now to the study's expiry")
    secure_aggregation: bool = Field(default=False, description="only studies in which nobody sees this site's update alone")
    minimum_group: int | None = Field(
        default=None, ge=3, description="also studies whose sums are of groups of sites (`privacy.group_size`), of so many sites or more"
    )
    differential_privacy: bool = Field(default=False, description="only studies with differential privacy")
    require: tuple[Protection, ...] = Field(default=("network", "files"), description="what this machine must enforce on the worker")


class Policy(Document):
    """The hospital's rules, `policy.toml`. None: every study waits for a person."""

    rule: tuple[Rule, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class StudyRequest:
    """A study that asks for approval.

    ``enforced``: what this machine can put into force on a worker. ``unverified``: members of its roster whose keys do not count here.
    """

    digest: str
    package: Package
    coordinator: str
    enforced: frozenset[Protection]
    now: float
    unverified: tuple[SiteId, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Approve:
    rule: Rule


@final
@dataclass(frozen=True, slots=True)
class Refuse:
    rule: Rule


@final
@dataclass(frozen=True, slots=True)
class Ask:
    """A named person must decide; ``reasons``: why no rule did, one line per rule."""

    reasons: tuple[str, ...]


Verdict: TypeAlias = Approve | Refuse | Ask


def decide(policy: Policy, request: StudyRequest, history: Sequence[Decision]) -> Verdict:
    """``history``: everything that was decided here about this study before, oldest first."""
    if history:
        return Ask((f"{history[-1].by} has already decided about this study; only a person changes that",))
    for rule in policy.rule:
        if rule.decision == "refuse" and _is_about(rule, request):
            return Refuse(rule)
    reasons = []
    for rule in policy.rule:
        if rule.decision == "approve":
            against = tuple(_against(rule, request))
            if not against:
                return Approve(rule)
            reasons.append(f"rule '{rule.name}' does not fit: {'; '.join(against)}")
    return Ask(tuple(reasons) or ("there is no rule that approves studies",))


def _is_about(rule: Rule, request: StudyRequest) -> bool:
    """Whether all names that the rule lists are those of the study, and it reads one of the rule's columns."""
    touched = not rule.columns or bool(set(rule.columns) & set(request.package.study.reads))
    return touched and not tuple(_other_names(rule, request))


def _other_names(rule: Rule, request: StudyRequest) -> Iterator[str]:
    study = request.package.study
    if rule.coordinators and request.coordinator not in rule.coordinators:
        yield f"the coordinator is {request.coordinator}"
    if rule.principal_investigators and study.principal_investigator not in rule.principal_investigators:
        yield f"the principal investigator is {study.principal_investigator}"
    if rule.datasets and study.cohort.dataset not in rule.datasets:
        yield f"the data set is {study.cohort.dataset}"
    if rule.methods and (others := [name for name in study.methods if name not in rule.methods]):
        yield f"the method is {', '.join(others)}"


def _against(rule: Rule, request: StudyRequest) -> Iterator[str]:
    """Every condition of an approving rule that the study does not meet."""
    yield from _other_names(rule, request)
    study = request.package.study
    if rule.columns and (others := [name for name in study.reads if name not in rule.columns]):
        yield f"it reads {', '.join(others)}"
    if (study.model.code is not None or request.package.files) and not rule.allow_code:
        yield "it brings code of its own"
    if study.evaluation.release_per_site and not rule.allow_release_per_site:
        yield "its result names this site's own figures"
    if study.cohort.minimum_patients < rule.minimum_patients:
        yield f"it accepts cohorts of {study.cohort.minimum_patients} patients"
    if rule.maximum_rounds is not None and study.rounds > rule.maximum_rounds:
        yield f"it has {study.rounds} rounds"
    if rule.maximum_days is not None and study.expires_at > request.now + rule.maximum_days * _DAY:
        yield "it runs for longer"
    if rule.secure_aggregation and not study.privacy.secure_aggregation:
        yield "it has no secure aggregation"
    if study.privacy.group_size is not None and (rule.minimum_group is None or study.privacy.group_size < rule.minimum_group):
        yield f"its sums are of groups of {study.privacy.group_size} sites"
    if rule.differential_privacy and study.privacy.differential_privacy is None:
        yield "it has no differential privacy"
    if study.privacy.secure_aggregation and request.unverified:
        yield f"nobody here has verified the keys of {', '.join(request.unverified)}, on which its secure aggregation rests"
    missing = [name for name in rule.require if name not in request.enforced]
    if missing:
        yield f"this machine does not enforce {', '.join(missing)}"


def unverified(roster: Mapping[SiteId, str], verified: Mapping[SiteId, str]) -> tuple[SiteId, ...]:
    """Members of a study whose key in its roster is not the one that was verified here, in site order.

    A coordinator that made keys up takes part as their sites: with enough of them it takes off the masks of the others.
    """
    return tuple(site for site in sorted(roster) if verified.get(site) != roster[site])


def valid_until(decision: Decision, package: Package) -> float:
    """Seconds since 1970: an approval ends with the study, or sooner where the person said so."""
    return min(package.study.expires_at, package.study.expires_at if decision.until is None else decision.until)


def stands(decision: Decision | None, package: Package, now: float) -> str | None:
    """Why nothing of the study may run here now; None where an approval is in force."""
    if decision is None:
        return "Nobody at this site has decided about this study yet."
    if decision.decision == "refuse":
        return "This site has refused the study."
    if decision.decision == "withdraw":
        return "This site has withdrawn from the study."
    if now >= valid_until(decision, package):
        return "The approval has expired."
    return None
