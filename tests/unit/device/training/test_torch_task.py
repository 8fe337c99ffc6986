"""Training and evaluation of any PyTorch module."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from components.runtime.component_errors import WorkFailed
from components.trainer.training import TorchTask, TrainingSettings, load_arrays, state_arrays
from components.trainer.training.sgd import Sgd


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def samples(count: int, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    return TensorDataset(inputs, inputs[:, :3].argmax(dim=1))


class Pairs(Dataset[tuple[Tensor, int]]):
    """A data set that returns one example at a time."""

    def __init__(self, count: int) -> None:
        self._inputs, self._targets = samples(count).tensors

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._inputs[index], int(self._targets[index])


def task(count: int = 33) -> TorchTask:
    return TorchTask(make_model, samples(count), samples(300, seed=1))


def never() -> bool:
    return False


def silent(_: float) -> None:
    return


def test_weights_are_named_arrays_with_the_buffers() -> None:
    weights = task().initial_weights(0)
    assert weights["1.running_mean"].shape == (8,)
    assert weights["1.num_batches_tracked"].dtype == np.int64
    assert weights["1.num_batches_tracked"].shape == ()


def test_weights_survive_the_way_there_and_back() -> None:
    model, other = make_model(), make_model()
    load_arrays(other, state_arrays(model))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_training_leaves_the_global_weights_as_they_are() -> None:
    weights = {name: np.array(array) for name, array in task().initial_weights(0).items()}
    for array in weights.values():
        array.flags.writeable = False
    before = {name: array.copy() for name, array in weights.items()}
    fit = task().fit(weights, {"seed": 1}, silent, never)
    assert all(np.array_equal(before[name], weights[name]) for name in weights)
    assert not np.array_equal(fit.weights["0.weight"], weights["0.weight"])


def test_the_loss_is_the_mean_over_examples_in_evaluation_mode() -> None:
    subject = task()
    weights = subject.initial_weights(0)
    found = subject.evaluate(weights)
    model = make_model()
    load_arrays(model, weights)
    model.eval()
    inputs, targets = samples(300, seed=1).tensors
    with torch.no_grad():
        outputs = model(inputs)
    assert found.examples == 300
    assert found.metrics["loss"] == pytest.approx(float(nn.functional.cross_entropy(outputs, targets)))
    assert found.metrics["accuracy"] == pytest.approx(float((outputs.argmax(1) == targets).float().mean()))


def test_examples_are_counted_and_not_batches() -> None:
    assert task(33).fit(task().initial_weights(0), {"batch_size": 16}, silent, never).examples == 33


def test_a_last_batch_of_one_does_not_break_batch_normalization() -> None:
    fit = task(33).fit(task().initial_weights(0), {"batch_size": 32}, silent, never)
    assert math.isfinite(fit.metrics["train_loss"])


def test_one_step_is_stochastic_gradient_descent() -> None:
    subject = TorchTask(lambda: nn.Linear(4, 3), samples(10), samples(10))
    weights = subject.initial_weights(0)
    fit = subject.fit(weights, {"batch_size": 10, "learning_rate": 0.5}, silent, never)
    model = nn.Linear(4, 3)
    load_arrays(model, weights)
    inputs, targets = samples(10).tensors
    nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    assert model.weight.grad is not None
    expected = model.weight.detach() - 0.5 * model.weight.grad
    np.testing.assert_allclose(
        np.asarray(fit.weights["weight"], np.float32), expected.numpy(), rtol=1e-5, atol=1e-6
    )


def test_the_same_seed_trains_to_the_same_weights() -> None:
    weights = task().initial_weights(0)
    first, second = (task().fit(weights, {"seed": 5, "epochs": 2}, silent, never) for _ in range(2))
    assert all(np.array_equal(first.weights[name], second.weights[name]) for name in weights)


def test_any_data_set_will_do() -> None:
    subject = TorchTask(make_model, Pairs(20), Pairs(20))
    fit = subject.fit(subject.initial_weights(0), {"batch_size": 8}, silent, never)
    assert fit.examples == 20
    assert subject.evaluate(fit.weights).examples == 20


def test_a_regression_has_the_root_of_its_squared_errors_and_the_mean_of_its_errors() -> None:
    inputs = torch.zeros(300, 4)
    targets = torch.full((300, 1), 3.0)
    targets[:100] = -1.0
    data = TensorDataset(inputs, targets)
    subject = TorchTask(lambda: nn.Linear(4, 1, bias=False), data, data, loss=nn.functional.mse_loss)
    metrics = subject.evaluate(subject.initial_weights(0)).metrics
    assert set(metrics) == {"loss", "rmse", "mae"}
    assert metrics["rmse"] == pytest.approx(((100 + 200 * 9) / 300) ** 0.5)
    assert metrics["mae"] == pytest.approx((100 + 200 * 3) / 300)


def test_progress_is_reported_per_epoch() -> None:
    told: list[float] = []
    task().fit(task().initial_weights(0), {"epochs": 4}, told.append, never)
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_training_stops_when_it_is_asked_to() -> None:
    with pytest.raises(WorkFailed, match="stopped"):
        task().fit(task().initial_weights(0), {}, silent, lambda: True)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"lr": 0.1}, "'lr' is not one of the run's training: there are: epochs, learning_rate"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"batch_size": "many"}, "batch_size"),
        ({"momentum": 1.0}, "momentum"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(settings: dict[str, bool | float | str], text: str) -> None:
    with pytest.raises(WorkFailed, match=text):
        task().fit(task().initial_weights(0), settings, silent, never)


def test_settings_stand_over_the_defaults_of_the_task() -> None:
    subject = TorchTask(make_model, samples(9), samples(9), defaults=TrainingSettings(epochs=3))
    told: list[float] = []
    subject.fit(subject.initial_weights(0), {}, told.append, never)
    subject.fit(subject.initial_weights(0), {"epochs": 1}, told.append, never)
    assert len(told) == 4


@pytest.mark.parametrize("change", ["missing", "extra", "reshaped"])
def test_weights_of_another_model_are_refused_by_name(change: str) -> None:
    weights = dict(task().initial_weights(0))
    if change == "missing":
        del weights["0.bias"]
    elif change == "extra":
        weights["0.bias2"] = np.zeros(8, np.float32)
    else:
        weights["0.bias"] = np.zeros(9, np.float32)
    with pytest.raises(WorkFailed, match=r"array '0\.bias"):
        task().evaluate(weights)


@pytest.mark.slow
def test_the_descent_moves_a_model_exactly_as_torchs_own_optimizer_does() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    settings = TrainingSettings(learning_rate=0.1, momentum=0.9)
    descent, optimizer = (
        Sgd(ours.parameters(), settings),
        torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9),
    )
    for _ in range(5):
        inputs, targets = torch.randn(8, 5), torch.randint(3, (8,))
        for model, step in ((ours, descent.step), (theirs, optimizer.step)):
            model.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
            step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.slow
def test_training_does_not_import_torchs_compiler() -> None:
    program = """
import sys
from components.trainer.tasks.digits import Digits
digits = Digits(share=0, shares=100)
digits.fit(digits.initial_weights(0), {"epochs": 1}, lambda part: None, lambda: False)
sys.exit("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
