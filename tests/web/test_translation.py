"""Every text of every page exists in Chinese, with the same placeholders, and none is left that nobody shows."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jinja2 import Environment

from aimer2.algorithms import catalogue as algorithms
from aimer2.algorithms.aggregators import catalogue as aggregators
from aimer2.compression import catalogue as compression
from aimer2.connectors.frame import from_frame
from aimer2.core.said import Said, say
from aimer2.core.study import Study
from aimer2.statistics import catalogue as statistics
from aimer2.study import preflight
from aimer2.web.translation import ENGLISH, Language, choose, nested, read_languages

PACKAGE = Path(__file__).parents[2] / "src" / "aimer2"
FILES = sorted(PACKAGE.rglob("languages/zh.json"))
WEB = PACKAGE / "web"
CONSOLE = PACKAGE / "site" / "console"
ROOMS = [file.parent.parent for file in FILES]
PLACEHOLDER = re.compile(r"%\(\w+\)s|\{\w+\}")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
# The same in both languages.
SAME = {"English", "SHA-256", "CPU", "ε", "δ"}


def messages(room: Path) -> Iterator[str]:
    """What this room shows: marked in its templates and in its modules. The second form of a counted message is not looked up."""
    environment = Environment(extensions=["jinja2.ext.i18n"], trim_blocks=True, lstrip_blocks=True)
    for template in (room / "templates").glob("*.html"):
        for _, _, found in environment.extract_translations(template.read_text("utf-8")):
            first = found[0] if isinstance(found, tuple) else found
            if first is not None:
                yield first
    for module in modules_of(room):
        for node in ast.walk(ast.parse(module.read_bytes())):
            marks = isinstance(node, ast.Call) and ast.unparse(node.func) in ("mark", "say", "language.text", "language.counted")
            if marks and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value


def methods() -> Iterator[str]:
    """What each method says of itself and of what leaves a site, on the pages of coordinator and site alike."""
    for room in (algorithms, statistics):
        for name in room.names():
            yield room.summary(name)
            yield from (line.replace("``", "") for line in room.leaves(name))
    for combining in (aggregators, compression):
        yield from map(combining.summary, combining.names())


def modules_of(room: Path) -> list[Path]:
    """A room's own, but for rooms within it; what a study does is told on the pages of coordinator and site alike."""
    own = [module for module in room.rglob("*.py") if not any(other in module.parents for other in ROOMS if other != room and room in other.parents)]
    said = {WEB: [PACKAGE / "site" / "description.py"], CONSOLE: [*(PACKAGE / "site" / "leak").glob("*.py")]}
    return own + said.get(room, [])


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(PACKAGE)))
def test_every_message_of_a_room_is_in_chinese_and_none_is_left_over(room: Path) -> None:
    texts = json.loads((room / "languages" / "zh.json").read_text("utf-8"))
    shared = {english for file in (WEB / "languages").glob("zh*.json") for english in json.loads(file.read_text("utf-8"))}
    shown = set(messages(room)) | (set(methods()) if room == WEB else set())
    assert shown
    assert not sorted(shown - texts.keys() - shared)
    assert not sorted(texts.keys() - shown)
    assert not {english for english, chinese in texts.items() if english not in SAME and not CHINESE.search(chinese)}
    assert not {e for e, c in texts.items() if sorted(PLACEHOLDER.findall(e)) != sorted(PLACEHOLDER.findall(c))}


