"""What a study does is told in the reader's language, word for word the same in English."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.site.console.conftest import STUDY, offer

from aimer2.core.study import Study
from aimer2.site.console import console
from aimer2.site.console.console import Console
from aimer2.site.description import described, runs, what_leaves
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


@pytest.mark.parametrize("held_out", [0.2, 1.0])
def test_every_sentence_about_an_evaluation_is_there(held_out: float, console: Console, folder: SiteFolder, tmp_path: Path) -> None:
    known = console.decisions.store.study(offer(folder, tmp_path / "b"))
    assert known is not None and known.package is not None
    document = known.package.study.model_dump() | {"evaluates": "5e" * 32, "evaluation": {"held_out": held_out, "metrics": ["auc"]}}
    document.pop("method")
    study = Study(**document)
    package = known.package.model_copy(update={"study": study})
    for line in (*runs(package), *what_leaves(study)):
        assert ENGLISH.told(line) == (str(line), True)
        assert CHINESE.told(line)[1], line


@pytest.mark.parametrize("case", CASES)
def test_every_sentence_of_ours_is_there(case: dict[str, Any], console: Console, folder: SiteFolder, tmp_path: Path) -> None:
    known = console.decisions.store.study(offer(folder, tmp_path / "b", **case))
    assert known is not None and known.package is not None
    lines = [line for part in described(known.package).values() for line in part]
    assert [ENGLISH.told(line) for line in lines] == [(str(line), True) for line in lines]
    left = [str(line) for line in lines if not (CHINESE.told(line)[1] and re.search(r"[\u4e00-\u9fff]", CHINESE.told(line)[0]))]
    # parameters, names with units, and the researcher's own words are nobody's to translate
    assert [line for line in left if not re.search(r" = |^\w+ \(\S+\)$|^a test$", line)] == []
