"""Site-level differential privacy of a study: what the agent makes of a task's sums before they are masked, and what the total of them says.

The worker, and code that a study brings, has no part in it: whatever it hands over is shortened here, gets noise here, and says nothing beside. One
mean change of the model leaves, so each site counts alike; the number of its patients does not leave.

**Leaves the site**, in words under noise and masks: ``difference``, its mean change; ``unclipped``, where the clip norm follows a quantile, whether
it was within the clip norm; of the last model ``metrics``, its shares of held-out patients. Without noise, the same at every site: ``weight`` = 1,
and ``buffers``, which arrays of the model are running means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from aimer2.core import tree
from aimer2.core.errors import BadUpdate, Tampered
from aimer2.core.random import SecureBytes
from aimer2.core.study import Study
from aimer2.core.task import Stage
from aimer2.core.tree import Tree
from aimer2.privacy.noisy_metrics import counts_of, shares_of
from aimer2.privacy.site_level import SitePart, grid, next_clip_norm
from aimer2.privacy.site_terms import SiteTerms, site_terms
from aimer2.secure_aggregation.roster import trusted

CLIPPING, CLIP_NORM = "clipping", "norm"
"""What a round's task carries where the clip norm follows a quantile: it is bound into the masks, so all sites have the same."""

COUNT = "unclipped"


@final
@dataclass(frozen=True, slots=True)
class SiteLevel:
    """Both halves, for a study of so many sites."""

    study: Study
    terms: SiteTerms
    sites: int

    @classmethod
    def of(cls, study: Study, sites: int) -> SiteLevel | None:
        """None where the study asks for none. Raises BadStudy for terms that cannot be kept, NotAvailable without the accounting."""
        return None if study.privacy.of_sites is None else cls(study, site_terms(study), sites)

    @property
    def follows(self) -> bool:
        """Whether the clip norm follows a quantile."""
        return self.terms.clip_quantile is not None

    def at_site(self, stage: Stage, sums: Mapping[str, Tree], received: Mapping[str, Tree], source: SecureBytes | None = None) -> Mapping[str, Tree]:
        """The sums as they may be masked; ``source`` is for tests alone.

        Raises BadUpdate for sums that are not those of the study, Tampered where the coordinator sent no clip norm.
        """
        drawn = SecureBytes() if source is None else source
        if stage == "train":
            return self._train(sums, received, drawn)
        if stage == "final" and "metrics" in sums:
            shares = shares_of(self.study.cohort.target.classes, sums["metrics"], self._tables)
            words, _ = self._metrics(shares).noisy(shares, 1.0, drawn)
            return {"metrics": words}
        if sums:
            raise BadUpdate("Under site-level differential privacy nothing else may leave.")
        return sums

    def at_coordinator(self, sums: Mapping[str, Tree], clip_norm: float) -> tuple[Mapping[str, Tree], float]:
        """The total in numbers, and the clip norm of the next round."""
        if "difference" in sums:
            part = self._part(sums["difference"], clip_norm)
            after = clip_norm
            if self.terms.clip_quantile is not None:
                within = part.share_within(tree.load(sums[COUNT]["sites"]), round(tree.scalar(sums["weight"], "rows")))
                after = next_clip_norm(clip_norm, self.terms.clip_norm, within, self.terms.clip_quantile)
            return {**{name: sums[name] for name in sums if name != COUNT}, "difference": part.read(sums["difference"])}, after
        if "metrics" in sums:
            shares = self._metrics(sums["metrics"]).read(sums["metrics"])
            return {**sums, "metrics": counts_of(shares, self._stands_for)}, clip_norm
        return sums, clip_norm

    def _train(self, sums: Mapping[str, Tree], received: Mapping[str, Tree], source: SecureBytes) -> Mapping[str, Tree]:
        if not sums.keys() >= {"difference", "weight"} or not sums.keys() <= {"difference", "weight", "buffers"}:
            raise BadUpdate("The update holds other sums than the change of the model.")
        part = self._part(sums["difference"], self._clip_norm(received))
        weight = sum(float(tree.load(leaf).sum()) for leaf in sums["weight"].values())
        words, count = part.noisy(sums["difference"], weight, source)
        leaving: dict[str, Tree] = {"difference": words, "weight": {"rows": np.ones(1)}}
        if "buffers" in sums:
            leaving["buffers"] = _marks(sums["buffers"], sums["difference"])
        if self.follows:
            leaving[COUNT] = {"sites": count}
        return leaving

    def _clip_norm(self, received: Mapping[str, Tree]) -> float:
        if not self.follows:
            return self.terms.clip_norm
        try:
            told = tree.scalar(received[CLIPPING], CLIP_NORM)
        except (LookupError, ValueError):
            raise Tampered("The coordinator's task names no clip norm.") from None
        if not 0 < told < np.inf:
            raise Tampered("The coordinator's clip norm is not a positive number.")
        return told

    def _part(self, difference: Tree, clip_norm: float) -> SitePart:
        size = sum(tree.size(leaf) for leaf in difference.values())
        words = grid(self.sites, trusted(self.sites), self.terms.noise_multiplier, size + self.follows)
        return SitePart(words, clip_norm, size, self.follows)

    @property
    def _tables(self) -> tuple[str, ...]:
        return ("confusion", "binned_scores") if "auc" in self.study.metrics else ("confusion",)

    def _metrics(self, shares: Tree) -> SitePart:
        assert self.terms.evaluation_noise is not None
        size = sum(tree.size(leaf) for leaf in shares.values())
        # Shares of one table have a length of at most 1.
        return SitePart(grid(self.sites, trusted(self.sites), self.terms.evaluation_noise, size), len(self._tables) ** 0.5, size)

    @property
    def _stands_for(self) -> int:
        """The held-out patients that each site is counted for, whatever it has."""
        return max(1, round(self.study.cohort.minimum_patients * self.study.evaluation.held_out))


def _marks(marks: Tree, difference: Tree) -> Tree:
    """One for each running mean: that is all that a mark may say."""
    if marks.keys() != difference.keys():
        raise BadUpdate("The marks are not those of the model's arrays.")
    return {name: np.array([1.0 if tree.scalar(marks, name) > 0 else 0.0]) for name in difference}
