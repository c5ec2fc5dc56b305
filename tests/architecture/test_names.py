"""A room's or a module's name says what is in it."""

from __future__ import annotations

import ast
from pathlib import PurePath

SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "base", "misc", "manager", "managers", "handler", "handlers"}


def test_every_name_says_what_is_inside(modules: dict[str, ast.Module]) -> None:
    assert not [path for path in modules if SAY_NOTHING & set(PurePath(path).with_suffix("").parts)]
