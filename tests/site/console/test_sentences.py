"""What a study does is told in the reader's language, word for word the same in English."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.site.console.conftest import STUDY, offer

from aimer2.site.console import console
from aimer2.site.console.console import Console
from aimer2.site.console.sentences import told
from aimer2.site.description import leaves, reads, runs
from aimer2.site.folder import SiteFolder
from aimer2.web.pages import HERE
from aimer2.web.translation import read_languages

ENGLISH, CHINESE = read_languages([HERE, console.HERE])
CASES: list[dict[str, Any]] = [
    {},
    {"privacy": {}, "sites": {"minimum": 1}, "evaluation": {"held_out": 0.2, "metrics": ["auc"], "release_per_site": True}},
    {"cohort": STUDY["cohort"] | {"features": [{"name": "age", "unit": "a"}, {"name": "sex", "kind": "category", "categories": ["f", "m"]}]}},
    {"method": STUDY["method"] | {"largest_change": 2.5, "aggregator": "median"}},
]


@pytest.mark.parametrize("case", CASES)
def test_every_sentence_of_ours_is_there(case: dict[str, Any], console: Console, folder: SiteFolder, tmp_path: Path) -> None:
    known = console.decisions.store.study(offer(folder, tmp_path / "b", **case))
    assert known is not None and known.package is not None
    study = known.package.study
    lines = [line.strip() for line in (*reads(study), *runs(known.package), *leaves(known.package))]
    assert [told(ENGLISH, line)[0] for line in lines] == lines
    left = [line for line in lines if not told(CHINESE, line)[1]]
    # parameters, names with units, and the researcher's own words are nobody's to translate
    assert [line for line in left if not re.search(r" = |^\w+ \(\S+\)$|^a test$", line)] == []
    assert all(re.search(r"[\u4e00-\u9fff]", told(CHINESE, line)[0]) for line in lines if line not in left)


def test_braces_in_a_study_s_words_are_words() -> None:
    line = "model {0.__class__} ({x!r})"
    assert told(ENGLISH, line) == (line, True)
    assert "{0.__class__}" in told(CHINESE, line)[0]
