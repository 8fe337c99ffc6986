"""Examples, batches, outputs, losses and models that TorchTask accepts, and those that it refuses."""

import re
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from components.runtime.component_errors import WorkFailed
from components.trainer.training import TorchTask, TrainingSettings, precision

pytestmark = pytest.mark.slow  # seconds of trainings, floods or sums: make test runs them

HERE = rf"{re.escape(str(Path(__file__)))}:\d+: "
COUNT = 48
INPUTS = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(0))
CLASSES = (INPUTS[:, 0] > 0).long()
PAIRS = TensorDataset(INPUTS, CLASSES)
ROWS = list(zip(INPUTS, CLASSES, strict=True))


def net() -> nn.Module:
    return nn.Linear(4, 2)


def learns(task: TorchTask, **settings: Any) -> Mapping[str, float]:
    """Train a task, check that it learns and counts all examples; return its metrics afterwards."""
    weights = task.initial_weights(0)
    before = task.evaluate(weights)
    chosen = {"epochs": 5, "learning_rate": 0.1, "seed": 1, **settings}
    fit = task.fit(weights, chosen, lambda _: None, lambda: False)
    after = task.evaluate(fit.weights)
    assert after.metrics["loss"] < before.metrics["loss"]
    assert (fit.examples, after.examples) == (COUNT, COUNT)
    assert task.gradients(weights).keys() <= weights.keys()
    return after.metrics


