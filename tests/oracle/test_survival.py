"""Cox regression over sites is the pooled Cox regression stratified by site: statsmodels on all rows together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from statsmodels.duration.hazard_regression import PHReg
from torch import nn

from aimer2.algorithms.fedavgm import FedAvgM
from aimer2.client.simulate import federate
from aimer2.core.dataset import Samples
from aimer2.core.study import Target, Training
from aimer2.learners.recipe import Recipe
from aimer2.learners.torch import TorchLearner
from aimer2.metrics.figures import figures

COLUMNS = ("age_at_index", "ajcc_pathologic_t_T3", "ajcc_pathologic_m_MX", "tumor_stage_stage iia")
TARGET = Target(name="T", kind="survival", event="E")


def brca(folder: Path) -> pd.DataFrame:
    rows = pd.read_csv(folder / "tcga-brca-6regions" / "brca.csv")
    return rows.merge(pd.read_csv(folder / "tcga-brca-6regions" / "train_test_split.csv"), on="pid")


def zeros() -> nn.Module:
    module = nn.Linear(len(COLUMNS), 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(module.weight)
    return module


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_cox_regression_on_six_regions(data_dir: Path, ties: Any) -> None:
    rows = brca(data_dir)
    features = rows[list(COLUMNS)].to_numpy(np.float64)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    targets, region = rows[["T", "E"]].to_numpy(np.float64), rows["fold2"].str[-1].to_numpy()
    oracle = PHReg(targets[:, 0], features, status=targets[:, 1], strata=region, ties=ties).fit(disp=0).params
    training = Training(learning_rate=3.0, ties=ties)
    recipe = Recipe(training, TARGET, 10**6, (len(COLUMNS),), ("concordance",))
    learners = {site: TorchLearner(zeros, recipe, "cpu") for site in np.unique(region)}
    sites = {f"region-{site}": (learner, Samples(features[region == site], targets[region == site])) for site, learner in learners.items()}
    algorithm = FedAvgM(rounds=120, momentum=0.5)
    found = federate(algorithm, sites, rounds=algorithm.rounds, steps=1, batch_size=None)
    np.testing.assert_allclose(found["weight"][0], oracle, atol=1e-6)


def test_pairs_within_sites_are_lifelines_concordances_weighted_by_their_pairs(data_dir: Path) -> None:
    """Of age as the risk; lifelines 0.30.3 gives each region's concordance, the study's figure is their mean by comparable pairs."""
    rows = brca(data_dir)
    recipe = Recipe(Training(), TARGET, 1, (1,), ("concordance",))

    def age() -> nn.Module:
        module = nn.Linear(1, 1, bias=False)
        nn.init.ones_(module.weight)
        return module

    learner, total, each = TorchLearner(age, recipe, "cpu"), None, []
    for _, part in rows.groupby(rows["fold2"].str[-1]):
        sums = learner.evaluate(Samples(part[["age_at_index"]].to_numpy(), part[["T", "E"]].to_numpy()))
        total = sums if total is None else {name: total[name] + leaf for name, leaf in sums.items()}
        each.append((figures("survival", sums, ["concordance"])[0].value, float(sums["pairs"][0])))
    assert [value for value, _ in each] == pytest.approx(LIFELINES, abs=1e-9)
    (pooled,) = figures("survival", total or {}, ["concordance"])
    assert pooled.value == pytest.approx(np.average([value or 0 for value, _ in each], weights=[pairs for _, pairs in each]))


LIFELINES = (0.68018599845, 0.558654496281, 0.575509190263, 0.588252656434, 0.845070422535, 0.916666666667)
