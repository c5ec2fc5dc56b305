"""The card says what was signed, and nothing in it is markup of somebody's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from made_versions import COORDINATOR, packed, staged, study_of

from aimer2.messages.record import StudyRecord
from aimer2.repository.card import as_html, as_markdown, card
from aimer2.repository.compare import compare
from aimer2.repository.version import open_version

Make = Callable[..., Any]
EVIL = "<script>alert('x')</script> | **bold** [link](http://evil) & more"


def test_the_card_holds_what_the_record_says(make: Make) -> None:
    made = make()
    text = as_markdown(card(made.version))
    auc = next(one for one in made.simulation.result["figures"] if one["name"] == "auc")
    assert f"{auc['value']:.3f}" in text
    assert made.version.model.sha256 in text
    assert "Nobody has validated it yet." in text
    for site in ("east", "north", "west"):
        assert f"| {site} | 2 of 2 |" in text
    assert made.simulation.result["privacy"]["statement"].split(".")[0] in text.replace("\\", "")


def test_a_model_of_images_beside_columns_reads_both(make: Make) -> None:
    cohort = study_of().cohort.model_dump() | {"image": {"name": "scan", "channels": 3, "height": 32, "width": 24}}
    made = make()
    record = made.record.model_copy(update={"package": packed(study_of(cohort=cohort, model={"name": "cnn"}))})
    read = next(one for one in card(replace(made.version, record=record)).sections if one.title == "What it reads")
    assert read.rows == [("scan", "image", "colour, 32×24"), ("age", "number", ""), ("sex", "category", "f, m"), ("chol", "number", "0 to 900")]


def test_a_retired_model_says_why(make: Make) -> None:
    made = make()
    stages = [staged(made.record.study, made.version.model.sha256, "retired")]
    version = open_version(StudyRecord.model_validate(made.record.model_dump() | {"stages": stages}), COORDINATOR.public)
    text = as_markdown(card(version))
    assert "It is retired: It held on new patients." in text
    assert "| retired | anna |" in text


def test_texts_of_people_are_text_in_both_forms(make: Make) -> None:
    made = make(purpose=EVIL, question=EVIL)
    page, text = as_html(card(made.version)), as_markdown(card(made.version))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(?<!\\)(\*\*bold|\[link|<script)", text)
    assert "src=" not in page and "href=" not in page and "http-equiv" not in page, "nothing from outside"


def test_what_people_have_named_stays_also_where_it_is_a_word_of_ours(make: Make) -> None:
    made = make(purpose="training", principal_investigator="all")
    stages = [staged(made.record.study, made.version.model.sha256, "retired")]
    version = open_version(StudyRecord.model_validate(made.record.model_dump() | {"stages": stages}), COORDINATOR.public)
    told = card(version).told(lambda text: f"<{text}>")
    sections = {section.title: section for section in told.sections}
    assert (told.title, told.lead) == (card(version).title, made.version.study.question)
    assert sections["<Intended use>"].facts == [("<purpose>", "training"), ("<ethics approval>", "none needed: drawn numbers"), ("<led by>", "all")]
    assert sections["<Training>"].rows == [[site, "<2 of 2>"] for site in ("east", "north", "west")]
    assert sections["<What it reads>"].rows[0][:2] == ["age", "<number>"]
    assert sections["<What it reads>"].rows[1] == ["sex", "<category>", "f, m"]
    assert ("<missing values>", "<mean>") in sections["<What it reads>"].facts
    stage, *by = sections["<Identity>"].rows[0]
    assert stage == "<retired>" and by == ["anna", "It held on new patients."]


def test_a_comparison_names_what_differs_and_nothing_else(make: Make) -> None:
    first, second = make("a"), make("b", method={"name": "fedprox", "rounds": 2, "parameters": {"mu": 0.1}}, name="heart-two")
    found = compare(first.version, second.version)
    assert found.differences == {"method.name": ("fedavg", "fedprox"), "method.parameters.mu": (None, 0.1), "method.parameters": ({}, None)}
    assert found.figures.keys() == {one["name"] for one in first.simulation.result["figures"]}
    assert all(a is not None and b is not None for a, b in found.figures.values())
    assert compare(first.version, first.version).differences == {}
