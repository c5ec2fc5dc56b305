"""What a study spends of its patients' privacy, from the study alone: a site reserves it before it computes, a researcher sees it without data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aimer2.core.errors import BadStudy
from aimer2.core.study import Study
from aimer2.core.task import Stage
from aimer2.privacy.site_terms import SiteTerms, mechanism, site_terms
from aimer2.privacy.terms import library, terms
from aimer2.study.differential_privacy import faults
from aimer2.study.private_questions import QuestionTerms, question_terms

if TYPE_CHECKING:
    from aimer2.privacy.accounting import Spent


def spending(study: Study, stage: Stage, round_number: int = 1) -> Spent | None:
    """What one task of this stage costs at a site, each time it is computed; None: nothing, or the study asks for no differential privacy.

    ``Spent.count`` holds a round's steps. All rounds and the last evaluation together keep to the study's ε, where it states one.

    Raises BadStudy, whatever the stage, where the study asks for anything that its terms do not allow: a researcher may have left out
    `aimer2 study check`. Raises NotAvailable where the accounting is not installed.
    """
    if study.privacy.differential_privacy is None:
        return None
    if study.analyses:
        return _of_questions(question_terms(study), round_number) if stage == "analyse" else None
    if found := faults(study):
        raise BadStudy(found)
    if stage not in ("train", "final"):
        return None
    if study.privacy.of_sites is not None:
        return _of_a_patient(site_terms(study), stage)
    accounting, kept = library(), terms(study)
    if stage == "train":
        spent: Spent = accounting.subsampled_gaussian(kept.sampling_rate, kept.noise_multiplier, kept.local_steps)
        return spent
    if kept.evaluation_noise is None:
        return None
    told: Spent = accounting.gaussian(kept.evaluation_noise)
    return told


def _of_questions(kept: QuestionTerms, round_number: int) -> Spent:
    spent: Spent = library().gaussian(kept.noise_multiplier, kept.sums(round_number))
    return spent


def _of_a_patient(kept: SiteTerms, stage: Stage) -> Spent | None:
    """Of noise that protects a whole site, what it costs one of its patients: the ledger is kept for patients."""
    noise = kept.noise_multiplier if stage == "train" else kept.evaluation_noise
    return None if noise is None else mechanism(noise, of="patient")
