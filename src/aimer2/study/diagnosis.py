"""What a study with the method `diagnosis` is and tells: figures of how the sites differ, from a round's sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from aimer2.algorithms.diagnosis import measured
from aimer2.core.study import Study
from aimer2.core.task import FigureDocument
from aimer2.core.tree import Tree
from aimer2.study.cohort import design_names
from aimer2.study.kinds import require_training

NAME = "diagnosis"
ROUNDS = 3

LABEL, FEATURE, ANSWER, GROUP = "label shift", "feature shift", "answer shift", "group shift"
DISAGREEMENT, DISSIMILARITY = "disagreement", "dissimilarity"
SIZES, STEPS, NORMALISED = "spread of sizes", "spread of steps", "running means"


def figures(study: Study, sums: Mapping[str, Tree]) -> tuple[FigureDocument, ...]:
    """Of a round of the trial; none where the sums are no such round's. Raises BadUpdate."""
    if study.method.name != NAME or "setting" not in sums:
        return ()
    found = measured(sums)
    names = _summaries(study)
    return tuple(
        FigureDocument(name=name, value=value, n=found.rows, note=note)
        for name, value, note in (
            (LABEL, found.label_shift, "share of the label's variance between sites"),
            (FEATURE, _mean(found.feature_shift), _most(found.feature_shift, names)),
            (ANSWER, _mean(found.answer_shift), "the same where all rows together do not differ: the same features have another answer"),
            (GROUP, _mean(found.group_shift), _most(found.group_shift, names)),
            (DISAGREEMENT, found.disagreement, "of the sites' steps: 0 all one way, 1 they cancel"),
            (DISSIMILARITY, found.dissimilarity, "B² of the sites' steps, chance included"),
            (SIZES, found.size_spread, f"coefficient of variation of the rows of {found.sites} sites"),
            (STEPS, found.step_spread, "coefficient of variation of the sites' steps a round"),
            (NORMALISED, float(found.has_running_means), "1: the model has batch normalisation"),
        )
        if value is not None and (name != GROUP or found.group_shift)
    )


def _mean(shares: Sequence[float]) -> float | None:
    return fmean(shares) if shares else None


def _most(shares: Sequence[float], names: Sequence[str]) -> str:
    text = "mean share of a feature's variance"
    if len(shares) != len(names):
        return text
    first = sorted(zip(shares, names, strict=True), reverse=True)[:3]
    return f"{text}; most: {', '.join(f'{name} {share:.2g}' for share, name in first)}"


def _summaries(study: Study) -> list[str]:
    columns = design_names(study.cohort)
    return [*columns, *(f"spread of {name}" for name in columns)]


def trial(study: Study, rounds: int = ROUNDS) -> Study:
    """The study that diagnoses this one: the same question, cohort, model, training, sites and secrecy, and nothing released but sums.

    Raises BadStudy where the study cannot be diagnosed by a trial, NotAvailable where it trains no model.
    """
    require_training(study, "A diagnosis")
    changed = study.model_dump()
    changed["name"] = f"{study.name[:52]}-{NAME}"
    changed["method"] = {"name": NAME, "rounds": rounds}
    changed["evaluation"] |= {"release_per_site": False, "held_out": study.evaluation.held_out or 0.2}
    changed["privacy"]["group_size"] = None
    return Study(**changed)
