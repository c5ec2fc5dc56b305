"""The findings in sentences, for a person who has to decide."""

from __future__ import annotations

from collections.abc import Iterator

from aimer2.attacks.coordinator_view import FOUND
from aimer2.site.leak.findings import Attempt, Findings, Level, Membership, View

LIMITS = (
    "An attack that fails proves little: it is one that we know, with the effort of a minute. Better ones exist and will be found.",
    "The other hospitals in a sum are made of your own rows here. Real ones differ from you; that can hide you more, or make you stand out.",
    "The attacker is granted much: the outcomes of the records, and the order of the batches, which follows from the study's seed.",
    "Secure aggregation hides who contributed what. The sum itself still tells something of everybody in it; only differential privacy limits that.",
    "Whoever has all the other hospitals on his side subtracts their updates from the sum, and has yours as without protection.",
    "Only the first round's update was taken apart. Who watches many rounds sees more.",
)

_ATTACKS = {"threshold": "how sure the model is", "likelihood": "how much surer than others are"}
_GUESSING = 0.55


def summary(findings: Findings) -> Iterator[str]:
    """The outcome, most important first."""
    yield terms_of(findings)
    for level in sorted(findings.levels, key=lambda level: (level.records != findings.rows, level.records)):
        yield _rebuilt(findings, level)
    if findings.words is not None:
        words = findings.words
        looks = "cannot be told from noise" if words.masked_found < FOUND else "DIFFERS FROM NOISE; report this"
        yield (
            f"With secure aggregation, what the coordinator receives of this hospital {looks}: {words.count} words, at most "
            f"{words.masked_found:.1f} standard deviations from it; in the clear {words.clear_found:.0f}."
        )
    yield from _traced(findings)
    if findings.told:
        yield (
            f"Without protection the coordinator reads, with no attack at all, the exact count, mean and standard deviation of each of "
            f"{len(findings.told)} columns at this hospital; with secure aggregation only those of all hospitals together."
        )


def terms_of(findings: Findings) -> str:
    """What this study's own terms mean for the rest."""
    secure = f"asks for secure aggregation (here: a sum over {findings.sites} hospitals)" if findings.secure else "asks for NO secure aggregation"
    noise = f"and for differential privacy ({findings.noise})" if findings.noise else "and for no differential privacy"
    return f"This study {secure} {noise}. What the coordinator would have in hand: {short(findings.under_the_terms)}."


def short(view: View) -> str:
    """A column's heading."""
    return {
        "alone": "your update in the clear",
        "masked": "your update under masks",
        "sum": "the sum over hospitals",
        "noisy": "your update with noise",
        "noisy-sum": "the sum with noise",
    }[view]


def of_level(level: Level) -> str:
    """What the updates are made of."""
    records = "1 record" if level.records == 1 else f"{level.records} records"
    steps = "1 step" if level.steps == 1 else f"{level.steps} steps"
    return f"{records} ({steps})"


def of_attempt(attempt: Attempt) -> str:
    """So many of so many; and what guessing gives, where that is not nothing."""
    by_chance = f" ({attempt.chance} by chance)" if attempt.chance else ""
    return f"{attempt.rebuilt} of {attempt.tried}{by_chance}"


def of_membership(found: Membership) -> str:
    return f"{found.auc:.2f} ({found.low:.2f} to {found.high:.2f})"


def attack_of(found: Membership) -> str:
    return _ATTACKS[found.attack]


def _rebuilt(findings: Findings, level: Level) -> str:
    by_view = {attempt.view: attempt for attempt in level.attempts}
    if level.records == findings.rows:
        text = f"As this study is, an update is made of all your {level.records} training records. From it"
    else:
        text = f"Were an update made of {'one record' if level.records == 1 else f'{level.records} records'},"
    text += f" the coordinator could rebuild almost exactly {_count(by_view.get('alone'))} without protection;"
    text += f" with secure aggregation over {findings.sites} hospitals"
    text += f" {_count(by_view.get('masked'))} from your masked update, and {_count(by_view.get('sum'))} from the sum"
    if "noisy" in by_view:
        text += f"; with the study's noise {_count(by_view['noisy'])}, and {_count(by_view.get('noisy-sum'))} from the sum with noise"
    return text + "."


def _count(attempt: Attempt | None) -> str:
    if attempt is None:
        return "(not tried)"
    return of_attempt(attempt) if attempt.rebuilt else f"none of {attempt.tried}"


def _traced(findings: Findings) -> Iterator[str]:
    tracing = findings.tracing
    if tracing.untried:
        yield f"Whether a patient took part was not attacked: {tracing.untried}."
        return
    best: dict[View, Membership] = {}
    for found in tracing.results:
        if found.view not in best or found.auc > best[found.view].auc:
            best[found.view] = found
    told = "; ".join(f"from {short(view)}: {of_membership(found)}" for view, found in best.items())
    verdict = "" if any(found.low > _GUESSING for found in best.values()) else " None of these is far from guessing."
    yield f"Was this patient among those trained on? The chance to tell a pair apart (0.5 is guessing, 1 certainty), {told}.{verdict}"
