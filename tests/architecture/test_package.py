"""What an installation rests on: names that resolve, pins for all that is asked for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import aimer2

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", aimer2.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(aimer2, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Studies'"):
        aimer2.Studies  # noqa: B018


def test_every_requirement_has_a_pin_that_satisfies_it() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    lines = (line for line in (CHECKOUT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    wanted = [Requirement(text) for texts in (project["dependencies"], *project["optional-dependencies"].values()) for text in texts]
    assert not [str(need) for need in wanted if not need.specifier.contains(pins.get(canonicalize_name(need.name), ""))]
