"""Flower's strategies with clients of the test's, by its own message API, unmodified."""

import gc
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

Arrays = dict[str, NDArray[Any]]

logging.getLogger("flwr").setLevel(logging.ERROR)
# A Message reads these when it is made; outside a run of Flower's nobody else sets them.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


class FlowerRun:
    """What a server of Flower's does with the replies of its clients, round after round.

    Args:
        strategy: one of ``flwr.serverapp.strategy``.
        model: the initial one.
        first_round: the number that Flower is told of the first round.
    """

    def __init__(self, strategy: Any, model: Mapping[str, NDArray[Any]], first_round: int = 1) -> None:
        # Flower asks for a garbage collection after each client; none need look through all that the tests
        # before this one have imported and made.
        gc.freeze()
        self._strategy = strategy
        self._round = first_round
        self.model: Arrays = dict(model)

    def round(
        self, updates: Sequence[Arrays], examples: Sequence[int], metrics: Sequence[dict[str, float]]
    ) -> Arrays:
        """Aggregate full weights, and return the new model."""
        grid = _Grid(len(updates))
        list(self._strategy.configure_train(self._round, _record(self.model), ConfigRecord(), grid))
        replies = [_reply(*of) for of in zip(grid.get_node_ids(), updates, examples, metrics, strict=True)]
        arrays, _ = self._strategy.aggregate_train(self._round, replies)
        self.model = {name: np.asarray(array.numpy()) for name, array in arrays.items()}
        self._round += 1
        return self.model


class _Grid:
    """The one method of flwr.serverapp.Grid that ``configure_train`` calls."""

    def __init__(self, nodes: int) -> None:
        self._nodes = list(range(1, nodes + 1))

    def get_node_ids(self) -> Iterable[int]:
        return self._nodes


def _reply(node: int, weights: Arrays, examples: int, metrics: dict[str, float]) -> Any:
    found = MetricRecord({"num-examples": examples, "train_loss": metrics["loss"]})
    content = RecordDict({"arrays": _record(weights), "metrics": found})
    return Message(content=content, dst_node_id=node, message_type=MessageType.TRAIN)


def _record(weights: Mapping[str, NDArray[Any]]) -> Any:
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in weights.items()})
