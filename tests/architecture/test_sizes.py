"""Nothing grows past what one person can hold in the head."""

from __future__ import annotations

import ast

LINES_OF_A_FILE = 600
LINES_OF_A_FUNCTION = 80


def length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_file_is_too_long(modules: dict[str, ast.Module]) -> None:
    ends = {path: tree.body[-1].end_lineno or 0 for path, tree in modules.items() if tree.body}
    assert not [f"{path}: {end} lines" for path, end in ends.items() if end > LINES_OF_A_FILE]


def test_no_function_is_too_long(modules: dict[str, ast.Module]) -> None:
    functions = [
        (path, node)
        for path, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "migrations/versions/" not in path
    ]
    assert functions
    assert not [f"{path}:{node.lineno} {node.name}: {length(node)} lines" for path, node in functions if length(node) > LINES_OF_A_FUNCTION]
