from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "aimer2"


@pytest.fixture(scope="session")
def modules() -> dict[str, ast.Module]:
    """Every module of the package, parsed, by its path inside it (`core/tree.py`)."""
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_bytes()) for path in sorted(PACKAGE.rglob("*.py"))}
