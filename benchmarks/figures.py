"""The tables of the proofs as CSV and SVG: `python -m benchmarks NAME --to FOLDER`. Needs matplotlib (`pip install 'aimer2[figures]'`)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

mpl.use("svg")
# the same table gives the same bytes
mpl.rcParams.update({"svg.hashsalt": "aimer2", "font.size": 8, "figure.autolayout": True})


def write(name: str, folder: Path) -> None:
    """Computes the benchmark's table and keeps it with its figure. Raises KeyError for a benchmark without a figure."""
    keep(name, importlib.import_module(f"benchmarks.{name}").table(), folder)


def keep(name: str, table: pd.DataFrame, folder: Path) -> None:
    drawn = FIGURES[name](table)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.4g")
    drawn.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(drawn)


def published(table: pd.DataFrame) -> Figure:
    """Per method the mean over the sites, ours and the published one, each with its standard deviation over the seeds."""
    rows = table[table["test"] == "mean"].iloc[::-1]
    drawn, axes = plt.subplots(figsize=(6.5, 3.6))
    places = pd.Series(range(len(rows)), dtype=float)
    axes.errorbar(rows["mean"], places + 0.15, xerr=rows["sd"], fmt="o", capsize=2, label="AIMER2")
    axes.errorbar(rows["published"], places - 0.15, xerr=rows["published_sd"], fmt="s", capsize=2, label="published")
    axes.set_yticks(places, rows["method"])
    axes.set_xlabel("mean over the sites' test patients, %; bars: standard deviation over 5 seeds")
    axes.legend()
    return drawn


def losses(table: pd.DataFrame) -> Figure:
    """The loss over the rounds: data in columns, without and with stragglers in rows."""
    data = list(dict.fromkeys(table["data"]))
    drawn, grid = plt.subplots(2, len(data), figsize=(9, 4.6), sharex=True)
    for (kind, stragglers, method), path in table.groupby(["data", "stragglers", "method"], sort=False):
        axes = grid[int(stragglers)][data.index(kind)]
        axes.plot(path["round"], path["loss"], label=method)
        axes.set_yscale("log")
        axes.set_title(f"{kind}{', stragglers' * bool(stragglers)}")
    grid[0][0].set_ylabel("mean loss")
    grid[1][0].set_ylabel("mean loss")
    grid[1][0].set_xlabel("round")
    grid[0][0].legend(fontsize=6)
    return drawn


FIGURES: Mapping[str, Callable[[pd.DataFrame], Figure]] = {"flamby_heart": published, "flamby_tcga": published, "synthetic": losses}
