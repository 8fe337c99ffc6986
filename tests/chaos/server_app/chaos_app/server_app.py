"""A ServerApp that notes, in its working folder, which replies each of its rounds has used.

journal.jsonl        a line per aggregation: {"step": n, "nonces": [...], "errors": [...]}
model-<step>.npz     the model that it made
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class NotingFedAvg(FedAvg):  # type: ignore[misc]
    """FedAvg that notes the replies."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Note the replies, and average them."""
        found = list(replies)
        good = [reply for reply in found if not reply.has_error()]
        arrays, metrics = super().aggregate_train(server_round, found)
        if arrays is not None:
            np.savez(f"model-{server_round}.npz", **{name: array.numpy() for name, array in arrays.items()})
        line = {
            "step": server_round,
            "nonces": [int(reply.content["metrics"]["nonce"]) for reply in good],
            "errors": [reply.error.reason for reply in found if reply.has_error()],
        }
        with Path("journal.jsonl").open("a", encoding="ascii") as journal:
            journal.write(json.dumps(line) + "\n")
        return arrays, metrics


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run some rounds over all devices."""
    body = np.zeros(int(context.run_config["values"]), np.float32)
    strategy = NotingFedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"body": Array(body)}),
        num_rounds=int(context.run_config["num-server-rounds"]),
        timeout=None,
    )
