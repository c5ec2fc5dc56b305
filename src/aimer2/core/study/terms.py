"""The terms of a study: who takes part, what is measured and released, and what protects the patients."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aimer2.core.study.fields import Above0, unset
from aimer2.core.task import Document, SiteId


class Sites(Document):
    """Who is asked, how many must come, how long a round waits for the slowest."""

    names: tuple[SiteId, ...] = Field(default=(), description="empty: every site enrolled when the study is submitted")
    minimum: int = Field(default=2, ge=1, description="the study starts only with so many approvals")
    quorum: int | None = Field(default=None, ge=1, description="a round counts with so many answers; none: as many as `minimum`")
    deadline_seconds: float = Field(default=3600, gt=0, description="after this a round goes on without the late, if the quorum has answered")
    block: int = Field(default=16, ge=1, description="sites are added in blocks of so many: fixes the order of floating-point sums")

    @property
    def needed(self) -> int:
        return self.minimum if self.quorum is None else self.quorum


class Evaluation(Document):
    """What is measured on patients held out at each site."""

    held_out: float = Field(default=0.2, ge=0, le=1, description="1: all patients, of a study that measures a model and trains none")
    metrics: tuple[str, ...] = ()
    horizons: tuple[Above0, ...] = Field(
        default=(), exclude_if=unset, description="of survival: times, each the end of an interval, at which predicted risks are judged"
    )
    release_per_site: bool = Field(default=False, description="each site's own figures are released once, at the end, and named in the result")


class DifferentialPrivacy(Document):
    """How much all that leaves a site may tell of one patient: ε and δ, or the noise they follow from. `aimer2.study.spending` computes either."""

    level: Literal["record", "site"] = Field(default="record", description="who is protected: one patient with all rows, or a whole site")
    epsilon: float | None = Field(default=None, gt=0, description="of the whole study; the noise is calibrated to it")
    delta: float | None = Field(default=None, gt=0, lt=1)
    noise_multiplier: float | None = Field(default=None, gt=0, description="standard deviation of the noise in units of `clip_norm`")
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest L2 norm of one patient's part in a step; of level 'site' of a site's mean change of the model"
    )
    clip_quantile: float | None = Field(
        default=None, gt=0, lt=1, exclude_if=unset, description="of level 'site': `clip_norm` moves to this quantile of the sites' lengths"
    )
    sampling_rate: float | None = Field(default=None, gt=0, le=1, description="chance of each patient of a site to be in a step")
    evaluation_noise: float = Field(
        default=5.0, gt=0, description="standard deviation of the noise on counts of held-out patients; of level 'site' in sites"
    )
    asserted: bool = Field(default=False, description="code of the researcher computes the gradients, so ε is the researcher's word")


class Privacy(Document):
    """The terms. What is asked for here and is not available is refused, never ignored."""

    secure_aggregation: bool = Field(default=True, description="nobody sees a single site's update, only the sum of all")
    why_not_secure: str = Field(default="", max_length=500, description="without secure aggregation: the reason, for every hospital to read")
    differential_privacy: DifferentialPrivacy | None = None
    group_size: int | None = Field(
        default=None,
        ge=3,
        exclude_if=unset,
        description="under secure aggregation: the coordinator sees the sum of each group of so many sites, which the aggregator compares",
    )

    @property
    def of_records(self) -> DifferentialPrivacy | None:
        """The terms where each patient is protected: by noise inside the training."""
        asked = self.differential_privacy
        return asked if asked is not None and asked.level == "record" else None

    @property
    def of_sites(self) -> DifferentialPrivacy | None:
        """The terms where each site is protected: by noise on what it hands over."""
        asked = self.differential_privacy
        return asked if asked is not None and asked.level == "site" else None
