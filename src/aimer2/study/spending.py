"""What a study spends of its patients' privacy, from the study alone: a site reserves it before it computes, a researcher sees it without data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aimer2.core.study import Study
from aimer2.core.task import Stage
from aimer2.privacy.terms import library, terms

if TYPE_CHECKING:
    from aimer2.privacy.accounting import Spent


def spending(study: Study, stage: Stage) -> Spent | None:
    """What one task of this stage costs at a site, each time it is computed; None: nothing, or the study asks for no differential privacy.

    ``Spent.count`` holds a round's steps. All rounds and the last evaluation together keep to the study's ε, where it states one.

    Raises BadStudy where the terms are incomplete or cannot be met, NotAvailable where the accounting is not installed.
    """
    if study.privacy.differential_privacy is None or stage not in ("train", "final"):
        return None
    accounting, found = library(), terms(study)
    if stage == "train":
        spent: Spent = accounting.subsampled_gaussian(found.sampling_rate, found.noise_multiplier, found.local_steps)
        return spent
    if found.evaluation_noise is None:
        return None
    told: Spent = accounting.gaussian(found.evaluation_noise)
    return told
