"""The SDK page is run, block after block; its models have learned, and no framework takes more than a page of code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "sdk.md").read_text(encoding="utf-8")
FRAMEWORKS = ("PyTorch", "Keras on TensorFlow", "scikit-learn", "numpy")


def blocks(heading: str) -> list[str]:
    section = re.split(r"^## ", PAGE.partition(f"## {heading}\n")[2], flags=re.MULTILINE)[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    """What the first section has defined."""
    names: dict[str, Any] = {}
    for block in blocks("Data"):
        exec(compile(block, "docs/sdk.md", "exec"), names)
    return names


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_model_and_data_of_ones_own_in_twenty_lines(framework: str, data: dict[str, Any], request: pytest.FixtureRequest) -> None:
    if framework.startswith("Keras"):
        request.getfixturevalue("tensorflow")
    (block,) = blocks(framework)
    names = dict(data)
    exec(compile(block, "docs/sdk.md", "exec"), names)
    risks, targets = names["risks"], names["records"].targets
    assert ((risks > 0.5) == targets).mean() > 0.85
    assert all(isinstance(leaf, np.ndarray) for leaf in names["model"].values())
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) <= (20 if framework in FRAMEWORKS[:2] else 25)


def test_the_file_beside_a_study_builds(tensorflow: None) -> None:
    (block,) = blocks("The same in a study")
    names: dict[str, Any] = {}
    exec(compile(block, "docs/sdk.md", "exec"), names)
    assert names["build"](5, 2, width=3).output_shape == (None, 1)
