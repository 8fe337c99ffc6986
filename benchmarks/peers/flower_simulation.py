"""Flower's simulation engine on the clients of mnist_clients.py; runs in Flower's environment.

    .venv-flower/bin/python -m benchmarks.peers.flower_simulation FOLDER --rounds N

prints the seconds of each round as JSON. Ray has one actor per processor; each reads the data once, and torch
has one thread.

Ray is started for this run alone, in a temporary folder. By default Ray joins the cluster that was started
last on the machine, and waits for minutes if that one was killed.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers.flower_clients import FOLDER_VARIABLE, client_app
from benchmarks.peers.mnist_clients import CLIENTS, COHORT, make_model


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

    def aggregate_train(self, server_round: int, replies: Any) -> object:
        """Note the end of a round, and check that all clients trained."""
        replies = list(replies)
        failed = [reply for reply in replies if reply.has_error()]
        if failed or len(replies) != COHORT:
            message = f"{len(failed)} clients failed, {len(replies)} of {COHORT} replied"
            raise RuntimeError(message)
        found = super().aggregate_train(server_round, replies)
        self.seconds.append(time.perf_counter() - self._began)
        return found


def main() -> None:
    """Play the rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    os.environ[FOLDER_VARIABLE] = str(options.folder.absolute())
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

    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        backend: dict[str, Any] = {
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"address": "local", "include_dashboard": False, "_temp_dir": folder},
        }
        run_simulation(server_app, client_app, CLIENTS, backend_config=backend)


if __name__ == "__main__":
    main()
