"""The attackers use the federation that the tests of the protocol use."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "secure_aggregation"))
