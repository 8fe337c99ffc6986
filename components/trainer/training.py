"""Training of a PyTorch module: a user's task is an ``nn.Module`` and two data sets, this does the rest."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from msgspec import Meta, Struct
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.sgd import sgd
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from components.trainer.errors import WorkFailed
from components.trainer.tasks.task import Evaluation, Fit, Report, Settings, Stop
from fedgrass.federation.conversion import convert
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import Arrays

EVALUATION_BATCH = 256
Loss = Callable[[Tensor, Tensor], Tensor]
Samples = Dataset[Any]


class TrainingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run may choose of the training: stochastic gradient descent with momentum."""

    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 1
    learning_rate: Annotated[float, Meta(gt=0)] = 0.01
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    batch_size: Annotated[int, Meta(ge=1)] = 32
    seed: int | None = None  # of the order of examples and of dropout; None draws a new one each time


def parse_training_settings(settings: Settings, defaults: TrainingSettings) -> TrainingSettings:
    """Return ``settings`` over ``defaults``.

    Raises:
        WorkFailed: a setting is unknown or out of its range; the text names it.
    """
    chosen = {**msgspec.structs.asdict(defaults), **settings}
    try:
        return convert(chosen, TrainingSettings, whole="the run's training", part="the run's training.")
    except SettingsError as error:
        raise WorkFailed(str(error)) from error


def state_arrays(model: nn.Module) -> dict[str, NDArray[np.generic]]:
    """Return the parameters and buffers of a model as numpy arrays of their own."""
    return {name: np.array(tensor.detach().cpu().numpy()) for name, tensor in model.state_dict().items()}


def load_arrays(model: nn.Module, weights: Arrays) -> None:
    """Set the parameters and buffers of a model.

    Raises:
        WorkFailed: the weights are not this model's; the text names the first array that differs.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(array.shape) for name, array in weights.items()}
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            message = (
                f"the global model does not fit this task's: array {name!r} is {found.get(name, 'missing')}"
                f" there and {expected.get(name, 'missing')} here"
            )
            raise WorkFailed(message)
    # torch.tensor copies: the arrays are read-only views into the downloaded file.
    model.load_state_dict({name: torch.tensor(np.asarray(array)) for name, array in weights.items()})


class TorchTask:
    """A task for an ``nn.Module`` and a data set; see ``tasks/digits.py`` for how little is left to write.

    Args:
        make_model: makes the module, with fresh weights.
        training: the examples to train on, pairs of input and target.
        held_out: local examples that training never sees, for the evaluation.
        defaults: of the training, where a run's settings say nothing.
        loss: of a batch of outputs and targets, the mean over the batch.
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        training: Samples,
        held_out: Samples,
        *,
        defaults: TrainingSettings | None = None,
        loss: Loss = nn.functional.cross_entropy,
    ) -> None:
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        self._make_model = make_model
        self._training = training
        self._held_out = held_out
        self._defaults = defaults or TrainingSettings()
        self._loss = loss
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = make_model().to(self._device)

    def initial_weights(self, seed: int) -> Mapping[str, NDArray[np.generic]]:
        """Return the weights that ``make_model`` gives after ``torch.manual_seed(seed)``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return state_arrays(self._make_model())

    def evaluate(self, weights: Arrays) -> Evaluation:
        """Return the mean loss over the held-out examples and, where targets are classes, the accuracy."""
        load_arrays(self._model, weights)
        return self.measure(self._held_out)

    def examples(self) -> int:
        """Return the number of examples to train on."""
        return _length(self._training)

    @torch.no_grad()
    def measure(self, samples: Samples) -> Evaluation:
        """Measure the model as it stands on ``samples``; means over examples, not over batches."""
        self._model.eval()
        loss, right, classes = 0.0, 0, True
        for inputs, targets in self._batches(samples, SequentialSampler(_sized(samples)), EVALUATION_BATCH):
            outputs = self._model(inputs)
            loss += float(self._loss(outputs, targets)) * len(targets)
            classes = classes and not targets.is_floating_point() and outputs.ndim == targets.ndim + 1
            right += int((outputs.argmax(dim=1) == targets).sum()) if classes else 0
        count = _length(samples)
        metrics = {"loss": loss / count}
        return Evaluation(count, metrics | ({"accuracy": right / count} if classes else {}))

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        """Train for the settings' epochs; ``train_loss`` is the mean of the last one."""
        chosen = parse_training_settings(settings, self._defaults)
        load_arrays(self._model, weights)
        generator = self._seeded(chosen.seed)
        descent = _Descent(self._model, chosen)
        loss = 0.0
        for epoch in range(chosen.epochs):
            sampler = RandomSampler(_sized(self._training), generator=generator)
            loss = self._epoch(descent, self._batches(self._training, sampler, chosen.batch_size), stop)
            report((epoch + 1) / chosen.epochs)
        return Fit(state_arrays(self._model), self.examples(), {"train_loss": loss})

    def _epoch(self, descent: "_Descent", batches: Iterator[tuple[Tensor, Tensor]], stop: Stop) -> float:
        """Train on each batch once; return the mean loss over the examples."""
        self._model.train()
        total, count = 0.0, 0
        for inputs, targets in batches:
            if stop():
                message = "the training was stopped"
                raise WorkFailed(message)
            self._model.zero_grad()
            loss = self._loss(self._model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call] # torch gives it no types
            descent.step()
            total += loss.item() * len(targets)
            count += len(targets)
        return total / count

    def _batches(
        self, samples: Samples, sampler: RandomSampler | SequentialSampler, size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        # Batch normalization cannot train on one example: a last batch of one is left out.
        lonely = _length(samples) % size == 1 and _length(samples) > size
        batches = BatchSampler(sampler, size, drop_last=lonely and isinstance(sampler, RandomSampler))
        # Tensors are indexed by whole batches: far faster than collecting the examples one by one.
        loader: DataLoader[Any] = (
            DataLoader(samples, sampler=batches, batch_size=None)
            if isinstance(samples, TensorDataset)
            else DataLoader(samples, batch_sampler=batches)
        )
        for inputs, targets in loader:
            yield inputs.to(self._device), targets.to(self._device)

    def _seeded(self, seed: int | None) -> torch.Generator:
        """Return a generator for the order of examples, and seed what the model itself draws from."""
        seed = torch.seed() if seed is None else seed
        torch.manual_seed(seed)
        return torch.Generator().manual_seed(seed)


class _Descent:
    """Stochastic gradient descent with momentum, by torch's own function.

    ``torch.optim.SGD`` does the same through the same function, but its first use imports torch's compiler,
    which costs a new worker 2 seconds on a laptop and ten on a small device.
    """

    def __init__(self, model: nn.Module, settings: TrainingSettings) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._momenta: list[Tensor | None] = [None] * len(self._parameters)
        self._settings = settings

    @torch.no_grad()
    def step(self) -> None:
        """Move each parameter that has a gradient."""
        moved = [place for place, parameter in enumerate(self._parameters) if parameter.grad is not None]
        momenta = [self._momenta[place] for place in moved]
        sgd(
            [self._parameters[place] for place in moved],
            [gradient for parameter in self._parameters if (gradient := parameter.grad) is not None],
            momenta,
            weight_decay=0.0,
            momentum=self._settings.momentum,
            lr=self._settings.learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            foreach=False,
        )
        for place, momentum in zip(moved, momenta, strict=True):
            self._momenta[place] = momentum


def _sized(samples: Samples) -> Any:
    """Return ``samples``, which torch's types do not know to have a length."""
    return samples


def _length(samples: Samples) -> int:
    return len(_sized(samples))
