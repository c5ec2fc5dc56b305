"""Whether a version is what it says, checked without a network: signatures, digests, who approved what, the lineage of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final, get_args

from aimer2.core.errors import AimerError
from aimer2.core.said import say
from aimer2.core.task import SET_UP, Phase, SiteId, task_id
from aimer2.identity.documents import open_document
from aimer2.identity.keys import PublicKey
from aimer2.messages.package import digest
from aimer2.messages.told import Refused
from aimer2.messages.wire import Decision
from aimer2.repository.version import Version
from aimer2.study.refused import said_in
from aimer2.study.secure_group import MOST_ROUNDS


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked."""

    what: str
    holds: bool
    told: str


def verify(version: Version) -> list[Finding]:
    """Every check, those that fail too. That the coordinator has signed result and stages was checked when the version was opened."""
    return [
        Finding("result and stages", True, say("signed by the coordinator's key {key_id}", key_id=version.key.key_id)),
        *_package(version),
        *_approvals(version),
        *_refusals(version),
        *_weights(version),
    ]


def _package(version: Version) -> Iterator[Finding]:
    found = digest(version.record.package)
    holds = found == version.digest
    told = say("its digest is {digest}…", digest=found[:16])
    if not holds:
        told = say("its digest is {digest}…, but the result is of {other}…", digest=found[:16], other=version.digest[:16])
    yield Finding("study", holds, told)
    lineage = version.result["lineage"]
    code = {name: ref.sha256 for name, ref in version.record.package.files.items()}
    holds = lineage["initial"] == version.record.package.initial.sha256 and lineage["code"] == code
    yield Finding("lineage", holds, "untrained weights and code are those of the study" if holds else "untrained weights or code are not the study's")
    stages = all(change.model == version.model.sha256 for change in version.stages)
    for one in version.evaluations:
        yield Finding(
            say("evaluation by {one}", one=one["name"]), True, say("signed by the coordinator, of these weights; study {one}…", one=one["study"][:16])
        )
    yield Finding("stages", stages, say("{stage}, for these weights", stage=version.stage) if stages else "they are about other weights")


def _approvals(version: Version) -> Iterator[Finding]:
    """A site's own signature under this digest, for each site whose patients are in the model."""
    said = {}
    for statement in version.record.decisions:
        for site, key in version.record.package.roster.items():
            decision = _decision(statement, key)
            if decision is not None and decision.site == site and decision.study == version.digest:
                said[site] = decision
    for site, part in sorted(version.result["sites"].items()):
        if part["rounds"] > 0:
            yield _approval(site, said.get(site))


def _approval(site: SiteId, decision: Decision | None) -> Finding:
    if decision is None:
        return Finding(say("approval of {site}", site=site), False, "there is no decision signed with the key that the study knows of it")
    if decision.decision == "refuse":
        return Finding(say("approval of {site}", site=site), False, say("it refused: {reason}", reason=decision.reason or say("no reason given")))
    withdrawn = decision.decision == "withdraw"
    told = say("signed at the site by {by}, withdrawn since", by=decision.by) if withdrawn else say("signed at the site by {by}", by=decision.by)
    return Finding(say("approval of {site}", site=site), True, told)


def _refusals(version: Version) -> Iterator[Finding]:
    """A site's own signature under each refusal that the result tells of it with one."""
    for site, part in sorted(version.result["sites"].items()):
        told = [one for one in part["absences"] if one.get("signed")]
        key = PublicKey.from_text(version.record.package.roster[site])
        holds = all(_is_said(version, site, absence, said_in(absence["signed"], key)) for absence in told)
        if told:
            what = "signed at the site" if holds else "not signed with the key that the study knows of it, or not in these words of this round"
            yield Finding(say("refusals of {site}", site=site), holds, what)


def _is_said(version: Version, site: SiteId, absence: Mapping[str, Any], said: Refused | None) -> bool:
    """Whether the site has refused what the result tells of it: that round, in those words."""
    stage, number = absence["stage"], absence["round"]
    attempts = {one["attempt"] for one in version.result["rounds"] if (one["stage"], one["round"]) == (stage, number)}
    asked = {task_id(version.digest, stage, number, site, phase) for phase in get_args(Phase)}
    # Who has refused the set-up of keys is out of all rounds that it serves.
    earlier = range(max(1, number - MOST_ROUNDS + 1), number)
    asked |= {task_id(version.digest, stage, one, site, phase) for one in earlier for phase in SET_UP}
    words = (version.digest, site, absence["code"], absence["reason"])
    return said is not None and said.task in asked and said.attempt in attempts and (said.study, said.site, said.code, said.reason) == words


def _decision(statement: str, key: str) -> Decision | None:
    try:
        return Decision.model_validate_json(open_document(statement, PublicKey.from_text(key), kind="decision"))
    except (AimerError, ValueError):
        return None


def _weights(version: Version) -> Iterator[Finding]:
    models = version.result["lineage"]["models"]
    if models:
        holds = models[-1] == version.model.sha256
        yield Finding("final model", holds, "the model of the last round" if holds else "not the model of the last round")
    if version.weights is not None:
        try:
            version.tree()
        except AimerError as error:
            yield Finding("weights", False, error.sentence)
        else:
            yield Finding("weights", True, say("SHA-256 {sha256}…, as signed", sha256=version.model.sha256[:16]))
