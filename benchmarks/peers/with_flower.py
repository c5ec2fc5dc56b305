"""Flower's simulation (Ray) over the work: prints the seconds of each round. `python with_flower.py SITES ROUNDS`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import work
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.app import Message as Reply
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

SITES, ROUNDS = int(sys.argv[1]), int(sys.argv[2])
client, server = ClientApp(), ServerApp()


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(work.FEATURES, work.HIDDEN), torch.nn.ReLU(), torch.nn.Linear(work.HIDDEN, 1))


@client.train()
def fit(message: Any, context: Any) -> Any:
    torch.set_num_threads(1)
    features, targets = (torch.from_numpy(part) for part in work.rows(int(context.node_config["partition-id"])))
    module = network()
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimiser = torch.optim.SGD(module.parameters(), lr=work.RATE)
    for part in torch.randperm(len(targets)).split(work.BATCH):
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(module(features[part]).squeeze(1), targets[part].float())
        loss.backward()
        optimiser.step()
    content = {"arrays": ArrayRecord(module.state_dict()), "metrics": MetricRecord({"num-examples": len(targets)})}
    return Reply(reply_to=message, content=RecordDict(content))


class Timed(FedAvg):
    stamps: list[float] = []  # noqa: RUF012 - one strategy, one list

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        result = super().aggregate_train(server_round, replies)
        self.stamps.append(time.time())
        return result


@server.main()
def main(grid: Any, context: Any) -> None:
    strategy = Timed(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=SITES, min_available_nodes=SITES)
    strategy.start(grid=grid, initial_arrays=ArrayRecord(network().state_dict()), num_rounds=ROUNDS, timeout=600)
    seconds = [after - before for before, after in zip(strategy.stamps, strategy.stamps[1:], strict=False)]
    print("SECONDS", json.dumps(seconds), flush=True)


if __name__ == "__main__":
    run_simulation(server, client, num_supernodes=SITES)
