"""Virtual devices with a task of which only some arrays travel."""

from pathlib import Path

import pytest

from components.trainer.tasks import shared_reads
from components.trainer.worker.worker_protocol import TaskOptions
from fedgrass.federation.weights import decode, encode
from fedgrass.simulation.clients.client_worker import ClientWorker
from fedgrass.simulation.clients.job_calls import WorkerOptions
from fedgrass.simulation.fleets.device_conditions import DeviceConditions

TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

from components.trainer.training import TorchTask


class Partial(TorchTask):
    def __init__(self) -> None:
        base = nn.Linear(2, 3)
        nn.init.ones_(base.weight)
        nn.init.zeros_(base.bias)
        data = TensorDataset(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))
        super().__init__(lambda: nn.Sequential(base, nn.Linear(3, 2)), data, data, frozen=("0.*",))
"""
DEVICE = DeviceConditions(name="device-00001", share=0)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClientWorker:
    monkeypatch.setattr(shared_reads, "_kept", [])
    (tmp_path / "partial_task_of_clients.py").write_text(TASK)
    options: TaskOptions = {"module": "partial_task_of_clients:Partial", "path": str(tmp_path)}
    return ClientWorker(
        WorkerOptions(
            task="partial",
            options=options,
            devices=1,
            folder=str(tmp_path),
            most_bytes=2**40,
            vectorize=False,
        )
    )


def test_the_initial_model_has_the_shared_arrays_only(worker: ClientWorker) -> None:
    initial = worker.initial_model(DEVICE, 1)
    assert isinstance(initial, bytes)
    assert sorted(decode(initial)) == ["1.bias", "1.weight"]


def test_a_model_is_evaluated_with_the_frozen_arrays_of_the_task(worker: ClientWorker) -> None:
    initial = worker.initial_model(DEVICE, 1)
    assert isinstance(initial, bytes)
    model = decode(initial)
    confident = {"1.weight": model["1.weight"] * 0, "1.bias": model["1.bias"] * 0 + [9.0, -9.0]}
    found = worker.evaluate(DEVICE, encode({name: each.astype("f4") for name, each in confident.items()}))
    assert isinstance(found, dict)
    assert found["accuracy"] == 1.0
