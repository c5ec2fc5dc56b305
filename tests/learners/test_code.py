from __future__ import annotations

import py_compile
import sys
from pathlib import Path

import pytest

from aimer2.core.errors import BadModel, BadUpdate
from aimer2.learners.code import load_build, refusing


def written(folder: Path, text: str, name: str = "model.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_build_is_found_and_called_with_what_it_is_given(tmp_path: Path) -> None:
    build = load_build(written(tmp_path, "def build(features, classes, **options): return features, classes, options"))
    assert build(3, 2, width=4) == (3, 2, {"width": 4})


def test_a_file_needs_no_suffix_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """In the blob store its name is its digest."""
    build = load_build(written(tmp_path, "def build(features, classes): return 1", name="0" * 64))
    assert build(1, 1) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["0" * 64]


def test_dataclasses_in_the_code_find_their_module(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n  x: int\ndef build(f, c): return A(f)"
    assert load_build(written(tmp_path, text))(3, 1).x == 3


def test_a_planted_compiled_file_is_not_run(tmp_path: Path) -> None:
    path = written(tmp_path, "def build(features, classes): return 'planted'")
    cached = py_compile.compile(str(path), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert cached is not None and Path(cached).exists()
    path.write_text("def build(features, classes): return 'approved'")
    assert load_build(path)(1, 1) == "approved"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("raise ValueError('patient 4711')", "ValueError"),
        ("def build(:", "SyntaxError"),
        ("import package_that_is_not_there", "ModuleNotFoundError"),
        ("raise SystemExit('patient 4711')", "SystemExit"),
    ],
)
def test_what_the_code_raises_is_named_by_its_kind_alone(tmp_path: Path, text: str, kind: str) -> None:
    with pytest.raises(BadModel, match=kind) as caught:
        load_build(written(tmp_path, text))
    assert "4711" not in str(caught.value)
    assert caught.value.__suppress_context__ and caught.value.__cause__ is None


@pytest.mark.parametrize("text", ["", "build = 3"])
def test_a_file_without_build_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadModel, match="build"):
        load_build(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="FileNotFoundError"):
        load_build(tmp_path / "model.py")


def test_our_own_errors_pass() -> None:
    with pytest.raises(BadUpdate, match="as it was"), refusing():
        raise BadUpdate("as it was")


def test_the_module_has_a_private_name(tmp_path: Path) -> None:
    before = set(sys.modules)
    load_build(written(tmp_path, "def build(f, c): return 'private name'"))
    assert all(name.startswith("_aimer2_study_") for name in set(sys.modules) - before)
