"""What goes wrong, what is wrong with a study, and what a site finds out is told in Chinese: every sentence that the source can say has its words."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from aimer2.core import errors
from aimer2.core.errors import AimerError, Conflict, Fault
from aimer2.core.said import Said, joined, say
from aimer2.core.task import Check, Failure, restored
from aimer2.messages.wire import Problem, error_of, problem_of
from aimer2.site.outgoing import short
from aimer2.web.pages import HERE, tell
from aimer2.web.translation import read_languages

PACKAGE = Path(__file__).parents[2] / "src" / "aimer2"
SENTENCES: dict[str, str] = json.loads((HERE / "languages" / "zh-sentences.json").read_text("utf-8"))
CHINESE = read_languages([HERE])[1]
PLACE = re.compile(r"\{\w+\}")

# What is said in a terminal alone stays English.
TERMINAL = {"cli", "client", "attacks", "blobs"}
SPEAKING = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, AimerError)}
SPEAKING |= {"Fault", "Finding", "Problem", "RoundLost", "Check", "Refusal", "Failure", "Absence", "FigureDocument", "FaultDocument"}
SPEAKING |= {"_check", "check_none", "Section", "_performance", "estimate", "undefined"}
FIELDS = {"finding", "reason", "note", "problem", "remedy", "head", "remarks"}
# Their first argument is a name or a place, and those of the others are codes.
NAMED = {"Fault": 1, "Check": 9, "Failure": 9, "Refusal": 9, "Absence": 9, "FigureDocument": 9, "Problem": 2, "estimate": 3}


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""


def texts(node: ast.expr) -> Iterator[str]:
    """The messages that an expression may come to."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*texts(node.body), *texts(node.orelse))
    elif isinstance(node, ast.BoolOp | ast.Tuple | ast.List):
        for part in node.values if isinstance(node, ast.BoolOp) else node.elts:
            yield from texts(part)
    elif isinstance(node, ast.Call) and called(node) in ("say", "mark", "Said") and node.args:
        yield from texts(node.args[0])


def spoken(scope: ast.AST) -> Iterator[str]:
    """What a function says by `say`, and by errors, faults and findings, also by way of a name of its own."""
    names = set()
    for node in ast.walk(scope):
        if isinstance(node, ast.Call) and (called(node) in SPEAKING or called(node) in ("say", "mark")):
            first, fields = NAMED.get(called(node), 0), FIELDS | ({"name"} if called(node) == "Check" else set())
            for part in (*node.args[first:], *(word.value for word in node.keywords if word.arg in fields)):
                yield from texts(part)
                names |= {part.id} if isinstance(part, ast.Name) else set()
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and not isinstance(scope, ast.Module):
            targets = [name for target in node.targets for name in (target.elts if isinstance(target, ast.Tuple) else [target])]
            if any(isinstance(name, ast.Name) and name.id in names for name in targets):
                yield from texts(node.value)


def sentences() -> set[str]:
    found = set()
    for module in PACKAGE.rglob("*.py"):
        if module.relative_to(PACKAGE).parts[0] not in TERMINAL:
            tree = ast.parse(module.read_bytes())
            scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
            for scope in (tree, *scopes):
                found.update(spoken(scope))
    for kind in errors.catalogue().values():
        if kind.__module__.startswith("aimer2."):
            found |= {kind.title(), kind.remedy}
    return {text for text in found if re.search(r"[A-Za-z]{2}", PLACE.sub("", text))}


def test_every_sentence_has_its_chinese_and_none_is_left_over() -> None:
    said = sentences()
    elsewhere: dict[str, str] = {}
    for file in PACKAGE.rglob("languages/zh*.json"):
        elsewhere |= json.loads(file.read_text("utf-8"))
    assert len(said) > 1200
    assert not sorted(said - elsewhere.keys())
    assert not sorted(SENTENCES.keys() - said)
    assert not {english for english, chinese in SENTENCES.items() if not re.search(r"[\u4e00-\u9fff\uff00-\uffef]", chinese)}
    assert not {e for e, c in SENTENCES.items() if sorted(PLACE.findall(e)) != sorted(PLACE.findall(c))}


