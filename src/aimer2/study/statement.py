"""What the record of a study says of its patients' privacy: how much, for whom, by which means, on whose word, and what it does not cover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aimer2.core.study import Study
from aimer2.messages.package import Package
from aimer2.privacy.terms import terms
from aimer2.secure_aggregation.messages import PROTOCOL
from aimer2.secure_aggregation.roster import MINIMUM, threshold
from aimer2.study import private_questions, site_level_terms
from aimer2.study.events import Event, RoundFinished, RoundStarted
from aimer2.study.secure_update import groups_of

NOT_COVERED = (
    "which sites took part, refused, failed or were late, and how long they took",
    "the checks before the first round: whether a site's data fit the study, with patients counted to the nearest five",
    "a patient who is treated at several sites: what each site tells adds up",
    "other studies of the same patients, also those by which this study's settings were chosen: what they tell adds up",
)

DP_SGD = "DP-SGD: each drawn patient's gradient clipped, Gaussian noise on their sum, at the site"
MECHANISMS = {"trees": "trees of drawn splits: each drawn patient's derivatives clipped, Gaussian noise on the sum of each leaf, at the site"}


def secure_aggregation(package: Package, rounds: Sequence[RoundFinished]) -> dict[str, Any] | None:
    """How the sums were made in secret, and what that cost in precision. None where the coordinator saw every update."""
    if not package.study.privacy.secure_aggregation:
        return None
    groups = [list(group) for group in groups_of(package)]
    secret = [event.secrecy for event in rounds if event.secrecy is not None]
    return {
        "protocol": PROTOCOL,
        "sites": len(package.roster),
        "groups": groups,
        "threshold": min(max(MINIMUM, threshold(len(group))) for group in groups),
        "sums": len(secret),
        "saturated": sum(one.saturated for one in secret),
        "rounding_error": max((one.error for one in secret), default=0.0),
        "rests_on": f"the sites' keys, which people verified; fewer than a third of {_whom(groups)} in league with the coordinator",
    }


def secrecy(stated: Mapping[str, Any] | None) -> str:
    """The same in one sentence."""
    if stated is None:
        return "The coordinator saw each site's update in the clear."
    groups = stated["groups"]
    if len(groups) > 1:
        sizes = sorted({len(group) for group in groups})
        each = " or ".join(map(str, sizes))
        return (
            f"The coordinator saw, of {len(groups)} groups of {each} sites, each one's sums of at least {stated['threshold']} updates, "
            "and no single one."
        )
    return f"The coordinator saw sums of at least {stated['threshold']} of the {stated['sites']} sites' updates, and no single one."


def _whom(groups: Sequence[Sequence[str]]) -> str:
    return "the sites" if len(groups) == 1 else "the sites of a group"


def differential_privacy(study: Study, events: Iterable[Event], sites: int) -> dict[str, Any] | None:
    """The guarantee for what has happened: a round that was asked of a site again counts again. None where the study asks for none.

    Raises NotAvailable where the accounting is not installed.
    """
    asked = study.privacy.differential_privacy
    if asked is None:
        return None
    events = list(events)
    if study.analyses:
        return {**private_questions.stated(study, _most(events, "analyse")), "not_covered": list(NOT_COVERED)}
    rounds, evaluations = _most(events, "train"), _most(events, "final")
    if study.privacy.of_sites is not None:
        not_covered = [*NOT_COVERED[:2], "several sites of one owner, or a patient at several sites: what each site tells adds up", NOT_COVERED[3]]
        return {**site_level_terms.stated(study, sites, rounds, evaluations), "not_covered": not_covered}
    kept = terms(study)
    evaluations = evaluations if kept.evaluation_noise is not None else 0
    figures = {"mechanism": "Gaussian noise on counts of held-out patients", "noise": kept.evaluation_noise, "times": evaluations}
    return {
        "level": asked.level,
        "unit": "patient, with all rows at a site",
        "neighbouring": "add or remove one patient",
        "epsilon": round(kept.epsilon(rounds, evaluations=evaluations), 4),
        "epsilon_by_renyi": round(kept.epsilon_by_renyi(rounds, evaluations=evaluations), 4),
        "delta": kept.delta,
        "epsilon_asked": asked.epsilon,
        "mechanism": MECHANISMS.get(study.model.framework, DP_SGD),
        "noise_multiplier": kept.noise_multiplier,
        "clip_norm": kept.clip_norm,
        "sampling": f"Poisson: each patient with chance {kept.sampling_rate:g} in each step, drawn in secret at the site",
        "rounds": rounds,
        "local_steps": kept.local_steps,
        "figures": None if kept.evaluation_noise is None else figures,
        "composition": "all steps of all rounds and the figures, over the study",
        "accountant": "privacy loss distributions (dp-accounting), checked by Rényi differential privacy",
        "word": "asserted by the researcher: code of the study computes the gradients" if study.model.code else "enforced by AIMER2 at each site",
        "not_covered": list(NOT_COVERED),
    }


def guarantee(stated: Mapping[str, Any] | None) -> str:
    """The same in one sentence."""
    if stated is None:
        return "No formal privacy guarantee holds for the model."
    word = "The researcher asserts that" if str(stated["word"]).startswith("asserted") else "By AIMER2's own code"
    if stated["level"] == "site":
        return (
            f"{word} every sum that was opened, and the model, is ({stated['epsilon']:g}, {stated['delta']:g})-differentially private for each "
            f"site (its part replaced by zeros), and ({stated['epsilon_of_a_patient']:g}, {stated['delta']:g})-differentially private for each of "
            "its patients."
        )
    what = "the answers" if "questions" in stated else "the model"
    return (
        f"{word} all that left a site, and {what}, is ({stated['epsilon']:g}, {stated['delta']:g})-differentially private "
        "for each of its patients (one more or one less, with all rows)."
    )


def _most(events: Iterable[Event], stage: str) -> int:
    """How often the site that was asked most was asked in this stage; an attempt that was begun twice is one."""
    begun = {(e.round_number, e.attempt, e.sites) for e in events if isinstance(e, RoundStarted) and e.stage == stage}
    times = Counter(site for site, _, _ in {(site, number, attempt) for number, attempt, sites in begun for site in sites})
    return max(times.values(), default=0)
