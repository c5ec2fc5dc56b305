"""A locked analysis plan over three hospitals on this machine: what a hospital reads before it approves, then the answers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from lifelines.datasets import load_lung

from aimer2 import simulate
from aimer2.connectors.frame import from_frame
from aimer2.connectors.table import Table
from aimer2.core.study import read_study
from aimer2.site.description import what_leaves

HOSPITALS = {"north": range(1, 5), "middle": range(5, 13), "south": range(13, 40)}
"""The institutions of each."""


def hospitals() -> dict[str, Table]:
    lung = load_lung().dropna(subset=["inst"]).rename(columns={"status": "died", "ph.ecog": "ecog"})
    lung["sex"] = pd.Categorical(lung["sex"].map({1: "male", 2: "female"}), categories=["male", "female"])
    columns = ["time", "died", "age", "sex", "ecog"]
    parts = {name: lung.loc[lung["inst"].isin(institutions), columns] for name, institutions in HOSPITALS.items()}
    return {name: from_frame(part, split_key=name.encode().ljust(16), units={"time": "d", "age": "a"}) for name, part in parts.items()}


def main() -> None:
    study = read_study(Path(__file__).with_name("lung-cancer-survival") / "study.toml")
    print(f"{study.question}\n\nLeaves each hospital, and nothing else:")
    for line in what_leaves(study):
        print(f"  {line}")
    print()
    print(simulate(study, hospitals()).tables)


if __name__ == "__main__":
    main()
