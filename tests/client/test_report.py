from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from aimer2 import Study, simulate
from aimer2.client.figures import Figures, number
from aimer2.client.frames import rounds_frame, sites_frame
from aimer2.client.report import report
from aimer2.core.task import FigureDocument


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """Of three sites; one has no column of the study, so it takes no part."""
    study = Study(
        name="reported",
        question="Does the report say all of it?",
        purpose="A test.",
        ethics="none needed",
        principal_investigator="Dr [bold]Ada[/bold] Test",
        expires="2099-01-01",
        cohort={"dataset": "d", "features": [{"name": "age"}], "target": {"name": "ill"}},
        model={"framework": "numpy", "name": "logistic"},
        training={"local_steps": 2},
        method={"name": "fedprox", "rounds": 3, "parameters": {"mu": 0.25}},
        sites={"minimum": 2},
        evaluation={"metrics": ["auc"], "release_per_site": True},
        privacy={"secure_aggregation": False, "why_not_secure": "a test"},
    )
    rng = np.random.default_rng(1)
    frames = {name: pd.DataFrame({"age": rng.normal(size=60), "ill": rng.integers(0, 2, 60)}) for name in ("bern", "graz", "ulm")}
    frames["ulm"] = frames["ulm"].rename(columns={"age": "alter"})
    return dict(simulate(study, frames).result)


def printed(result: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(report(result))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_report_says_who_took_part_what_was_found_and_under_which_terms(result: dict[str, Any]) -> None:
    text = printed(result)
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()}
    assert "3 of 3" in lines["bern"]
    assert "0 of 3" in lines["ulm"]
    assert "fedprox version 1, 3 rounds, mu = 0.25" in text
    assert "Dr [bold]Ada[/bold] Test" in text
    assert "No formal privacy guarantee" in " ".join(text.split())
    assert "Final model at bern, released by the site" in text
    assert result["study"] in text and result["model"]["sha256"] in text and result["lineage"]["initial"] in text


def test_digests_are_whole_also_in_a_narrow_terminal(result: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=60, force_terminal=False)
    console.print(report(result))
    assert result["model"]["sha256"][-10:] in "".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_rounds_with_the_same_sites_are_one_line(result: dict[str, Any]) -> None:
    assert any(line.split()[:4] == ["train", "1", "to", "3"] for line in printed(result).splitlines())


def test_the_frames_hold_every_figure(result: dict[str, Any]) -> None:
    rounds = rounds_frame(result)
    assert list(rounds[(rounds["stage"] == "train") & (rounds["name"] == "auc")]["round"]) == [1, 2, 3]
    assert set(sites_frame(result)["site"]) == {"bern", "graz"}


def test_figures_in_a_notebook_are_escaped() -> None:
    html = Figures([FigureDocument(name="<script>", value=None, n=0, note="a < b")])._repr_html_()
    assert "<script>" not in html and "a &lt; b" in html and "undefined" in html


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.000"), (0.8126, "0.813"), (0.00123, "0.00123"), (123456.0, "1.23e+05"), (-5.5, "-5.500")])
def test_a_number_is_never_rounded_away(value: float, text: str) -> None:
    assert number(value) == text
