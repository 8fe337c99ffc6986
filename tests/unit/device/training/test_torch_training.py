"""Options of a training: stopping early, FedProx, class weights, bfloat16."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.data import TensorDataset

from components.runtime.component_errors import WorkFailed
from components.trainer.training import Optimizer, Samples, TorchTask, TrainingSettings
from components.trainer.training import precision as precisions
from components.trainer.training.losses import Measures, balanced_weights
from components.trainer.training.precision import choose, processor_has_bfloat16
from fedgrass.federation.weights import Arrays

pytestmark = pytest.mark.slow  # seconds of trainings, crashes or processes: make test runs them


def never() -> bool:
    return False


def silent(_: float) -> None:
    return


def samples(count: int, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    return TensorDataset(inputs, inputs[:, :3].argmax(dim=1))


def linear(training: Samples | None = None, held_out: Samples | None = None) -> TorchTask:
    held_out = samples(60, seed=1) if held_out is None else held_out
    return TorchTask(lambda: nn.Linear(4, 3), training or samples(40), held_out)


def distance(one: Arrays, other: Arrays) -> float:
    return math.sqrt(
        sum(
            float(np.square(np.asarray(one[name], float) - np.asarray(other[name], float)).sum())
            for name in one
        )
    )


class After:
    """A stop function that returns True after ``batches`` calls, one per batch."""

    def __init__(self, batches: int) -> None:
        self._left = batches

    def __call__(self) -> bool:
        self._left -= 1
        return self._left < 0


# --- stopping


def test_a_training_that_is_stopped_gives_what_it_has_and_what_it_saw() -> None:
    subject = linear()
    weights = subject.initial_weights(0)
    fit = subject.fit(weights, {"batch_size": 8, "epochs": 3}, silent, After(2))
    assert fit.partial
    assert fit.examples == 16
    assert math.isfinite(fit.metrics["train_loss"])
    assert distance(fit.weights, weights) > 0


def test_a_training_that_is_stopped_in_a_later_epoch_saw_all_examples_once() -> None:
    subject = linear()
    fit = subject.fit(subject.initial_weights(0), {"batch_size": 8, "epochs": 3}, silent, After(7))
    assert fit.partial
    assert fit.examples == 40


def test_a_training_that_is_done_is_not_partial() -> None:
    subject = linear()
    fit = subject.fit(subject.initial_weights(0), {"batch_size": 8}, silent, After(5))
    assert not fit.partial
    assert fit.examples == 40


def test_a_training_that_is_stopped_before_its_first_batch_has_nothing_to_give() -> None:
    with pytest.raises(WorkFailed, match="before its first batch"):
        linear().fit(linear().initial_weights(0), {}, silent, After(0))


# --- early stopping


def test_a_training_ends_when_its_held_out_loss_gets_no_better_and_keeps_the_best() -> None:
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    # The held-out targets are the opposite, so the loss on them grows from the first epoch on.
    training, opposite = TensorDataset(inputs, inputs[:, :1]), TensorDataset(inputs, -inputs[:, :1])
    subject = TorchTask(lambda: nn.Linear(4, 1), training, opposite, loss=nn.functional.mse_loss)
    weights = subject.initial_weights(0)
    settings = {"seed": 1, "learning_rate": 0.05}
    told: list[float] = []
    fit = subject.fit(weights, {**settings, "epochs": 50, "patience_epochs": 2}, told.append, never)
    assert fit.metrics["epochs"] == 3
    assert told[-1] == 1.0
    assert not fit.partial
    one_epoch = subject.fit(weights, {**settings, "epochs": 1}, silent, never)
    assert distance(fit.weights, one_epoch.weights) == 0


def test_a_training_that_gets_better_has_all_its_epochs() -> None:
    subject = linear()
    fit = subject.fit(subject.initial_weights(0), {"epochs": 4, "patience_epochs": 1}, silent, never)
    assert "epochs" not in fit.metrics


def test_without_held_out_examples_the_loss_of_the_training_decides() -> None:
    subject = linear(held_out=samples(0))
    assert subject.evaluate(subject.initial_weights(0)).examples == 0
    settings = {"epochs": 30, "patience_epochs": 1, "learning_rate": 50.0, "momentum": 0.0}
    assert subject.fit(subject.initial_weights(0), settings, silent, never).metrics["epochs"] < 30


# --- FedProx


def test_the_proximal_term_keeps_the_model_near_the_global_one() -> None:
    subject = linear()
    weights = subject.initial_weights(0)
    moved = [
        distance(
            subject.fit(weights, {"seed": 1, "epochs": 10, "proximal": mu}, silent, never).weights, weights
        )
        for mu in (0.0, 0.5, 5.0)
    ]
    assert moved[0] > 1.1 * moved[1] > 1.3 * moved[2] > 0


def test_one_step_with_the_proximal_term_is_the_gradient_of_loss_and_term() -> None:
    data, mu, rate = samples(10), 0.7, 0.1
    subject = linear(training=data)
    weights = subject.initial_weights(0)
    settings = {"batch_size": 10, "learning_rate": rate, "momentum": 0.0, "proximal": mu, "epochs": 2}
    fit = subject.fit(weights, settings, silent, never)
    model = nn.Linear(4, 3)
    model.load_state_dict({name: torch.tensor(np.asarray(array)) for name, array in weights.items()})
    begun = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(2):
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(data.tensors[0]), data.tensors[1])
        for parameter, first in zip(model.parameters(), begun, strict=True):
            loss = loss + mu / 2 * (parameter - first).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(rate * parameter.grad)
    expected = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert distance(fit.weights, expected) < 1e-6


# --- class weights


def test_balanced_weights_are_scikit_learns() -> None:
    targets = torch.tensor([0] * 6 + [1] * 3 + [3])
    weights = balanced_weights(nn.functional.cross_entropy, targets, classes=5)
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 1.0, 10 / 3, 1.0])


def test_a_rare_class_is_learnt_once_classes_are_weighed() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 4, generator=generator)
    rare = torch.arange(400) % 20 == 0
    inputs[rare, 0] += 1.5
    data = TensorDataset(inputs, rare.long())
    subject = TorchTask(lambda: nn.Linear(4, 2), data, data)
    found = {}
    for choice in ("none", "balanced"):
        settings = {"epochs": 20, "seed": 1, "class_weights": choice}
        weights = subject.fit(subject.initial_weights(0), settings, silent, never).weights
        outputs = inputs.numpy() @ np.asarray(weights["weight"]).T + np.asarray(weights["bias"])
        found[choice] = float((outputs.argmax(axis=1) == 1)[rare.numpy()].mean())
    assert found["balanced"] > found["none"] + 0.3


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (torch.zeros(40), "the targets are not classes: float32"),
        (torch.full((40,), 3), "classes from 3 to 3; the model has classes 0 to 2"),
    ],
)
def test_targets_that_cannot_be_weighted_are_refused(targets: Tensor, text: str) -> None:
    subject = linear(training=TensorDataset(torch.zeros(40, 4), targets))
    with pytest.raises(WorkFailed, match=text):
        subject.fit(subject.initial_weights(0), {"class_weights": "balanced"}, silent, never)


def test_a_loss_that_takes_no_weight_is_refused() -> None:
    def own_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    subject = TorchTask(lambda: nn.Linear(4, 3), samples(9), samples(9), loss=own_loss)
    with pytest.raises(WorkFailed, match="takes no argument `weight`"):
        subject.fit(subject.initial_weights(0), {"class_weights": "balanced"}, silent, never)


# --- bfloat16


def big() -> nn.Module:
    return nn.Linear(4, 3)


def choice(**settings: object) -> torch.dtype | None:
    chosen = TrainingSettings(**settings)  # type: ignore[arg-type]
    inputs, targets = samples(8).tensors
    return choose(big(), nn.functional.cross_entropy, lambda: (inputs, targets), chosen)


def timed(monkeypatch: pytest.MonkeyPatch, plain: float, mixed: float, *, capable: bool = True) -> None:
    monkeypatch.setattr(precisions, "processor_has_bfloat16", lambda: capable)
    monkeypatch.setattr(precisions, "_seconds", lambda *parts: mixed if parts[-1] else plain)


def test_bfloat16_is_taken_where_it_was_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 0.2, 0.1)
    assert choice() is torch.bfloat16
    timed(monkeypatch, 0.2, 0.19)
    assert choice() is None


def test_a_small_model_a_seed_or_another_processor_stay_with_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 0.002, 0.001)
    assert choice() is None
    timed(monkeypatch, 0.2, 0.1)
    assert choice(seed=1) is None
    timed(monkeypatch, 0.2, 0.1, capable=False)
    assert choice() is None


def test_what_the_run_asks_for_needs_no_measurement() -> None:
    assert choice(precision="bfloat16") is torch.bfloat16
    assert choice(precision="float32") is None


def test_the_measurement_moves_neither_the_model_nor_the_random_numbers() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    inputs, targets = samples(8).tensors
    for dtype in (None, torch.bfloat16):
        assert precisions._seconds(model, nn.functional.cross_entropy, (inputs, targets), dtype) > 0
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_training_in_bfloat16_learns_and_its_weights_stay_float32() -> None:
    subject = linear()
    weights = subject.initial_weights(0)
    fit = subject.fit(weights, {"precision": "bfloat16", "epochs": 20, "seed": 1}, silent, never)
    assert {array.dtype for array in fit.weights.values()} == {np.dtype(np.float32)}
    assert subject.evaluate(fit.weights).metrics["loss"] < 0.8 * subject.evaluate(weights).metrics["loss"]
    plain = subject.fit(weights, {"precision": "float32", "epochs": 20, "seed": 1}, silent, never)
    assert 0 < distance(fit.weights, plain.weights) < 0.1


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 not_bf16ish\n", False),
        ("", False),
    ],
)
def test_the_features_of_the_processor_are_read_from_linux(tmp_path: Path, text: str, has: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    (tmp_path / "cpuinfo").write_text(text)
    assert processor_has_bfloat16(tmp_path / "cpuinfo") is has
    assert not processor_has_bfloat16(tmp_path / "absent")


# --- changing data, and other optimizers


def test_a_function_gives_the_data_as_they_are_before_each_work() -> None:
    there = [10]
    calls: list[int] = []

    def collected() -> TensorDataset:
        calls.append(there[0])
        return samples(there[0])

    subject = TorchTask(lambda: nn.Linear(4, 3), collected, lambda: samples(there[0] // 2))
    weights = subject.initial_weights(0)
    for count in (10, 14, 8):
        there[0] = count
        assert subject.evaluate(weights).examples == count // 2
        assert subject.examples() == count
        assert subject.fit(weights, {}, silent, never).examples == count
    assert calls == [10, 14, 8], "the examples are read once per work"
    there[0] = 20
    assert subject.fit(weights, {}, silent, never).examples == 20


def test_a_device_without_examples_fails_the_work() -> None:
    subject = TorchTask(lambda: nn.Linear(4, 3), lambda: samples(0), lambda: samples(5))
    assert subject.examples() == 0
    with pytest.raises(WorkFailed, match="no examples"):
        subject.fit(subject.initial_weights(0), {}, silent, never)


def test_data_without_a_length_are_refused() -> None:
    subject = TorchTask(lambda: nn.Linear(4, 3), lambda: iter([]), samples(5))  # type: ignore[arg-type, return-value]
    with pytest.raises(WorkFailed, match="list_iterator: it needs __len__"):
        subject.examples()


@pytest.mark.slow
def test_one_method_takes_another_optimizer() -> None:
    class WithAdam(TorchTask):
        def make_optimizer(self, parameters: list[Parameter], settings: TrainingSettings) -> Optimizer:
            return torch.optim.Adam(parameters, lr=settings.learning_rate)

    subject = WithAdam(lambda: nn.Linear(4, 3), samples(40), samples(60, seed=1))
    weights = subject.initial_weights(0)
    fit = subject.fit(weights, {"learning_rate": 0.001, "batch_size": 40}, silent, never)
    # Adam's first step moves each parameter by the learning rate, whatever its gradient.
    moved = np.abs(np.asarray(fit.weights["weight"], float) - np.asarray(weights["weight"], float))
    np.testing.assert_allclose(moved, 0.001, rtol=1e-3)


# --- metrics


def test_yes_and_no_have_an_accuracy() -> None:
    outputs, targets = torch.tensor([3.0, -2.0, 0.1, -0.1]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    measures = Measures(nn.functional.binary_cross_entropy_with_logits)
    measures.add(outputs, targets)
    assert measures.means()["accuracy"] == 0.5
    assert set(measures.means()) == {"loss", "accuracy"}


def test_numbers_of_python_are_targets_like_any_other() -> None:
    rows = [(torch.ones(4), 2.5)] * 6
    subject = TorchTask(
        lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), rows, rows, loss=nn.functional.mse_loss
    )
    fit = subject.fit(subject.initial_weights(0), {"epochs": 300}, silent, never)
    assert subject.evaluate(fit.weights).metrics["mae"] < 0.1


def test_a_model_in_a_type_that_the_averaging_does_not_know_is_refused_by_name() -> None:
    subject = TorchTask(lambda: nn.Linear(4, 3).to(torch.float8_e5m2), samples(4), samples(4))
    with pytest.raises(WorkFailed, match=r"array 'weight' is torch\.float8_e5m2"):
        subject.initial_weights(0)