def unsaid(node: ast.expr, scope: ast.AST) -> Iterator[str]:
    """Plain text that an expression may come to, or a part of it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp | ast.BoolOp):
        for part in (node.body, node.orelse) if isinstance(node, ast.IfExp) else node.values:
            yield from unsaid(part, scope)
    elif isinstance(node, ast.JoinedStr):
        yield from (str(part.value) for part in node.values if isinstance(part, ast.Constant))
    elif isinstance(node, ast.Name):
        for other in ast.walk(scope):
            if isinstance(other, ast.Assign) and any(isinstance(name, ast.Name) and name.id == node.id for name in other.targets):
                yield from unsaid(other.value, ast.Module([], []))


# Commands and lines of settings.
UNTRANSLATED = re.compile(r"aimer2 site|--epsilon|patient = ")


def test_a_phrase_that_is_put_into_a_sentence_is_a_sentence_too() -> None:
    found = []
    for module in PACKAGE.rglob("*.py"):
        if module.relative_to(PACKAGE).parts[0] not in TERMINAL:
            tree = ast.parse(module.read_bytes())
            for scope in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
                values = [word.value for node in ast.walk(scope) if isinstance(node, ast.Call) and called(node) == "say" for word in node.keywords]
                found += [(module.name, text) for value in values for text in unsaid(value, scope) if re.search(r"[A-Za-z]{2} [A-Za-z]|^none$", text)]
    assert not [one for one in found if not UNTRANSLATED.search(one[1])]


def of_results() -> Iterator[str]:
    """Titles, names of columns and of facts, and remarks of the statistics, as they stand in the source."""
    for module in (PACKAGE / "statistics").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_bytes())):
            if isinstance(node, ast.keyword) and node.arg in ("title", "columns") and not isinstance(node.value, ast.JoinedStr):
                yield from texts(node.value)


def test_titles_and_columns_of_results_have_their_chinese_and_none_is_left_over() -> None:
    results: dict[str, str] = json.loads((HERE / "languages" / "zh-results.json").read_text("utf-8"))
    wanted = {text.replace("_", " ") for text in of_results()}
    assert len(wanted) > 50
    assert not [text for text in sorted(wanted) if not CHINESE.told(text)[1] and len(text) > 1]
    source = "\n".join(file.read_text("utf-8") for room in ("statistics", "study") for file in (PACKAGE / room).rglob("*.py"))
    assert not [text for text in results if text not in source and text.replace(" ", "_") not in source]


def test_an_error_is_told_in_chinese_by_whoever_hears_of_it_from_elsewhere() -> None:
    error = Conflict(say("There is a user {name} already.", name="<anna>"), remedy="Take another name.")
    sent = problem_of(error).model_dump_json()
    heard = error_of(Problem.model_validate_json(sent))
    assert (heard.sentence, heard.advice) == ("There is a user <anna> already.", "Take another name.")
    assert [tell(CHINESE, text) for text in (heard.sentence, heard.advice)] == ["已有用户 &lt;anna&gt;。", "请换一个名称。"]
    old = json.loads(sent)
    del old["words"]
    assert error_of(Problem.model_validate(old)).sentence == error.sentence, "of a version that tells no words"


def test_words_that_say_something_else_than_the_text_are_not_believed() -> None:
    check = Check(name="columns", passed=True, finding=say("All {count} columns are there.", count=3))
    document = json.loads(check.model_dump_json())
    assert isinstance(json.loads(json.dumps(document), object_hook=restored)["finding"], Said)
    document["finding"] = "No column is there."
    for heard in (Check.model_validate(document).finding, json.loads(json.dumps(document), object_hook=restored)["finding"]):
        assert CHINESE.told(heard) == ("No column is there.", False)


def test_words_that_would_grow_without_end_are_not_even_put_together() -> None:
    words: dict[str, object] = {"message": "ha", "values": {}}
    for _ in range(30):
        words = {"message": "{a}" * 100, "values": {"a": words}}
    sent = {"name": "columns", "passed": True, "finding": "All is well.", "words": {"finding": words}}
    heard = Check.model_validate_json(json.dumps(sent))
    assert not isinstance(heard.finding, Said)
    assert not isinstance(json.loads(json.dumps(sent), object_hook=restored)["finding"], Said)


def test_nothing_goes_along_unseen_beside_a_sentence() -> None:
    finding, record = "All 3 columns are there.", "patient 4711 has died"
    ours = {"message": "All {count} columns are there.", "values": {"count": "3"}}
    for words in (
        {"finding": {"message": record, "values": {}}},
        {"finding": ours, "anything": {"message": record, "values": {}}},
        {"finding": {**ours, "values": {"count": "3", "other": record}}},
        {"finding": {**ours, "values": {"count": {"message": "3", "values": {"other": record}}}}},
    ):
        heard = Check.model_validate({"name": "columns", "passed": True, "finding": finding, "words": words})
        assert record not in heard.model_dump_json()
        assert record not in short((heard,))[0].model_dump_json()
    long = Check(name="columns", passed=True, finding=say("All {names} are there.", names="x" * 1000))
    assert len(short((long,))[0].model_dump_json()) < 500


def test_sentences_within_sentences_survive_the_wire_and_plain_ones_need_no_words() -> None:
    reason = joined([say("about {count} patients", count=5), "no answer by the deadline"], "; ")
    failure = Failure(task="t", attempt=1, site="a", code="internal", reason=reason)
    heard = Failure.model_validate_json(failure.model_dump_json())
    assert heard.reason == "about 5 patients; no answer by the deadline"
    assert CHINESE.told(heard.reason) == ("约 5 名患者; 截止时间前没有答复", True)
    plain = failure.model_copy(update={"reason": "no answer by the deadline", "words": {}})
    assert "words" not in plain.model_dump()


def test_what_nobody_has_translated_is_marked_as_english() -> None:
    assert tell(CHINESE, "Of <b>another</b> version.") == '<span lang="en">Of &lt;b&gt;another&lt;/b&gt; version.</span>'
    assert str(Fault("sites", "is missing", say("use one of: {names}", names="a"))) == "sites: is missing — use one of: a"


def test_a_place_in_a_value_is_not_filled_again() -> None:
    assert say("{a} {b}", a="{b}", b="x") == "{b} x"
