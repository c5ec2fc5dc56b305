"""Heavy libraries live at one address, imports stand at the head of a module, nothing unpickles or evaluates what it is given.

The directions between rooms are a contract of import-linter, in pyproject.toml.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

# Library: where it may be imported. A pattern's `*` also crosses folders.
HOMES = {
    "PIL": ("connectors/images.py",),
    "alembic": ("coordinator/*", "site/*"),
    "click": ("cli/*",),
    "dp_accounting": ("privacy/accounting.py",),
    "fastapi": ("coordinator/*",),
    "greenlet": ("learners/turns.py",),
    "granian": ("coordinator/*", "site/console/*"),
    "jinja2": ("web/*",),
    "jwt": ("identity/*",),
    "keras": ("learners/keras.py", "models/keras.py"),
    "matplotlib": ("charts/png.py",),
    "logging": ("cli/*", "coordinator/*", "dashboard/*", "site/*"),
    "opacus": ("learners/torch_private.py",),
    "prometheus_client": ("coordinator/*", "site/*"),
    "psycopg": (),  # loaded by SQLAlchemy from the database's address
    "pyarrow": ("connectors/parquet.py",),
    "pygments": ("web/code.py",),
    "rich": ("cli/*", "client/*"),
    "scipy": ("statistics/distributions.py", "statistics/families.py"),
    "sklearn": ("cli/demo*", "models/sklearn.py"),
    "sqlalchemy": ("connectors/sql.py", "coordinator/*", "site/*"),
    "starlette": ("coordinator/*", "dashboard/*", "site/*", "web/*"),
    "tensorflow": ("learners/keras.py",),
    "torch": ("learners/torch*.py", "models/*", "attacks/torch_*.py"),
    "zstandard": ("compression/lossless.py",),
    "uvloop": ("cli/*", "coordinator/*"),
}
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "torch.load"}


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def test_each_heavy_library_is_imported_at_its_address_only(modules: dict[str, ast.Module]) -> None:
    assert not [
        f"{path}:{line} imports {name}"
        for path, tree in modules.items()
        for line, name in imported(tree)
        if (library := name.partition(".")[0]) in HOMES and not any(fnmatch(path, home) for home in HOMES[library])
    ]


def test_what_is_imported_anywhere_is_pinned() -> None:
    """A library that only happens to be installed here is missing in a fresh clone."""
    project = Path(__file__).parents[2]
    pinned = {canonicalize_name(line.partition("==")[0]) for line in (project / "constraints.txt").read_text().splitlines()}
    ours = {path.stem for path in (project / "tests").rglob("*.py")} | {"__future__", "aimer2", "benchmarks", "tests"}
    found = packages_distributions()
    files = [file for folder in ("src", "tests", "examples") for file in (project / folder).rglob("*.py")]
    assert not {
        f"{file.relative_to(project)}:{line} imports {library}"
        for file in files
        if "node_modules" not in file.parts
        for line, name in imported(ast.parse(file.read_bytes()))
        if (library := name.partition(".")[0]) and library not in sys.stdlib_module_names | ours
        if not any(canonicalize_name(distribution) in pinned for distribution in found.get(library, [library]))
    }


def test_imports_stand_at_the_head_of_their_module(modules: dict[str, ast.Module]) -> None:
    assert not [
        f"{path}:{line} imports {name}"
        for path, tree in modules.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for line, name in imported(function)
    ]


def test_our_own_modules_are_imported_by_their_full_name(modules: dict[str, ast.Module]) -> None:
    assert not [f"{path}:{line}" for path, tree in modules.items() for line, name in imported(tree) if name.startswith(".")]


def is_unsafe(call: ast.Call) -> bool:
    allows_pickle = any(keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False" for keyword in call.keywords)
    return allows_pickle or ast.unparse(call.func) in UNSAFE_CALLS


def test_nothing_unpickles_or_evaluates(modules: dict[str, ast.Module]) -> None:
    imports = [f"{path}:{line} {name}" for path, tree in modules.items() for line, name in imported(tree) if name in UNSAFE_MODULES]
    calls = [
        f"{path}:{node.lineno} {ast.unparse(node.func)}"
        for path, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and is_unsafe(node)
    ]
    assert not imports + calls


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after the statement."""
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split())


def test_importing_the_package_loads_no_library() -> None:
    assert not loaded_by("import aimer2") & {"click", "numpy", "pandas", "pydantic", "rich", "torch", "urllib3"}


@pytest.mark.parametrize("room", ["coordinator", "dashboard"])
def test_the_coordinator_runs_without_a_machine_learning_framework(room: str, modules: dict[str, ast.Module]) -> None:
    own = [path for path in modules if path.startswith(f"{room}/") and "/migrations/" not in path]
    names = ["aimer2." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in own]
    assert not loaded_by("".join(f"import {name}\n" for name in names)) & {"keras", "pyarrow", "sklearn", "tensorflow", "torch"}
