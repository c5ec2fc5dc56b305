"""The findings in sentences, for a person who has to decide."""

from __future__ import annotations

from collections.abc import Iterator

from aimer2.attacks.coordinator_view import FOUND
from aimer2.core.said import Said, say
from aimer2.site.leak.findings import Attempt, Findings, Level, Membership, View

LIMITS = (
    say("An attack that fails proves little: it is one that we know, with the effort of a minute. Better ones exist and will be found."),
    say("The other hospitals in a sum are made of your own rows here. Real ones differ from you; that can hide you more, or make you stand out."),
    say("The attacker is granted much: the outcomes of the records, and the order of the batches, which follows from the study's seed."),
    say(
        "Secure aggregation hides who contributed what. The sum itself still tells something of everybody in it; "
        "only differential privacy limits that."
    ),
    say("Whoever has all the other hospitals on his side subtracts their updates from the sum, and has yours as without protection."),
    say("Only the first round's update was taken apart. Who watches many rounds sees more."),
)

VAGUE = say("No image came out almost exactly. This is the one that came out best; judge yourself what can be recognised.")

_ATTACKS = {"threshold": say("how sure the model is"), "likelihood": say("how much surer than others are")}
_VIEWS: dict[View, Said] = {
    "alone": say("your update in the clear"),
    "masked": say("your update under masks"),
    "sum": say("the sum over hospitals"),
    "noisy": say("your update with noise"),
    "noisy-sum": say("the sum with noise"),
}
_GUESSING = 0.55


def summary(findings: Findings) -> Iterator[Said]:
    """The outcome, most important first."""
    yield terms_of(findings)
    for level in sorted(findings.levels, key=lambda level: (level.records != findings.attacked, level.records)):
        yield _rebuilt(findings, level)
    if findings.words is not None:
        words = findings.words
        looks = say("cannot be told from noise") if words.masked_found < FOUND else say("DIFFERS FROM NOISE; report this")
        yield say(
            "With secure aggregation, what the coordinator receives of this hospital {looks}: {count} words, at most {masked} standard deviations "
            "from it; in the clear {clear}.",
            looks=looks,
            count=words.count,
            masked=f"{words.masked_found:.1f}",
            clear=f"{words.clear_found:.0f}",
        )
    yield from _traced(findings)
    if findings.told:
        yield say(
            "Without protection the coordinator reads, with no attack at all, the exact count, mean and standard deviation of each of {count} "
            "columns at this hospital; with secure aggregation only those of all hospitals together.",
            count=len(findings.told),
        )


def terms_of(findings: Findings) -> Said:
    """What this study's own terms mean for the rest."""
    secure = say("asks for secure aggregation (here: a sum over {sites} hospitals)", sites=findings.sites)
    noise = say("and for differential privacy ({noise})", noise=findings.noise)
    return say(
        "This study {secure} {noise}. What the coordinator would have in hand: {view}.",
        secure=secure if findings.secure else say("asks for NO secure aggregation"),
        noise=noise if findings.noise else say("and for no differential privacy"),
        view=short(findings.under_the_terms),
    )


def short(view: View) -> Said:
    """A column's heading."""
    return _VIEWS[view]


def of_level(level: Level) -> Said:
    """What the updates are made of."""
    records = say("1 record") if level.records == 1 else say("{count} records", count=level.records)
    steps = say("1 step") if level.steps == 1 else say("{count} steps", count=level.steps)
    return Said("{records} ({steps})", {"records": records, "steps": steps})


def of_attempt(attempt: Attempt) -> Said:
    """So many of so many; and what guessing gives, where that is not nothing."""
    if attempt.chance:
        return say("{rebuilt} of {tried} ({chance} by chance)", rebuilt=attempt.rebuilt, tried=attempt.tried, chance=attempt.chance)
    return say("{rebuilt} of {tried}", rebuilt=attempt.rebuilt, tried=attempt.tried)


def of_membership(found: Membership) -> Said:
    return say("{auc} ({low} to {high})", auc=f"{found.auc:.2f}", low=f"{found.low:.2f}", high=f"{found.high:.2f}")


def attack_of(found: Membership) -> Said:
    return _ATTACKS[found.attack]


def _rebuilt(findings: Findings, level: Level) -> Said:
    by_view = {attempt.view: attempt for attempt in level.attempts}
    if level.records == findings.rows:
        update = say("As this study is, an update is made of all your {records} training records. From it", records=level.records)
    elif level.records == findings.attacked:
        update = say(
            "As this study is, an update is made of all your {rows} images. From one of {records} that were drawn of them",
            rows=findings.rows,
            records=level.records,
        )
    elif level.records == 1:
        update = say("Were an update made of one record,")
    else:
        update = say("Were an update made of {records} records,", records=level.records)
    counts = {name: _count(by_view.get(view)) for name, view in _PLACES.items()}
    if "noisy" in by_view:
        return say(
            "{update} the coordinator could rebuild almost exactly {alone} without protection; with secure aggregation over {sites} hospitals "
            "{masked} from your masked update, and {sum} from the sum; with the study's noise {noisy}, and {noisy_sum} from the sum with noise.",
            update=update,
            sites=findings.sites,
            **counts,
        )
    return say(
        "{update} the coordinator could rebuild almost exactly {alone} without protection; with secure aggregation over {sites} hospitals "
        "{masked} from your masked update, and {sum} from the sum.",
        update=update,
        sites=findings.sites,
        **counts,
    )


_PLACES: dict[str, View] = {"alone": "alone", "masked": "masked", "sum": "sum", "noisy": "noisy", "noisy_sum": "noisy-sum"}


def _count(attempt: Attempt | None) -> Said:
    if attempt is None:
        return say("(not tried)")
    return of_attempt(attempt) if attempt.rebuilt else say("none of {tried}", tried=attempt.tried)


def _traced(findings: Findings) -> Iterator[Said]:
    tracing = findings.tracing
    if tracing.untried:
        yield say("Whether a patient took part was not attacked: {why}.", why=Said(tracing.untried))
        return
    best: dict[View, Membership] = {}
    for found in tracing.results:
        if found.view not in best or found.auc > best[found.view].auc:
            best[found.view] = found
    yield say("Was this patient among those trained on? The chance to tell a pair apart (0.5 is guessing, 1 certainty):")
    for view, found in best.items():
        yield say("from {view}: {chance}", 1, view=short(view), chance=of_membership(found))
    if not any(found.low > _GUESSING for found in best.values()):
        yield say("None of these is far from guessing.", 1)
