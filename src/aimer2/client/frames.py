"""A study's figures as pandas frames, for plots and further analysis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

_COLUMNS = ("stage", "round", "name", "value", "low", "high", "n", "note")


def rounds_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """One row per round and figure of a result document: stage, round, name, value, low, high, n, note."""
    rows = [{"stage": item["stage"], "round": item["round"], **figure} for item in result["rounds"] for figure in item["figures"]]
    return pd.DataFrame(rows, columns=_COLUMNS)


def sites_frame(result: Mapping[str, Any]) -> pd.DataFrame:
    """One row per site and figure that the sites have released: site, name, value, low, high, n, note."""
    rows = [{"site": site, **figure} for site, figures in result["released"].items() for figure in figures]
    return pd.DataFrame(rows, columns=("site", *_COLUMNS[2:]))
