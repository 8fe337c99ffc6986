"""Defects of the replaced systems that a device would show.

tests/guards/replaced_systems/test_defects_of_replaced_systems.py has the list of all defects.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.runtime.process_setup import thing_name
from components.trainer.training import TorchTask
from components.trainer.worker.worker_protocol import Failure
from fedgrass.federation.messages import Completion, Status
from tests.fakes.memory_device import THING, TOPICS, Device, announcement, verdict


def test_a_failed_upload_is_retried_and_completed_only_when_it_is_stored(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.bucket.failures = 2
    device.hears(announcement())
    device.finishes()
    assert device.completions == []
    device.passes(60)
    assert device.bucket.tries == 3
    assert len(device.bucket.objects) == 1
    assert {message.round_id for message in device.completions} == {"run-a/1/1"}


def test_an_upload_that_never_works_is_reported_as_failed_and_never_as_done(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.bucket.failures = 1000
    device.hears(announcement(deadline_seconds=3600.0))
    device.finishes()
    device.passes(1800, step=5)
    assert device.completions == []
    assert device.states == ["accepted", "failed"]
    assert "no route to S3" in device.statuses[-1].reason


def test_an_error_of_the_training_is_reported_with_its_reason(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    device.bench.says(Failure("CUDA out of memory"))
    device.settle()
    assert (device.states[-1], device.statuses[-1].reason) == ("failed", "CUDA out of memory")


def test_work_that_does_not_end_by_its_deadline_is_given_up_and_reported(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement(deadline_seconds=30.0))
    device.passes(31)
    assert device.states == ["accepted", "failed"]
    assert "deadline" in device.statuses[-1].reason
    assert device.bench.stops == 1


def test_what_counts_is_published_at_least_once_and_repeated_until_the_verdict(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    device.finishes()
    device.passes(60)
    said = len(device.completions)
    assert said > 1
    qualities = {topic.rpartition("/")[2]: qos for topic, _payload, qos in device.broker.sent}
    assert (qualities["complete"], qualities["status"], qualities["hello"]) == (1, 1, 1)
    device.hears(verdict())
    device.passes(600, step=5)
    assert len(device.completions) == said


def test_a_device_receives_only_its_own_commands(tmp_path: Path) -> None:
    device = Device(tmp_path)
    assert set(device.broker.handlers) == {f"{TOPICS}/announce", f"{TOPICS}/heartbeat"}
    assert not any(sign in topic for topic in device.broker.handlers for sign in "+#")


def test_every_reply_of_a_device_names_run_round_and_attempt(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement(3, 2))
    device.finishes()
    replies = [*device.said("status"), *device.said("complete")]
    assert len(replies) == 2
    for message in replies:
        assert isinstance(message, Status | Completion)
        assert (message.run, message.round, message.attempt) == ("run-a", 3, 2)


def test_a_device_is_the_same_after_each_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart in the middle of an upload continues the same work under the same name."""
    monkeypatch.setenv("AWS_IOT_THING_NAME", THING)
    assert (thing_name(), thing_name()) == (THING, THING)
    first = Device(tmp_path)
    first.hold_uploads = True
    first.hears(announcement())
    first.finishes()
    again = Device(tmp_path)
    assert list(again.bucket.objects) == [f"fleet-bucket/updates/{THING}/run-a/1-1.safetensors"]


def test_the_time_of_the_cloud_is_returned_unchanged(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.clock.now = 5.0  # a device whose clock is in 1970
    device.hears(announcement(announced_at=1_800_000_000_123))
    device.finishes()
    assert device.completions[0].announced_at == 1_800_000_000_123


def test_no_file_of_an_update_stays_on_the_device(tmp_path: Path) -> None:
    device = Device(tmp_path)
    for number in (1, 2, 3):
        device.hears(announcement(number))
        device.finishes()
        device.hears(verdict(number))
    assert len(device.bucket.objects) == 3
    assert list((tmp_path / "updates").iterdir()) == []


class RemembersItsMode(nn.Module):
    """A model with a constant output that records whether it was in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.modes: list[bool] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.modes.append(self.training)
        outputs: Tensor = self.layer(inputs)
        return outputs


def torch_task(model: RemembersItsMode, examples: int) -> TorchTask:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(examples, 2), torch.randint(0, 2, (examples,)))
    return TorchTask(lambda: model, data, data)


def test_evaluation_is_not_in_training_mode_and_training_is() -> None:
    model = RemembersItsMode()
    task = torch_task(model, 300)
    task.evaluate(task.initial_weights(0))
    assert model.modes == [False, False]  # two batches
    task.fit(task.initial_weights(0), {"batch_size": 150}, lambda _part: None, lambda: False)
    task.evaluate(task.initial_weights(0))
    assert model.modes == [False, False, True, True, False, False]


def test_the_loss_is_a_mean_over_examples_and_no_sum_over_batches() -> None:
    task = torch_task(RemembersItsMode(), 300)  # batches of 256 and 44
    measured = task.evaluate(task.initial_weights(0))
    model = RemembersItsMode()
    model.load_state_dict({name: torch.tensor(array) for name, array in task.initial_weights(0).items()})
    inputs, targets = task._training.tensors  # type: ignore[union-attr]
    expected = nn.functional.cross_entropy(model(inputs), targets).item()
    np.testing.assert_allclose(measured.metrics["loss"], expected, rtol=1e-5)


def test_examples_are_counted_and_no_batches() -> None:
    task = torch_task(RemembersItsMode(), 100)
    fit = task.fit(
        task.initial_weights(0), {"batch_size": 50, "epochs": 2}, lambda _part: None, lambda: False
    )
    assert (fit.examples, task.examples(), task.evaluate(fit.weights).examples) == (100, 100, 100)
