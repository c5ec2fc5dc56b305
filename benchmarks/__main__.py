"""`python -m benchmarks`: lists; `python -m benchmarks NAME [--json]`: runs one; `all` runs all."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.rows import show

BENCHMARKS = {
    "round_small": ("benchmarks.rounds:small", "3 sites × 1,000 floats over TLS, real processes: a round"),
    "round_large": ("benchmarks.rounds:large", "3 sites × 100 MB over TLS, real processes: a round, the coordinator's memory; and with 10 sites"),
    "round_many": ("benchmarks.rounds:many", "10 sites × 4 MB over TLS, real processes: a round"),
    "secure_small": ("benchmarks.secure_round:small", "5 sites × 1,000 floats, real processes: a round in secret against one in the clear"),
    "secure_many": ("benchmarks.secure_round:many", "5 sites × 4 MB, real processes: a round in secret against one in the clear"),
    "secure_large": (
        "benchmarks.secure_round:large",
        "10 sites × 100 MB without processes: masks, stores and sums against the clear; computed for links",
    ),
    "secure_figures": ("benchmarks.secure_figures:run", "masks over AES, 200 sites, Skellam noise, a ledger with 100 entries: each with its limit"),
    "secure_accuracy": ("benchmarks.secure_accuracy:run", "10 hospitals, one study in secret and in the clear: accuracy on unseen X-rays"),
    "site_level": ("benchmarks.site_level:run", "20 and 50 hospitals, each protected as a whole: AUC on unseen X-rays by ε"),
    "study_torch": ("benchmarks.study_torch:run", "submit to finished: 3 sites, 10 rounds, PyTorch MLP on real data, with process starts"),
    "simulator": ("benchmarks.simulator:run", "100 virtual sites in one process, 1,000 floats: a round"),
    "simulation": ("benchmarks.simulation:run", "100 and 1,000 virtual sites with a small network: a round, on one core and on all, beside peers"),
    "synthetic": ("benchmarks.synthetic:run", "Synthetic(α, β) of the FedProx paper, 30 sites: loss by method and heterogeneity"),
    "idle": ("benchmarks.idle:run", "200 sites waiting: processor, memory, time to wake them all"),
    "poisoning": ("benchmarks.poisoning:run", "one false hospital of fifteen under each defence: accuracy, backdoors"),
    "private_step": ("benchmarks.private_step:run", "a step of DP-SGD against a plain one, batch of 128, one thread"),
    "personal": ("benchmarks.personal:run", "hospitals that differ: the common model, the kept one, the one trained alone; accuracy"),
    "flamby_heart": ("benchmarks.flamby_heart:run", "FLamby Fed-Heart-Disease by its protocol, 4 hospitals: accuracy beside the published one"),
    "flamby_tcga": ("benchmarks.flamby_tcga:run", "FLamby Fed-TCGA-BRCA by its protocol, 6 regions: concordance beside the published one"),
    "compression": ("benchmarks.compression:run", "accuracy against bytes: each compression, and changes on the way down, on X-rays"),
    "question": ("benchmarks.question:run", "a statistical question over 5 sites, real processes, approved by their rules: asked to answered"),
    "pneumonia": ("benchmarks.pneumonia:run", "chest X-rays at hospitals with other labels and scanners, methods compared; writes docs/benchmarks"),
    "pages": ("benchmarks.pages:run", "the coordinator's pages over 200 studies × 50 sites; an event to 1 and to 200 open live views"),
    "viewers": ("benchmarks.viewers:run", "a study of real processes with and without 200 open live views or event streams: a round, an event's way"),
    "help": ("benchmarks.help:run", "`aimer2 --help`"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--json", action="store_true", help="one JSON line per row")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="keep the table and its figure there, of those that docs/benchmarks.md shows")
    given = parser.parse_args()
    if given.name is None:
        for name, (_, line) in BENCHMARKS.items():
            print(f"{name:<16} {line}")
        return
    if given.to is not None:
        importlib.import_module("benchmarks.figures").write(given.name, given.to)
        return
    names = list(BENCHMARKS) if given.name == "all" else [given.name]
    for name in names:
        module, function = BENCHMARKS[name][0].split(":")
        show(getattr(importlib.import_module(module), function)(), as_json=given.json)


if __name__ == "__main__":
    main()
