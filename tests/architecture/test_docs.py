"""Every public module opens with what it is."""

from __future__ import annotations

import ast
from pathlib import PurePath


def test_every_public_module_says_what_it_is(modules: dict[str, ast.Module]) -> None:
    public = {path: tree for path, tree in modules.items() if not PurePath(path).stem.startswith("_") or PurePath(path).stem == "__init__"}
    assert not [path for path, tree in public.items() if not ast.get_docstring(tree)]
