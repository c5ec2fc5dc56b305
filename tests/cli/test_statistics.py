from __future__ import annotations

import json
from pathlib import Path

import pytest
from lifelines.datasets import load_lung

from aimer2.cli.main import main


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    data = load_lung()
    data["sex"] = data["sex"].map({1: "male", 2: "female"})
    named = []
    for place in range(3):
        path = tmp_path / f"site-{place}.csv"
        data.iloc[place::3].drop(columns="inst").to_csv(path, index=False)
        named.append(f"site-{place}={path}")
    return named


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["statistics", *arguments])
    return int(ended.value.code or 0)


COX = ("cox", "--formula", 'Surv(time, status) ~ age + C(sex, "male", "female") + ph.ecog', "--option", "sites=pooled", "--option", "edges=1:1022:1")


def test_a_question_of_files_is_answered_as_a_table_and_as_json(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*COX, "--sites", *files) == 0
    assert "sex = female" in capsys.readouterr().out
    assert run(*COX, "--json", "--sites", *files) == 0
    [table] = json.loads(capsys.readouterr().out)
    rows = {row[0]: row[1] for row in table["rows"]}
    assert rows["age"] == pytest.approx(0.0110667646, rel=1e-7) and rows["sex = female"] == pytest.approx(-0.5526123955, rel=1e-7)


def test_pictures_are_written_beside_the_answer(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranges = ("--option", "quantiles=[]")
    path = tmp_path / "forest.svg"
    assert run(*COX, "--plot", str(path), "--sites", *files) == 0
    assert path.read_text().count("<circle") == 3 and f"Wrote {path}" in capsys.readouterr().err
    assert run("describe", "--formula", "~ age", *ranges, "--plot", str(path), "--sites", *files) == 4
    assert "None of these has a picture: Numbers" in capsys.readouterr().err
    assert run(*COX, "--plot", str(tmp_path / "forest.bmp"), "--sites", *files) == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("glm", "--formula", "y ~"), "the formula ends"),
        (("glm", "--formula", "y ~ x", "--option", "colour=red"), "is no option of this method"),
        (("glm", "--formula", "y ~ x", "--option", "colour"), "give NAME=VALUE"),
        (("glm", "--formula", "y ~ x", "--category", "x"), "give COLUMN=A,B"),
    ],
)
def test_what_cannot_be_asked(files: list[str], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], problem: str) -> None:
    assert run(*arguments, "--sites", *files) == 2
    assert problem in capsys.readouterr().err


def test_hospitals_are_told_who_asks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("glm", "--formula", "y ~ x") == 2
    assert "--investigator and --ethics" in capsys.readouterr().err
