"""The device of a training. ``meta``, a device whose tensors have no values, stands in for a GPU.

An operation that mixes its tensors with those of the CPU fails, as on a GPU, so a tensor that was not moved
is detected. Anything that needs values, such as a loss as a float, cannot be tested this way.
"""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from components.trainer.tasks.digits import Digits, make_model
from components.trainer.training import TorchTask, batches, precision, torch_task
from components.trainer.training.arrays import load_arrays, state_arrays
from components.trainer.training.fitting import Fitting, Patience
from components.trainer.training.sgd import Sgd, TrainingSettings, corrections_of

META = torch.device("meta")
EXAMPLES = TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 10)


pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter.*")


def test_without_a_gpu_it_is_the_processor() -> None:
    assert precision.choose_device(lambda: False) == torch.device("cpu")


def test_a_gpu_that_does_not_work_is_logged_and_the_cpu_is_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> torch.Tensor:
        message = "CUDA error: no kernel image is available for execution on the device\nmore lines"
        raise RuntimeError(message)

    monkeypatch.setattr(torch, "zeros", broken)
    with caplog.at_level(logging.WARNING):
        assert precision.choose_device(lambda: True) == torch.device("cpu")
    reason = "CUDA error: no kernel image is available for execution on the device"
    assert caplog.messages == [f"the GPU cannot be used, training on the CPU: {reason}"]


def test_a_gpu_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[torch.device] = []

    def works(count: int, *, device: torch.device) -> torch.Tensor:
        tried.append(device)
        return torch.ones(count)

    monkeypatch.setattr(torch, "zeros", works)
    assert precision.choose_device(lambda: True) == torch.device("cuda")
    assert tried == [torch.device("cuda")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_learns_the_digits() -> None:
    task = Digits()
    fit = task.fit(task.initial_weights(0), {"epochs": 3}, lambda _: None, lambda: False)
    assert task.evaluate(fit.weights).metrics["accuracy"] > 0.8


def test_a_task_puts_its_model_and_its_batches_on_the_chosen_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_task, "choose_device", lambda: META)
    task = TorchTask(make_model, EXAMPLES, EXAMPLES)
    assert {parameter.device for parameter in task._model.parameters()} == {META}
    inputs, targets = task.first_batch()
    assert (inputs.device, targets.device) == (META, META)
    assert task._trainer.class_weights(EXAMPLES).device == META
    gradients = task.gradients(state_arrays(make_model()))
    assert {found.device for found in gradients.values() if found is not None} == {META}


@pytest.mark.parametrize(
    "samples", [EXAMPLES, list(zip(*EXAMPLES.tensors, strict=True))], ids=["tensors", "any"]
)
def test_every_step_of_a_training_stays_on_its_device(
    samples: batches.Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "item", lambda _: 0.0)  # tensors on meta have no values
    model = make_model().to(META)
    weights = state_arrays(make_model())
    load_arrays(model, weights)
    parameters = list(model.parameters())
    settings = TrainingSettings(learning_rate=0.1, momentum=0.9)
    correction = {name: np.ones_like(value, np.float32) for name, value in weights.items()}
    fitting = Fitting(
        model,
        nn.functional.cross_entropy,
        Sgd(parameters, settings),
        proximal=0.1,
        corrections=corrections_of(model, correction),
    )
    order = batches.shuffled(samples, META, 8, torch.Generator().manual_seed(1))
    epoch = fitting.epoch(order, lambda: False)
    assert (epoch.examples, fitting.steps) == (40, 5)
    patience = Patience(1)
    assert not patience.exhausted(1.0, model)
    patience.restore(model)
    assert {value.device for value in model.state_dict().values()} == {META}


def test_a_tensor_that_is_forgotten_shows_in_these_tests() -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        make_model().to(META)(torch.rand(1, 1, 8, 8))
