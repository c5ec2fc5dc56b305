"""What the loop conducts: the stages of a study, each an algorithm with its rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, final

import numpy as np

from aimer2.algorithms import catalogue
from aimer2.algorithms.aggregators import catalogue as aggregators
from aimer2.algorithms.aggregators.weighted_mean import WeightedMean
from aimer2.algorithms.fedavg import FedAvg
from aimer2.core.protocols import Aggregator, Algorithm, BlobStore
from aimer2.core.table import Table
from aimer2.core.task import BlobRef, FigureDocument, SiteId, Stage
from aimer2.core.tree import Tree
from aimer2.messages.package import Package
from aimer2.secure_aggregation.roster import Roster
from aimer2.statistics.moments import Moments
from aimer2.study.analysing import analyses_of
from aimer2.study.checkpoint import StoredTree
from aimer2.study.cohort import design_width
from aimer2.study.compressing import Compression
from aimer2.study.evaluation import pooled
from aimer2.study.quorum import Patience
from aimer2.study.secure_update import rosters_of
from aimer2.study.site_level import SiteLevel


@final
@dataclass(frozen=True, slots=True)
class Part:
    """One stage: an algorithm and what it starts from."""

    stage: Stage
    algorithm: Algorithm[Any]
    rounds: int
    initial: Tree


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that the loop needs to know."""

    digest: str
    roster: tuple[SiteId, ...]
    """All sites of the study, those that cannot be asked too."""
    parts: tuple[Part, ...]
    patience: Patience
    aggregator: Aggregator = field(default_factory=WeightedMean)
    figures: Callable[[Mapping[str, Tree]], tuple[FigureDocument, ...]] = lambda _: ()
    """Pooled sums to figures."""
    tables: Callable[[Tree], tuple[Table, ...]] = lambda _: ()
    """What the last stage left, as the answers of a study that asks statistical questions."""
    secure: tuple[Roster, ...] = ()
    """Whose updates are added in secret, group by group; none: in the clear."""
    groups_needed: int = 1
    """So many groups' sums a round is made of at least."""
    compression: Compression | None = None
    """Of the updates in training; None: they come whole."""
    private: SiteLevel | None = None
    """With noise on every site's update as a whole."""
    downlink: Literal["zstd", "changes"] | None = None
    """How large inputs reach the sites."""
    models: Mapping[str, BlobRef] = field(default_factory=dict)
    """What a study brings along that others find out: the ``model`` to measure, the ``moments`` of its inputs."""
    keep: frozenset[str] = frozenset()
    """Blobs that outlive their round."""


def plan_of(package: Package, digest: str, blobs: BlobStore) -> Plan:
    """The stages of a study: the data contract, the common standardisation where it is federated, the method, the last evaluation."""
    study = package.study
    initial = StoredTree(package.initial, blobs)
    if study.analyses:
        return _answering(package, digest)
    if study.evaluates is not None:
        return _measuring(package, digest, initial)
    method = catalogue.make(study.method.name, study.method.rounds, study.method.parameters)
    empty = {name: np.zeros(design_width(study.cohort)) for name in ("count", "mean", "deviation")}
    parts = [Part("preflight", Moments(), 1, {})]
    if study.cohort.common_moments:
        parts.append(Part("moments", Moments(), 2, empty))
    parts.append(Part("train", method, study.method.rounds, initial))
    if study.evaluation.held_out > 0:
        parts.append(Part("final", method, 1, initial))
    aggregator = aggregators.make(study.method.aggregator, study.sites.block, study.method.aggregator_parameters)
    return Plan(
        digest=digest,
        roster=tuple(sorted(package.roster)),
        parts=tuple(parts),
        patience=Patience(study.sites.needed, study.sites.deadline_seconds),
        aggregator=aggregator,
        figures=partial(pooled, study),
        secure=rosters_of(package, digest) if study.privacy.secure_aggregation else (),
        groups_needed=1 if study.privacy.group_size is None else aggregator.sites_needed,
        compression=Compression.of(study),
        private=SiteLevel.of(study, len(package.roster)),
        downlink=study.method.downlink,
        keep=frozenset({package.initial.sha256}),
    )


def _measuring(package: Package, digest: str, model: StoredTree) -> Plan:
    """The stages of a study that measures a model: the data contract, and what every other study ends with."""
    study = package.study
    brought = {"model": package.initial} | ({} if package.moments is None else {"moments": package.moments})
    return Plan(
        digest=digest,
        roster=tuple(sorted(package.roster)),
        parts=(Part("preflight", Moments(), 1, {}), Part("final", FedAvg(), 1, model)),
        patience=Patience(study.sites.needed, study.sites.deadline_seconds),
        aggregator=WeightedMean(study.sites.block),
        figures=partial(pooled, study),
        secure=rosters_of(package, digest) if study.privacy.secure_aggregation else (),
        models=brought,
        keep=frozenset(ref.sha256 for ref in package.blobs),
    )


def _answering(package: Package, digest: str) -> Plan:
    """The stages of a study that asks statistical questions: the data contract, the rounds of all analyses together."""
    study = package.study
    analyses = analyses_of(study)
    return Plan(
        digest=digest,
        roster=tuple(sorted(package.roster)),
        parts=(Part("preflight", Moments(), 1, {}), Part("analyse", analyses, study.rounds, {})),
        patience=Patience(study.sites.needed, study.sites.deadline_seconds),
        aggregator=WeightedMean(study.sites.block),
        tables=analyses.tables,
        secure=rosters_of(package, digest) if study.privacy.secure_aggregation else (),
        keep=frozenset({package.initial.sha256}),
    )
