"""What a benchmark gives: rows, printed as a table or as a JSON line each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One measured value, and the floor measured in the same run."""

    benchmark: str
    case: str
    value: float
    unit: str
    floor: float | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.floor if self.floor else None


def show(rows: Iterable[Row], *, as_json: bool) -> None:
    if not as_json:
        print(f"{'benchmark':<14} {'case':<52} {'value':>10} {'unit':<4} {'floor':>10} {'ratio':>7}")
    for row in rows:
        if as_json:
            print(json.dumps(dataclasses.asdict(row) | {"ratio": row.ratio}), flush=True)
            continue
        floor = "–" if row.floor is None else f"{row.floor:.4g}"
        ratio = "–" if row.ratio is None else f"{row.ratio:.1f}x"
        print(f"{row.benchmark:<14} {row.case:<52} {row.value:>10.4g} {row.unit:<4} {floor:>10} {ratio:>7}", flush=True)
