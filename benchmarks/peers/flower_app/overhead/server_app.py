"""The ServerApp: federated averaging that writes down when each round began."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from overhead.task import initial_model

app = ServerApp()


class TimedFedAvg(FedAvg):
    """FedAvg with the time, in seconds since the epoch, at which it configured each round."""

    def __init__(self, min_nodes: int, fraction_evaluate: float, file: Path) -> None:
        super().__init__(
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_nodes,
            min_evaluate_nodes=min_nodes,
            min_available_nodes=min_nodes,
        )
        self.file = file
        self.times: list[float] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Record the time, then configure the round as FedAvg does."""
        self.stamp()
        return super().configure_train(server_round, arrays, config, grid)

    def stamp(self) -> None:
        """Write the time; the file always has whole JSON."""
        self.times.append(time.time())
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(self.times), encoding="utf-8")
        draft.replace(self.file)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for ``num-server-rounds`` rounds."""
    config = context.run_config
    strategy = TimedFedAvg(
        int(config["min-nodes"]), float(config["fraction-evaluate"]), Path(str(config["times"]))
    )
    model = initial_model(float(config["megabytes"]))
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(array) for name, array in model.items()}),
        num_rounds=int(config["num-server-rounds"]),
    )
    strategy.stamp()
