"""The tasks of virtual devices: each with its share, and only as many as memory has room for."""

from typing import Any

import numpy as np
import pytest

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks import shared_reads
from components.trainer.tasks.digits import Digits
from components.trainer.tasks.partition import Partition
from components.trainer.training import TorchTask
from components.trainer.worker.worker_protocol import TaskOptions
from fedgrass.simulation.clients.virtual_tasks import VirtualTasks
from tests.fakes.simulated_work import devices

BLOBS: TaskOptions = {"module": "tests.fakes.blob_task:Blobs"}


def test_a_device_has_its_own_task_which_is_kept() -> None:
    first, second = devices(2)
    tasks = VirtualTasks("blobs", BLOBS, 2, most_bytes=100, used=lambda: 0)
    assert tasks.of(first) is tasks.of(first)
    assert tasks.of(first) is not tasks.of(second)
    assert tasks.options_of(second)["share"] == 1


def test_the_least_recently_used_task_is_dropped_once_memory_is_short() -> None:
    used = 0
    fleet = devices(4)
    tasks = VirtualTasks("blobs", BLOBS, 4, most_bytes=100, used=lambda: used)
    kept = [tasks.of(device) for device in fleet[:3]]
    used = 101
    assert tasks.of(fleet[0]) is kept[0]
    tasks.of(fleet[3])  # in place of the second
    assert tasks.of(fleet[2]) is kept[2]
    assert tasks.of(fleet[1]) is not kept[1]


def test_a_class_without_shares_gets_none() -> None:
    tasks = VirtualTasks("noise", {"megabytes": 0.001}, 4, most_bytes=100)
    assert "share" not in tasks.options_of(devices(1)[0])


def test_the_examples_of_a_task_that_is_no_torch_task_cannot_be_limited() -> None:
    tasks = VirtualTasks("noise", {"megabytes": 0.001}, 4, most_bytes=100)
    (device,) = devices(1)
    few = type(device)(name=device.name, share=0, examples=3)
    with pytest.raises(ConfigurationError, match="device-00000 has at most 3 examples"):
        tasks.of(few)


@pytest.mark.parametrize(
    "options",
    [{}, {"split": "label", "labels_per_device": 2}, {"split": "dirichlet"}, {"split": "column"}],
    ids=str,
)
def test_a_split_that_is_shared_gives_the_shares_of_a_device(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [number % 10 for number in range(200)]
    partitions = [Partition(share=share, shares=7, **options) for share in range(7)]
    alone = [partition.places(values) for partition in partitions]
    monkeypatch.setattr(shared_reads, "_kept", [])
    shared_reads.share_reads()
    assert [partition.places(values) for partition in reversed(partitions)] == alone[::-1]
    other = [value + 1 for value in values[:100]]
    assert partitions[0].places(other) != alone[0]


def test_tasks_of_a_process_share_a_built_in_module_and_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "_kept", [])
    shared_reads.share_reads()
    fleet = devices(2)
    tasks = VirtualTasks("digits", {}, 2, most_bytes=100, used=lambda: 0)
    first, second = (tasks.of(device) for device in fleet)
    assert isinstance(first, TorchTask)
    assert isinstance(second, TorchTask)
    assert first.training_parts().model is second.training_parts().model
    given, settings = first.initial_weights(0), {"epochs": 1, "seed": 0}
    alone = second.fit(given, settings, lambda _done: None, lambda: False)
    first.fit(given, settings, lambda _done: None, lambda: False)
    after = second.fit(given, settings, lambda _done: None, lambda: False)
    for name, array in second.initial_weights(0).items():
        assert np.array_equal(array, given[name])
        assert np.array_equal(alone.weights[name], after.weights[name])


def test_a_device_has_a_module_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "_kept", [])
    first, second = (Digits(share=share, shares=2) for share in range(2))
    assert first.training_parts().model is not second.training_parts().model