class ByName(nn.Module):
    """Takes its inputs as keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        outputs: Tensor = self.layer(values if mask is None else values * mask)
        return outputs


class Output(OrderedDict[str, Any]):
    """Outputs by name and by attribute, as Hugging Face's ``ModelOutput``."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Transformer(nn.Module):
    """Computes its own loss from ``labels``, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, input_values: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.layer(input_values)
        loss = None if labels is None else 3 * nn.functional.cross_entropy(logits, labels)
        return Output(loss=loss, logits=logits)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        outputs: Tensor = self.layer(torch.cat([left, right], dim=1))
        return outputs


def dicts(**names: Tensor) -> list[dict[str, Tensor]]:
    return [{name: column[place] for name, column in names.items()} for place in range(COUNT)]


Pair = namedtuple("Pair", ["image", "label"])  # noqa: PYI024 - as users write it


# ---------------------------------------------------------------- what works
@pytest.mark.parametrize(
    ("model", "examples"),
    [
        (net, list(zip(INPUTS, CLASSES, strict=True))),
        (net, [Pair(*pair) for pair in zip(INPUTS, CLASSES, strict=True)]),
        (net, [[one, int(label)] for one, label in zip(INPUTS, CLASSES, strict=True)]),
        (net, (INPUTS, CLASSES)),
        (net, (INPUTS.numpy(), CLASSES.numpy())),
        (ByName, dicts(values=INPUTS, labels=CLASSES)),
        (ByName, dicts(values=INPUTS, mask=torch.ones_like(INPUTS), label=CLASSES)),
        (ByName, list(zip(dicts(values=INPUTS), CLASSES, strict=True))),
        (TwoInputs, TensorDataset(INPUTS[:, :2], INPUTS[:, 2:], CLASSES)),
        (TwoInputs, list(zip(INPUTS[:, :2], INPUTS[:, 2:], CLASSES, strict=True))),
        (TwoInputs, list(zip(zip(INPUTS[:, :2], INPUTS[:, 2:], strict=True), CLASSES, strict=True))),
        (Transformer, dicts(input_values=INPUTS, labels=CLASSES)),
        (Transformer, list(zip(INPUTS, CLASSES, strict=True))),
    ],
    ids=lambda value: value.__name__ if callable(value) else type(value).__name__,
)
def test_examples_of_any_structure_are_learnt(model: Callable[[], nn.Module], examples: Any) -> None:
    assert learns(TorchTask(model, examples, examples))["accuracy"] > 0.6


def test_the_loss_that_a_model_computes_itself_is_the_loss() -> None:
    examples = dicts(input_values=INPUTS, labels=CLASSES)
    own, plain = TorchTask(Transformer, examples, examples), TorchTask(Transformer, PAIRS, PAIRS)
    weights = own.initial_weights(0)
    ratio = own.evaluate(weights).metrics["loss"] / plain.evaluate(weights).metrics["loss"]
    assert ratio == pytest.approx(3)


def test_a_loss_of_pytorch_gets_the_logits_of_named_outputs_and_another_one_all_of_them() -> None:
    examples = dicts(input_values=INPUTS, labels=CLASSES)
    seen: list[object] = []

    def own_loss(outputs: Output, targets: Tensor) -> Tensor:
        seen.append(type(outputs))
        return nn.functional.cross_entropy(outputs.logits, targets)

    learns(TorchTask(Transformer, examples, examples, loss=nn.functional.cross_entropy))
    learns(TorchTask(Transformer, examples, examples, loss=own_loss))
    assert set(seen) == {Output}


class AutoEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


@pytest.mark.parametrize("examples", [TensorDataset(INPUTS), list(INPUTS)], ids=["tensors", "list"])
def test_an_auto_encoder_learns_its_inputs(examples: Any) -> None:
    measured = learns(TorchTask(AutoEncoder, examples, examples, loss=nn.MSELoss))
    assert measured["rmse"] ** 2 == pytest.approx(measured["loss"], rel=1e-4)


def test_examples_have_weights_where_the_target_is_a_pair() -> None:
    weights = torch.rand(COUNT)
    examples = [(one, (label, weight)) for one, label, weight in zip(INPUTS, CLASSES, weights, strict=True)]

    def weighted(outputs: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        labels, weight = targets
        each = nn.functional.cross_entropy(outputs, labels, reduction="none")
        return (each * weight).sum() / weight.sum()

    assert "accuracy" not in learns(TorchTask(net, examples, examples, loss=weighted))


def sequences() -> list[tuple[Tensor, int]]:
    generator = torch.Generator().manual_seed(3)
    found = []
    for place in range(COUNT):
        length = int(torch.randint(1, 9, (1,), generator=generator))
        found.append((torch.rand(length, 1, generator=generator) + place % 2, place % 2))
    return found


def pad(examples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    values, labels = zip(*examples, strict=True)
    lengths = torch.tensor([len(one) for one in values])
    return pad_sequence(list(values), batch_first=True), lengths, torch.tensor(labels)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(1, 8, batch_first=True)
        self.layer = nn.Linear(8, 2)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.cell(values)
        outputs: Tensor = self.layer(states[torch.arange(len(values)), lengths - 1])
        return outputs


def test_sequences_of_different_lengths_are_put_together_by_collate() -> None:
    assert learns(TorchTask(Recurrent, sequences(), sequences(), collate=pad), epochs=20)["accuracy"] > 0.9


def test_the_collate_of_a_data_loader_is_kept() -> None:
    loader: DataLoader[Any] = DataLoader(sequences(), batch_size=7, collate_fn=pad)  # type: ignore[arg-type]
    task = TorchTask(Recurrent, loader, lambda: loader)
    assert learns(task, epochs=20)["accuracy"] > 0.9
    task.sample(9)
    assert task.examples() == 9
    assert len(task.first_batch()[1]) == 9


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_data_loader_is_its_data_set_and_the_run_chooses_the_batches(shuffle: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    task = TorchTask(net, DataLoader(PAIRS, batch_size=5, shuffle=shuffle), DataLoader(PAIRS))
    learns(task)
    assert len(task.first_batch(32)[1]) == 32


class Stream(IterableDataset[Any]):
    def __init__(self, count: int = COUNT) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return iter(ROWS[: self.count])


class CountedStream(Stream):
    def __len__(self) -> int:
        return self.count


@pytest.mark.parametrize("wrap", [lambda data: data, DataLoader], ids=["stream", "loader"])
def test_a_stream_with_a_length_is_trained_on_in_its_own_order(wrap: Callable[[Any], Any]) -> None:
    task = TorchTask(net, wrap(CountedStream()), wrap(CountedStream()))
    learns(task)
    task.sample(10)
    assert (task.examples(), len(task.first_batch()[1])) == (10, 10)


def test_a_last_example_of_a_stream_that_would_be_alone_is_left_out() -> None:
    model = lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))  # noqa: E731 - a model in one line
    task = TorchTask(model, CountedStream(33), CountedStream(33))
    fit = task.fit(task.initial_weights(0), {"batch_size": 32}, lambda _: None, lambda: False)
    assert fit.examples == 33


@pytest.mark.parametrize(
    ("loss", "classes"),
    [
        (nn.CrossEntropyLoss, 2),
        (nn.CrossEntropyLoss(label_smoothing=0.1), 2),
        (nn.CrossEntropyLoss(weight=torch.tensor([0.4, 0.6])), 2),
        (nn.functional.cross_entropy, 2),
        (nn.MultiMarginLoss, 2),
        (lambda outputs, targets: nn.functional.cross_entropy(outputs, targets).reshape(1), 2),
    ],
    ids=["a class", "smoothed", "weighted", "a function", "with margins", "of one element"],
)
def test_a_loss_is_a_function_an_object_or_a_class(loss: Any, classes: int) -> None:
    assert learns(TorchTask(lambda: nn.Linear(4, classes), PAIRS, PAIRS, loss=loss))["accuracy"] > 0.6


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss, nn.BCEWithLogitsLoss(), nn.BCELoss()], ids=str)
def test_yes_and_no_have_an_accuracy_whichever_way_the_loss_is_given(loss: Any) -> None:
    examples = TensorDataset(INPUTS, CLASSES.float())
    end = [nn.Sigmoid()] if isinstance(loss, nn.BCELoss) else []
    task = TorchTask(
        lambda: nn.Sequential(nn.Linear(4, 1), *end, nn.Flatten(0)), examples, examples, loss=loss
    )
    assert learns(task)["accuracy"] > 0.6


def test_class_weights_are_known_to_the_cross_entropy_given_as_a_class() -> None:
    learns(TorchTask(net, PAIRS, PAIRS, loss=nn.CrossEntropyLoss), class_weights="balanced")
    learns(TorchTask(net, PAIRS, PAIRS), class_weights="balanced")


def test_a_module_instead_of_a_function_gives_its_own_weights_to_every_run() -> None:
    module = net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    task = TorchTask(module, PAIRS, PAIRS)
    learns(task)
    weights = task.initial_weights(7)
    assert all(np.array_equal(weights[name], value.numpy()) for name, value in before.items())
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


def test_one_method_splits_a_batch_that_is_like_no_other() -> None:
    class Own(TorchTask):
        def split_batch(self, batch: Any) -> tuple[Any, Any]:
            return batch["what"], batch["which"]["class"]

    examples = [{"what": one, "which": {"class": label}} for one, label in zip(INPUTS, CLASSES, strict=True)]
    assert learns(Own(net, examples, examples))["accuracy"] > 0.6


# ---------------------------------------------------------------- metrics, schedules, clipping
def test_further_metrics_are_computed_from_all_outputs_at_once() -> None:
    calls: list[tuple[int, int]] = []

    class WithF1(TorchTask):
        def compute_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            calls.append((len(outputs), len(targets)))
            found = outputs.argmax(dim=1)
            hits = ((found == 1) & (targets == 1)).sum()
            return {"f1": float(2 * hits / ((found == 1).sum() + (targets == 1).sum()))}

    many = TensorDataset(INPUTS.repeat(20, 1), CLASSES.repeat(20))
    task = WithF1(net, many, many)
    measured = task.evaluate(task.initial_weights(0)).metrics
    assert calls == [(960, 960)], "not batch by batch: F1 and AUC are no means"
    assert {"loss", "accuracy", "f1"} == measured.keys()


def test_a_scheduler_changes_the_learning_rate_within_a_round() -> None:
    rates: list[float] = []
    steps_told: list[int] = []

    class Scheduled(TorchTask):
        def make_scheduler(self, optimizer: Any, settings: TrainingSettings, steps: int) -> Any:
            steps_told.append(steps)
            assert settings.epochs == 2

            class Noted(torch.optim.lr_scheduler.LinearLR):
                def step(self, epoch: int | None = None) -> None:
                    rates.append(optimizer.param_groups[0]["lr"])
                    super().step(epoch)

            return Noted(optimizer, start_factor=1.0, end_factor=0.1, total_iters=steps)

    task = Scheduled(net, PAIRS, PAIRS)
    task.fit(task.initial_weights(0), {"epochs": 2, "batch_size": 16}, lambda _: None, lambda: False)
    assert steps_told == [6]
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert len(set(rates)) == 6


def test_gradients_are_clipped_to_the_norm_that_the_run_gives() -> None:
    task = TorchTask(net, TensorDataset(1000 * INPUTS, CLASSES), PAIRS)
    weights = task.initial_weights(0)
    settings = {"batch_size": COUNT, "momentum": 0.0, "learning_rate": 1.0}
    fit = task.fit(weights, {**settings, "max_grad_norm": 0.5}, lambda _: None, lambda: False)
    moved = [np.asarray(fit.weights[name], float) - np.asarray(weights[name], float) for name in weights]
    assert sum(float((part**2).sum()) for part in moved) ** 0.5 == pytest.approx(0.5, rel=1e-4)


def test_the_demo_judges_by_the_test_data_else_by_the_held_out_ones() -> None:
    weights = TorchTask(net, PAIRS, PAIRS).initial_weights(0)
    assert TorchTask(net, PAIRS, PAIRS).evaluate_held_out(weights).examples == COUNT
    few = TensorDataset(INPUTS[:5], CLASSES[:5])
    assert TorchTask(net, PAIRS, PAIRS, test=lambda: few).evaluate_held_out(weights).examples == 5


# ---------------------------------------------------------------- what is refused
class Odd:
    """A batch of an unknown structure."""


class NoLabels(Dataset[Any]):
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        return {"values": INPUTS[index]}


class Tuples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.layer(inputs)
        return outputs, outputs


def train(task: TorchTask, **settings: Any) -> None:
    task.fit(task.initial_weights(0), settings, lambda _: None, lambda: False)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: TorchTask(3, PAIRS, PAIRS), r"make_model must be a function or an nn.Module, not a int"),  # type: ignore[arg-type]
        (lambda: TorchTask(lambda: None, PAIRS, PAIRS), r"must return an nn.Module, not a NoneType"),  # type: ignore[arg-type, return-value]
        (lambda: TorchTask(net, PAIRS, PAIRS, loss="mse"), r"the loss is 'mse': it must be a function"),
        (
            lambda: TorchTask(net, PAIRS, PAIRS, loss=type("L", (), {"__init__": lambda self, x: None})),  # noqa: ARG005 - the signature of the callback
            r"the loss is the class L, which needs arguments",
        ),
        (
            lambda: TorchTask(net, PAIRS, PAIRS, loss=nn.CrossEntropyLoss(reduction="none")),
            r"the loss returns 32 values: it must return one, the mean",
        ),
        (
            lambda: TorchTask(net, PAIRS, PAIRS, loss=lambda outputs, targets: 0.5),  # noqa: ARG005 - the signature of the callback
            HERE + "the loss returns a float: it must return one",
        ),
        (
            lambda: TorchTask(net, PAIRS, PAIRS, loss=lambda outputs, _: outputs.detach().mean()),
            HERE + "the loss does not depend on the model's trained parameters",
        ),
        (
            lambda: TorchTask(net, Stream(), PAIRS),
            HERE + "the task's data set is a Stream, an Iterable.*__len__",
        ),
        (lambda: TorchTask(net, DataLoader(Stream()), PAIRS), HERE + "the task's data set is a Stream"),
        (lambda: TorchTask(net, {"x": INPUTS}, PAIRS), HERE + "the task's data set is a dict: give a list"),  # type: ignore[arg-type]
        (
            lambda: TorchTask(
                net,
                DataLoader(PAIRS, sampler=WeightedRandomSampler([1.0] * COUNT, COUNT)),
                PAIRS,
            ),
            HERE + "the DataLoader has a WeightedRandomSampler.*class_weights",
        ),
        (
            lambda: TorchTask(Recurrent, sequences(), sequences()),
            HERE
            + r"examples such as \(torch.float32 .*, a int\) cannot be put into one batch.*`collate`.*pad_",
        ),
        (
            lambda: TorchTask(net, [(one, None) for one in INPUTS], PAIRS),
            HERE + r"examples such as .*a NoneType\) cannot be put into one batch.*`collate`",
        ),
        (
            lambda: TorchTask(net, TensorDataset(INPUTS), PAIRS),
            HERE + "the examples have no target, .* pass a `loss`, such as nn.functional.mse_loss",
        ),
        (
            lambda: TorchTask(ByName, NoLabels(), PAIRS),
            "the targets are not a single tensor: pass TorchTask a `loss`",
        ),
        (
            lambda: TorchTask(net, ROWS, PAIRS, collate=lambda examples: Odd()),  # noqa: ARG005 - the signature of the callback
            r"a batch is a Odd: .*override split_batch",
        ),
        (
            lambda: TorchTask(ByName, TensorDataset(INPUTS, INPUTS, CLASSES, CLASSES), PAIRS),
            HERE + r"ByName.forward cannot take a batch's inputs.*too many positional.*last entry of a tuple",
        ),
        (
            lambda: TorchTask(ByName, dicts(image=INPUTS, labels=CLASSES), PAIRS),
            HERE + r"ByName.forward cannot take a batch's inputs, \{'image': torch.float32 \(32, 4\)\}: .*",
        ),
        (
            lambda: TorchTask(Tuples, PAIRS, PAIRS),
            r"outputs are \(torch.float32 .*\): pass TorchTask a `loss`",
        ),
        (
            lambda: TorchTask(Tuples, PAIRS, PAIRS, loss=nn.functional.cross_entropy),
            r"the model's outputs are \(torch.float32 .*, which this loss cannot take",
        ),
        (
            lambda: TorchTask(lambda: nn.Linear(4, 2).requires_grad_(False), PAIRS, PAIRS),  # noqa: FBT003 - torch's signature
            r"Linear has no parameters to train: requires_grad is False",
        ),
        (lambda: TorchTask(nn.Identity, PAIRS, PAIRS), r"Identity has no parameters to train: it has none"),
        (lambda: TorchTask(lambda: nn.LazyLinear(2), PAIRS, PAIRS), r"'weight' has no shape yet"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(make: Callable[[], TorchTask], text: str) -> None:
    with pytest.raises(WorkFailed, match=text) as refusal:
        train(make())
    assert "\n" not in str(refusal.value)


# ---------------------------------------------------------------- models that cannot be averaged, or diverge
class Masked(nn.Module):
    def __init__(self, *, persistent: bool, infinite: bool = True) -> None:
        super().__init__()
        mask = (
            torch.triu(torch.full((4, 4), float("-inf")), 1) if infinite else torch.ones(4, 4).triu(1).bool()
        )
        self.register_buffer("mask", mask, persistent=persistent)
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        scores = inputs.unsqueeze(1) * inputs.unsqueeze(2)
        mask = self.get_buffer("mask")
        masked = scores + mask if mask.is_floating_point() else scores.masked_fill(mask, float("-inf"))
        outputs: Tensor = self.layer(masked.softmax(dim=-1)[:, 2] @ torch.eye(4))
        return outputs


def test_a_causal_mask_in_a_buffer_is_refused_with_the_way_out() -> None:
    with pytest.raises(WorkFailed, match=r"the buffer 'mask' holds infinite.*persistent=False"):
        TorchTask(lambda: Masked(persistent=True), PAIRS, PAIRS).initial_weights(0)


@pytest.mark.parametrize("how", [{"persistent": False}, {"persistent": True, "infinite": False}], ids=str)
def test_a_mask_works_by_that_way_out(how: dict[str, bool]) -> None:
    train(TorchTask(lambda: Masked(**how), PAIRS, PAIRS))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_training_that_diverges_is_reported_with_the_learning_rate(batch_norm: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    layers = [nn.Linear(4, 1), *([nn.BatchNorm1d(1)] if batch_norm else []), nn.Flatten(0)]
    wild = TensorDataset(1e25 * INPUTS, 1e30 * INPUTS[:, 0])
    task = TorchTask(lambda: nn.Sequential(*layers), wild, wild, loss=nn.MSELoss)
    passes: list[float] = []
    with pytest.raises(
        WorkFailed, match=r"not finite: the training diverged. Choose a smaller learning_rate than 0.5"
    ):
        task.fit(task.initial_weights(0), {"epochs": 50, "learning_rate": 0.5}, passes.append, lambda: False)
    assert not passes, "it ends after the first epoch that was lost"


def test_state_that_is_not_a_tensor_is_named_wherever_it_occurs() -> None:
    class Calibrated(nn.Linear):
        def get_extra_state(self) -> object:
            return {"calibration": [0.1]}

        def set_extra_state(self, state: object) -> None:
            del state

    task = TorchTask(lambda: nn.Sequential(Calibrated(4, 2)), PAIRS, PAIRS)
    with pytest.raises(WorkFailed, match=r"'0._extra_state', a dict: only tensors"):
        task.initial_weights(0)
    with pytest.raises(WorkFailed, match=r"'0._extra_state', a dict: only tensors"):
        task.evaluate({"0.weight": np.zeros((2, 4), np.float32)})


def test_state_of_its_own_that_is_a_tensor_works() -> None:
    class Calibrated(nn.Linear):
        extra = torch.ones(3)

        def get_extra_state(self) -> object:
            return self.extra

        def set_extra_state(self, state: object) -> None:
            del state

    assert "_extra_state" in TorchTask(lambda: Calibrated(4, 2), PAIRS, PAIRS).initial_weights(0)


@pytest.mark.parametrize(("count", "size"), [(1, 32), (5, 1)])
def test_batch_normalization_on_single_examples_is_explained(count: int, size: int) -> None:
    few = TensorDataset(INPUTS[:count], CLASSES[:count])
    task = TorchTask(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), few, PAIRS)
    words = rf"{HERE}batch normalization cannot .*this device has {count} examples, and batch_size is {size}"
    with pytest.raises(WorkFailed, match=words):
        train(task, batch_size=size)


@pytest.mark.parametrize("error", [ValueError, AttributeError, MemoryError, NotImplementedError])
def test_a_trial_of_bfloat16_that_fails_ends_no_training(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> float:
        raise error

    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "_seconds", fails)
    train(TorchTask(net, PAIRS, PAIRS))


def test_a_collate_that_is_torchs_own_is_as_none() -> None:
    learns(TorchTask(net, ROWS, ROWS, collate=default_collate))
