"""The worker reads the interpreter and its packages, never a home."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from aimer2.core import errors
from aimer2.site.sandbox import python_trees


def covered(path: str) -> bool:
    return any(Path(path).resolve().is_relative_to(tree.resolve()) for tree in python_trees())


def test_interpreter_and_packages_are_covered() -> None:
    paths = sysconfig.get_paths()
    for needed in (sys.executable, paths["stdlib"], paths["purelib"], pytest.__file__, errors.__file__):
        assert covered(needed), needed


def test_a_home_is_never_covered_even_if_it_is_searched_for_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "homes" / "researcher"
    packages = home / "code" / "packages"
    packages.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(sys, "path", [*sys.path, "", str(home), str(tmp_path / "homes"), str(packages)])
    assert packages in python_trees()
    assert not covered(str(home / "secret"))
    assert not covered("/etc/passwd")
    assert not covered("/tmp")


def test_an_environment_in_a_home_is_named_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("bin", "lib", "Documents"):
        (tmp_path / part).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert {tree.name for tree in python_trees() if tree.is_relative_to(tmp_path)} == {"bin", "lib"}


def test_this_process_is_named_without_its_number() -> None:
    trees = {str(tree) for tree in python_trees()}
    if sys.platform == "linux":
        assert "/proc/self/maps" in trees
    assert "/proc/self/net" not in trees
    assert not any(tree.startswith("/proc/") and tree.split("/")[2].isdigit() for tree in trees)
