"""Flower's simulation engine on the clients of mnist_clients.py; runs in Flower's environment.

    .venv-flower/bin/python -m benchmarks.peers.flower_simulation FOLDER --rounds N

prints the seconds of each round as JSON. Ray has one actor per processor, which is the fastest here: each
reads the data once, and torch has one thread.
"""

import argparse
import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers.mnist_clients import CLIENTS, COHORT, IMAGES, make_model, read_clients, train

_FOLDER = "FEDGRASS_MNIST"  # environment variable: Ray's actors inherit it
client_app = ClientApp()


@cache
def _data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.set_num_threads(1)
    return read_clients(Path(os.environ[_FOLDER]))


@cache
def _model() -> torch.nn.Module:
    return make_model()


@client_app.train()  # type: ignore[untyped-decorator]
def train_client(message: Message, context: Context) -> Message:
    """Train one client."""
    images, labels = _data()
    client, model = int(context.node_config["partition-id"]), _model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss = train(model, images[client], labels[client])
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"train_loss": loss, "num-examples": IMAGES}),
        }
    )
    return Message(content=content, reply_to=message)


class _Timed(FedAvg):  # type: ignore[misc]
    """Federated averaging that notes when each round begins and ends."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seconds: list[float] = []
        self._began = 0.0

    def configure_train(self, *arguments: object) -> object:
        """Note the begin of a round."""
        self._began = time.perf_counter()
        return super().configure_train(*arguments)

    def aggregate_train(self, *arguments: object) -> object:
        """Note the end of a round."""
        found = super().aggregate_train(*arguments)
        self.seconds.append(time.perf_counter() - self._began)
        return found


def main() -> None:
    """Play the rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    os.environ[_FOLDER] = str(options.folder.absolute())
    server_app = ServerApp()

    @server_app.main()  # type: ignore[untyped-decorator]
    def play(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
        strategy = _Timed(
            fraction_train=COHORT / CLIENTS,
            fraction_evaluate=0.0,
            min_train_nodes=COHORT,
            min_available_nodes=CLIENTS,
        )
        strategy.start(grid, ArrayRecord(make_model().state_dict()), num_rounds=options.rounds)
        print(json.dumps(strategy.seconds), flush=True)

    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, CLIENTS, backend_config=backend)


if __name__ == "__main__":
    main()
