"""Every text of every page exists in Chinese, with the same placeholders, and none is left that nobody shows."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import Environment

from aimer2.web.translation import ENGLISH, Language, choose, read_languages

PACKAGE = Path(__file__).parents[2] / "src" / "aimer2"
FILES = sorted(PACKAGE.rglob("languages/zh.json"))
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
    for module in room.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_bytes())):
            marks = isinstance(node, ast.Call) and ast.unparse(node.func) in ("mark", "language.text", "language.counted")
            if marks and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(PACKAGE)))
def test_every_message_of_a_room_is_in_chinese_and_none_is_left_over(room: Path) -> None:
    texts = json.loads((room / "languages" / "zh.json").read_text("utf-8"))
    shared = json.loads((PACKAGE / "web" / "languages" / "zh.json").read_text("utf-8"))
    shown = set(messages(room))
    assert shown
    assert not sorted(shown - texts.keys() - shared.keys())
    assert not sorted(texts.keys() - shown)
    assert not {english for english, chinese in texts.items() if english not in SAME and not CHINESE.search(chinese)}
    assert not {e for e, c in texts.items() if sorted(PLACEHOLDER.findall(e)) != sorted(PLACEHOLDER.findall(c))}


def test_every_room_with_templates_has_its_languages() -> None:
    assert [folder.parent for folder in sorted(PACKAGE.rglob("templates"))] == sorted(ROOMS)


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
