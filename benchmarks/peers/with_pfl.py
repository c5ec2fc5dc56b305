"""pfl-research's simulation over the work: prints the seconds of each round. `python with_pfl.py SITES ROUNDS`."""

from __future__ import annotations

import json
import sys
import time
from itertools import cycle
from typing import Any

import torch
import work
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel

SITES, ROUNDS = int(sys.argv[1]), int(sys.argv[2])


class Network(torch.nn.Sequential):
    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(work.FEATURES, work.HIDDEN), torch.nn.ReLU(), torch.nn.Linear(work.HIDDEN, 1))

    def loss(self, features: torch.Tensor, targets: torch.Tensor, eval: bool = False) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(self(features).squeeze(1), targets.float())

    def metrics(self, features: torch.Tensor, targets: torch.Tensor, eval: bool = False) -> dict[str, Any]:
        return {}


class Timed(TrainingProcessCallback):
    def __init__(self) -> None:
        self.stamps: list[float] = []

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
        self.stamps.append(time.time())
        return False, aggregate_metrics.__class__()


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kept = {site: Dataset(raw_data=[torch.from_numpy(part) for part in work.rows(site)], user_id=str(site)) for site in range(SITES)}
    turns = cycle(range(SITES))
    data = FederatedDataset(kept.__getitem__, lambda: next(turns))
    network = Network()
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))
    timed = Timed()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(central_num_iterations=ROUNDS, evaluation_frequency=10**6, train_cohort_size=SITES, val_cohort_size=None),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        model_train_params=NNTrainHyperParams(local_num_epochs=1, local_learning_rate=work.RATE, local_batch_size=work.BATCH),
        callbacks=[timed],
    )
    print("SECONDS", json.dumps([after - before for before, after in zip(timed.stamps, timed.stamps[1:], strict=False)]), flush=True)


if __name__ == "__main__":
    main()
