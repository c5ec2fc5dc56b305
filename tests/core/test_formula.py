"""What a formula means, and what is told of one that means nothing."""

from __future__ import annotations

import pytest

from aimer2.core.study.formula import Variable, parse


def terms(text: str) -> list[str]:
    return [":".join(map(str, term)) for term in parse(text).terms]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y ~ a + b", ["a", "b"]),
        ("y ~ a * b", ["a", "b", "a:b"]),
        ("y ~ a:b + b", ["b", "a:b"]),
        ("y ~ a*b*c - a:b:c", ["a", "b", "c", "a:b", "a:c", "b:c"]),
        ("y ~ a + b - a", ["b"]),
        ("y ~ a + a", ["a"]),
        ("~ log(x) + `two words` + ph.ecog", ["log(x)", "two words", "ph.ecog"]),
        ("y ~ 1", []),
    ],
)
def test_terms(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@pytest.mark.parametrize(("text", "there"), [("y ~ a", True), ("y ~ 0 + a", False), ("y ~ a - 1", False), ("y ~ -1 + a", False), ("y ~ 1 + a", True)])
def test_the_intercept(text: str, there: bool) -> None:
    assert parse(text).intercept is there


def test_responses_and_roles() -> None:
    found = parse('Surv(entry, days, death) ~ age + C(sex, "f", "m") + strata(centre) + offset(log(py)) + cluster(family)')
    assert found.survival and [one.name for one in found.response] == ["entry", "days", "death"]
    assert found.terms[1] == (Variable("sex", is_category=True, levels=("f", "m")),)
    assert (found.strata, found.cluster) == ((Variable("centre"),), (Variable("family"),))
    assert found.offset == (Variable("py", function="log"),)
    assert found.columns == ("entry", "days", "death", "age", "sex", "py", "centre", "family")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("y", "ends where '~'"),
        ("y ~ a b", "before 'b'"),
        ("y ~ a +", "ends where 'name'"),
        ("y ~ f(a)", "no function 'f'"),
        ("y ~ a + 2", "no term"),
        ("y ~ y + a", "both sides"),
        ("Surv(a) ~ b", "Surv takes"),
        ('y ~ C(a, "x")', "two or more different"),
        ('y ~ C(a, "x", "x")', "two or more different"),
        ("y ~ a; b", "cannot be read at '; b'"),
        ("y ~ __import__('os')", "no function '__import__'"),
    ],
)
def test_what_means_nothing(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(text)
