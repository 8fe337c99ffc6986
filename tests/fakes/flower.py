"""Unmodified strategies of Flower, called with the test's replies through Flower's message API."""

import gc
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

Arrays = dict[str, NDArray[Any]]

# A Message reads these on construction; outside a run of Flower they are not set.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


class FlowerRun:
    """A server of Flower that aggregates the replies of its clients, round by round.

    Args:
        strategy: a strategy of ``flwr.serverapp.strategy``.
        model: the initial model.
        first_round: the number of the first round, as passed to Flower.
    """

    def __init__(self, strategy: Any, model: Mapping[str, NDArray[Any]], first_round: int = 1) -> None:
        # Flower collects garbage after each client; exclude all objects that earlier tests have created.
        gc.freeze()
        self._strategy = strategy
        self._round = first_round
        self.model: Arrays = dict(model)

    def round(
        self, updates: Sequence[Arrays], examples: Sequence[int], metrics: Sequence[dict[str, float]]
    ) -> Arrays:
        """Aggregate full weights; return the new model."""
        grid = _Grid(len(updates))
        with _quiet():
            list(self._strategy.configure_train(self._round, _record(self.model), ConfigRecord(), grid))
            replies = [
                _reply(*reply) for reply in zip(grid.get_node_ids(), updates, examples, metrics, strict=True)
            ]
            arrays, _ = self._strategy.aggregate_train(self._round, replies)
        self.model = {name: np.asarray(array.numpy()) for name, array in arrays.items()}
        self._round += 1
        return self.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Flower log errors only, as long as this test needs it: others read its log."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Grid:
    """The one method of flwr.serverapp.Grid that ``configure_train`` calls."""

    def __init__(self, nodes: int) -> None:
        self._nodes = list(range(1, nodes + 1))

    def get_node_ids(self) -> Iterable[int]:
        return self._nodes


def _reply(node: int, weights: Arrays, examples: int, metrics: dict[str, float]) -> Any:
    record = MetricRecord({"num-examples": examples, "train_loss": metrics["loss"]})
    content = RecordDict({"arrays": _record(weights), "metrics": record})
    return Message(content=content, dst_node_id=node, message_type=MessageType.TRAIN)


def _record(weights: Mapping[str, NDArray[Any]]) -> Any:
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in weights.items()})
