"""Versions of models that tests make as often as they like."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported one by one: what they share is found by its path

from made_versions import Made, Make, make_version


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(folder: str = "version", **changes: Any) -> Made:
        return make_version(tmp_path / folder, **changes)

    return made