def test_a_sentence_is_told_with_its_values_and_says_whether_all_of_it_is_translated() -> None:
    language = Language("zh-Hans", "中文", {"{name}: {sum}": "{name}：{sum}", "a sum": "总和"})
    line = say("{name}: {sum}", 1, name="{x!r} {0}", sum=Said("a sum"))
    assert str(line) == "{x!r} {0}: a sum" and language.told(line) == ("{x!r} {0}：总和", True)
    assert ENGLISH.told(line) == (str(line), True)
    assert language.told(say("{name}: {sum}", name="n", sum=Said("of another's"))) == ("n：of another's", False)
    assert language.told(Said("braces {of} another's")) == ("braces {of} another's", False)


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_what_is_found_out_about_fitting_data_is_told_in_chinese(kind: str) -> None:
    rng = np.random.default_rng(1)
    age, outcome = rng.normal(60, 5, 90), rng.integers(0, 2, 90) * 1.0
    table = from_frame(pd.DataFrame({"age": age, "outcome": outcome}), split_key=bytes(16))
    study = Study(**FITTING | {"cohort": FITTING["cohort"] | {"target": {"name": "outcome", "kind": kind}}})
    language = read_languages([WEB])[1]
    made = preflight.checks(study, table, preflight.Environment(preflight.Installed(), disk_free=1 << 40, memory_available=1 << 40))
    assert len(made) > 8 and all(check.passed for check in made)
    for check in made:
        assert language.told(check.name)[1] and (language.told(check.finding)[1] or check.name == "framework"), check


def test_sentences_are_nested_by_their_depth() -> None:
    a, b, c, d, e = say("a"), say("b", 1), say("c", 2), say("d", 1), say("e")
    assert nested([a, b, c, d, e]) == [(a, [(b, [(c, [])]), (d, [])]), (e, [])]
    assert nested([c, a]) == [(c, []), (a, [])]


def test_every_room_with_templates_has_its_languages() -> None:
    assert [folder.parent for folder in sorted(PACKAGE.rglob("templates"))] == sorted(ROOMS)


FITTING: dict[str, Any] = {
    "name": "fitting",
    "question": "Does age tell the outcome?",
    "purpose": "a test",
    "ethics": "none needed",
    "principal_investigator": "Dr Test",
    "expires": "2099-01-01",
    "cohort": {"dataset": "d", "minimum_patients": 20, "features": [{"name": "age", "minimum": 0, "maximum": 120}]},
    "model": {"framework": "numpy", "name": "linear"},
    "training": {"local_steps": 1},
    "method": {"name": "fedavg", "rounds": 1},
}
CHINESE_LANGUAGE = Language("zh-Hans", "中文", {"%(num)s site": "%(num)s 个站点"})


@pytest.mark.parametrize(
    ("wanted", "accepted", "tag"),
    [
        ("", "", "en"),
        ("", "zh-CN,zh;q=0.9,en;q=0.8", "zh-Hans"),
        ("", "en;q=0.5, zh-TW;q=0.7", "zh-Hans"),
        ("", "fr, de;q=0.9", "en"),
        ("", "zh;q=0", "en"),
        ("", "zh;q=much,;;,=", "en"),
        ("en", "zh-CN", "en"),
        ("zh-Hans", "en", "zh-Hans"),
        ("../../etc", "zh", "zh-Hans"),
    ],
)
def test_a_person_s_choice_goes_before_the_browser_s(wanted: str, accepted: str, tag: str) -> None:
    assert choose((ENGLISH, CHINESE_LANGUAGE), wanted, accepted).tag == tag


def test_a_counted_message_has_its_plural_in_english_and_one_form_in_chinese() -> None:
    assert ENGLISH.counted("%(num)s site", "%(num)s sites", 1) == "%(num)s site"
    assert ENGLISH.counted("%(num)s site", "%(num)s sites", 3) == "%(num)s sites"
    assert CHINESE_LANGUAGE.counted("%(num)s site", "%(num)s sites", 3) == "%(num)s 个站点"


def test_a_later_room_says_it_in_its_own_words(tmp_path: Path) -> None:
    for room, text in (("one", "甲"), ("two", "乙")):
        folder = tmp_path / room / "languages"
        folder.mkdir(parents=True)
        (folder / "zh.json").write_text(json.dumps({"a": text}))
    assert read_languages([tmp_path / "one", tmp_path / "two"])[1].text("a") == "乙"
