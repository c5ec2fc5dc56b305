"""What a site finds out about its data, told in the reader's language: a check travels as English text, of which our sentences are known again."""

from __future__ import annotations

import re
from typing import Final

from aimer2.core.said import Said, mark

_SENTENCES: Final = (
    mark("All {count} columns are there."),
    mark("Every column is of the kind asked for."),
    mark("Every unit is the one asked for."),
    mark("No category is unknown to the study."),
    mark("Every number is in its range."),
    mark("Channels, size and bits of the images are those asked for."),
    mark("There are at least the {count} patients that the study asks for."),
    mark("There are fewer usable patients than the {count} patients that the study asks for."),
    mark("There are patients to train on."),
    mark("No patient is left to train on."),
    mark("There are held-out patients."),
    mark("No patient is held out: the site adds nothing to the evaluation."),
    mark("No feature is missing; without a target: {lacking}."),
    mark("Rows left out for a missing feature: {patients}; without a target: {lacking}."),
    mark("With a missing feature: {patients}; without a target: {lacking}."),
    mark("Missing features filled in: {patients}; without a target: {lacking}."),
    mark("There are too few patients to set a validation part aside for early stopping."),
    mark("Nobody in the validation part has had the event: early stopping cannot judge."),
    mark("There are patients for early stopping to look at."),
    mark("The event occurs."),
    mark("No patient to train on has had the event."),
    mark("Only one side occurs among the patients to train on: {labels}."),
    mark("Every label is there and absent."),
    mark("Every class occurs."),
    mark("Not every class of the target occurs among the patients to train on."),
    mark("Every package is in its range."),
    mark("{package} is not installed."),
    mark("Enough {resource}: the study needs {size} free."),
    mark("Not enough {resource}: the study needs {size} free."),
    mark("Nothing that was answered before speaks against these questions."),
    mark("{analysis}: nothing speaks against answering."),
)
_WORDS: Final = (
    mark("columns"),
    mark("kinds"),
    mark("units"),
    mark("categories"),
    mark("ranges"),
    mark("images"),
    mark("patients"),
    mark("training"),
    mark("held-out"),
    mark("missing"),
    mark("validation"),
    mark("events"),
    mark("classes"),
    mark("packages"),
    mark("framework"),
    mark("disk"),
    mark("memory"),
    mark("questions before"),
)
"""The names of checks, and what a sentence holds of them."""

_PLACE = re.compile(r"\{(\w+)\}")
_LONGEST = 1000


def _pattern(sentence: str) -> re.Pattern[str]:
    parts = _PLACE.split(sentence)
    return re.compile("".join(f"(?P<{part}>.+?)" if number % 2 else re.escape(part) for number, part in enumerate(parts)))


_PATTERNS: Final = tuple((sentence, _pattern(sentence)) for sentence in _SENTENCES)


def finding(text: str) -> Said:
    """The sentence of ours that this is, with its values; else the text as it came, which may be of a newer version or another method's."""
    for known, pattern in _PATTERNS:
        if len(text) <= _LONGEST and (found := pattern.fullmatch(text)) is not None:
            return Said(known, {name: Said(value) if value in _WORDS else value for name, value in found.groupdict().items()})
    return Said(text)
