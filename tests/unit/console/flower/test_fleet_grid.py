"""Flower's Grid over a fleet in memory, under Flower's strategies."""

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedgrass.console.flower.fleet_grid import FleetGrid
from fedgrass.console.flower.flower_api import from_records, identify, to_parts
from fedgrass.federation.messages import MessageHeader
from tests.fakes.flower_fleet import Content, FlowerFleet
from tests.fakes.small_fleet import RUN


def adding(device: str, header: MessageHeader, content: Content) -> Content:
    """Train by adding the number of the device; evaluate by the mean of the model."""
    got = from_records(*content)
    number = int(device.rpartition("-")[2])
    arrays = {name: array.numpy() for name, array in got["arrays"].items()}
    if header.type == "evaluate":
        reply = RecordDict({"metrics": MetricRecord({"mean": float(arrays["a"].mean()), "num-examples": 1})})
    else:
        record = ArrayRecord({name: Array(array + number) for name, array in arrays.items()})
        metrics = MetricRecord({"train_loss": 1.0, "num-examples": 1 + number})
        reply = RecordDict({"arrays": record, "metrics": metrics})
    parts = to_parts(reply)
    return [part.record for part in parts], [bytes(data) for part in parts for data in part.data]


def adding_one_more(device: str, header: MessageHeader, content: Content) -> Content:
    """Do as ``adding``, but change the model on each device: Flower's clipping divides by the change."""
    return adding(f"thing-{int(device[-1]) + 1}", header, content)


def grid_of(fleet: FlowerFleet) -> FleetGrid:
    identify(RUN)
    return FleetGrid(fleet.exchange(), RUN, clock=fleet.clock)


def model(value: float = 0.0, size: int = 6000) -> ArrayRecord:
    return ArrayRecord({"a": Array(np.full(size, value, np.float32)), "b": Array(np.zeros((2, 3)))})


def test_fedavg_trains_and_evaluates_over_a_fleet() -> None:
    fleet = FlowerFleet(3, adding)
    result = FedAvg().start(grid_of(fleet), model(), num_rounds=2)
    expected = 2 * (0 * 1 + 1 * 2 + 2 * 3) / 6
    assert np.allclose(result.arrays["a"].numpy(), expected)
    assert result.evaluate_metrics_clientapp[2]["mean"] == pytest.approx(expected)
    assert [number for _, number, _ in fleet.answered] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert fleet.fleet.sent(3).aim == "train"
