"""``TorchTask``: implements the interface of tasks for a PyTorch module and two data sets."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import Evaluation, Fit, Predict, Report, Settings, Stop
from components.trainer.training import batches, structures
from components.trainer.training.arrays import canonical, check_finite_state, load_arrays, state_arrays
from components.trainer.training.batches import Collate, Loading, Samples, Source
from components.trainer.training.hooks import Hooks
from components.trainer.training.local_training import LocalTraining, explain_batch_norm, trained_parameters
from components.trainer.training.losses import Loss, Measures, as_loss, default_loss, loss_of
from components.trainer.training.precision import accept_float32, choose_device
from components.trainer.training.sgd import TrainingSettings, parse_plain_settings, parse_training_settings
from components.trainer.training.source_location import caller_location, work_failed
from components.trainer.training.torch_features import batch_features
from components.trainer.training.torch_predictor import make_predict
from components.trainer.training.torch_sharing import Patterns, freeze, sharing_of
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import Arrays
from fedgrass.federation.weights.array_sharing import Sharing

_FIRST_BATCH = 32  # examples


@dataclass(frozen=True)
class TrainingParts:
    """What a task trains with, for a training of several devices at a time (fedgrass/simulation/clients).

    Attributes:
        model: the task's module, on ``device``.
        loss: of a batch.
        loading: how examples become batches.
        device: where it computes.
        defaults: the settings that a run does not choose.
        location: of the task in the user's file, for messages.
    """

    model: nn.Module
    loss: Loss
    loading: Loading
    device: torch.device
    defaults: TrainingSettings
    location: str


class TorchTask(Hooks):
    """A task for an ``nn.Module`` and a data set.

    A complete task; its options, here ``file``, come from the component's configuration:

        class Cracks(TorchTask):
            def __init__(self, file: str = "/data/images.pt") -> None:
                images, labels = torch.load(file, weights_only=True)  # (n, 28, 28) float32, (n,) int64
                cut = len(images) * 9 // 10
                super().__init__(
                    make_model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 2)),
                    training=TensorDataset(images[:cut], labels[:cut]),
                    held_out=TensorDataset(images[cut:], labels[cut:]),
                    defaults=TrainingSettings(epochs=2, learning_rate=0.05),
                )

    The weights that are exchanged are the module's ``state_dict``: its parameters and persistent buffers, by
    their names. Subclasses may override ``split_batch`` and the methods of ``Hooks``.

    Args:
        make_model: returns the module with fresh weights; or a module, with whose weights every run starts.
        training: the examples to train on: a map-style data set, a list, a tuple (inputs, targets) of arrays
            with n rows each, a ``DataLoader``, or an ``IterableDataset`` with a length. If the local data
            change from round to round, a function that returns one of these; it is called before each
            assignment. ``split_batch`` describes the examples.
        held_out: local examples that are never trained on, for the evaluation; the same types.
        defaults: settings of the training that a run does not choose.
        loss: a function of a batch's outputs and targets that returns their mean loss, a tensor of one value.
            By default the loss that the model computes itself, if any, else the cross entropy.
        collate: converts a list of examples to a batch, for examples of different shapes.
        test: examples that no device trains on, by which ``fedgrass demo`` evaluates the global model;
            ``held_out`` by default.
        shared: which arrays are in the run's model: patterns on their names, such as ``"head.*"``, or one of
            ``"trainable"``, ``"no_batch_norm"`` and ``"body"`` (torch_sharing.py). All of them by default.
        private: patterns of the arrays that stay on this device.
        frozen: patterns of the arrays that are never trained and are the same on all devices.

    Raises:
        WorkFailed: an argument cannot be used; the text names the location in the user's file.
    """

    def __init__(  # noqa: PLR0913 - the parts of a task
        self,
        make_model: Callable[[], nn.Module] | nn.Module,
        training: Source,
        held_out: Source,
        *,
        defaults: TrainingSettings | None = None,
        loss: Any = default_loss,
        collate: Collate | None = None,
        test: Source | None = None,
        shared: Patterns = (),
        private: Patterns = (),
        frozen: Patterns = (),
    ) -> None:
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        self._location = caller_location()
        self._make_model = _module_factory(make_model, self._location)
        self._training = training
        self._held_out = held_out
        self._test = held_out if test is None else test
        self._defaults = defaults or TrainingSettings()
        self._loading = Loading(self.split_batch, collate, self._location)
        self._device = choose_device()
        self._loss = as_loss(loss, self._location)
        if isinstance(self._loss, nn.Module):
            self._loss = self._loss.to(self._device)
        self._model, self._sharing = self._make_working_model(shared, private, frozen)
        self._counted: Samples | None = None  # the data set that examples() has counted, for the next fit
        self._trainer = LocalTraining(
            self._model,
            self._loss,
            self._loading,
            self._device,
            hooks=self,
            measure=self.measure,
            location=self._location,
        )

    def _make_working_model(
        self, shared: Patterns, private: Patterns, frozen: Patterns
    ) -> tuple[nn.Module, Sharing]:
        """Return the module that trains and evaluates, and the roles of its arrays."""
        model = accept_float32(self._make_model().to(self._device))
        try:
            sharing = sharing_of(model, shared, private, frozen)
        except SettingsError as error:
            raise work_failed(str(error), self._location) from error
        freeze(model, sharing)
        return model, sharing

    def sharing(self) -> Sharing:
        """Return the roles of the model's arrays."""
        return self._sharing

    def split_batch(self, batch: Any) -> tuple[Any, Any]:
        """Split a batch into the model's inputs and the targets.

        By default the target is the last entry of a tuple, or the entry ``labels`` (or ``label``,
        ``targets``, ``target``, ``y``) of a dict; see ``structures.split``. Override it for other structures.

        Args:
            batch: as collated: tensors of shape (batch, ...), or dicts, tuples and lists of them.

        Raises:
            WorkFailed: the batch has another structure, or no target.
        """
        inputs, targets = structures.split(batch, self._model)
        if targets is inputs and self._loss is default_loss:
            message = (
                "the examples have no target, so the model learns its own input: pass a `loss`,"
                " such as nn.functional.mse_loss"
            )
            raise work_failed(message, self._location)
        return inputs, targets

    def initial_weights(self, seed: int) -> Mapping[str, NDArray[np.generic]]:
        """Return the weights of a model created after ``torch.manual_seed(seed)``.

        Raises:
            WorkFailed: a parameter or buffer is not finite, or cannot be converted to numpy.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._make_model()
        arrays = state_arrays(model)
        check_finite_state(model, arrays, "the initial model must be finite")
        return arrays

    def evaluate(self, weights: Arrays) -> Evaluation:
        """Evaluate a model on the held-out examples; ``losses.Measures`` describes the metrics."""
        samples = self._read(self._held_out)
        if not batches.length(samples):
            return Evaluation(0)
        load_arrays(self._model, weights)
        return self.measure(samples)

    def evaluate_held_out(self, weights: Arrays) -> Evaluation:
        """Evaluate a model on the test examples, as ``fedgrass demo`` does with each global model."""
        load_arrays(self._model, weights)
        return self.measure(self._read(self._test))

    def evaluate_training(self, weights: Arrays) -> Evaluation:
        """Evaluate a model on the training examples."""
        load_arrays(self._model, weights)
        return self.measure(self._read(self._training))

    @torch.no_grad()
    def measure(self, samples: Samples) -> Evaluation:
        """Evaluate the model with its current weights; metrics are means over examples, not over batches."""
        self._model.eval()
        is_overridden = type(self).compute_metrics is not Hooks.compute_metrics
        measures = Measures(self._loss, self.compute_metrics if is_overridden else None)
        for inputs, targets in batches.in_order(samples, self._device, loading=self._loading):
            measures.add(structures.call(self._model, inputs), targets, inputs)
        return Evaluation(measures.examples, measures.means())

    def examples(self) -> int:
        """Return the current number of training examples."""
        self._counted = self._read(self._training)
        return batches.length(self._counted)

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        """Train on the training examples for the number of epochs in the settings.

        Args:
            weights: the global model.
            settings: the run's settings, which override ``defaults``; see ``TrainingSettings``.
            report: takes the completed fraction after each epoch.
            stop: called before each batch. Once it returns True, a partial result is returned.

        Returns:
            The trained weights. The metric ``train_loss`` is the mean loss of the last epoch; ``epochs`` is
            reported if early stopping ended the training.

        Raises:
            WorkFailed: the data set is empty, a setting is invalid, the training diverged, or it was stopped
                before its first batch.
        """
        return self._train(weights, parse_training_settings(settings, self._defaults), report, stop)

    def fit_corrected(
        self, weights: Arrays, settings: Settings, report: Report, stop: Stop, correction: Arrays
    ) -> Fit:
        """Train as ``fit`` does, with ``correction`` added to each gradient: the client's part of SCAFFOLD.

        The steps must be plain gradient steps: ``momentum`` defaults to 0, and any other value is refused.

        Args:
            weights: the global model.
            settings: as for ``fit``.
            report: as for ``fit``.
            stop: as for ``fit``.
            correction: float32 arrays by parameter name, each with the shape of its parameter.

        Raises:
            WorkFailed: as for ``fit``; also if the steps would not be plain, or the correction does not match
                the model.
        """
        if type(self).fit is not TorchTask.fit and type(self).fit_corrected is TorchTask.fit_corrected:
            message = "the task overrides fit: for the aggregation scaffold it needs a fit_corrected too"
            raise WorkFailed(message)
        chosen = parse_plain_settings(settings, self._defaults)
        return self._train(weights, chosen, report, stop, correction)

    def _train(
        self,
        weights: Arrays,
        chosen: TrainingSettings,
        report: Report,
        stop: Stop,
        correction: Arrays | None = None,
    ) -> Fit:
        return self._trainer.run(
            weights,
            chosen,
            report,
            stop,
            examples=self.take_examples(),
            read_held_out=lambda: self._read(self._held_out),
            correction=correction,
        )

    def training_parts(self) -> TrainingParts:
        """Return what this task trains with."""
        return TrainingParts(
            self._model, self._loss, self._loading, self._device, self._defaults, self._location
        )

    def take_examples(self) -> Samples:
        """Return the training examples as the next ``fit`` would read them."""
        examples = self._read(self._training) if self._counted is None else self._counted
        self._counted = None
        return examples

    def class_weights(self, examples: Samples) -> Tensor:
        """Return the balanced weight of each class, float32 of shape (classes,)."""
        return self._trainer.class_weights(examples)

    def features(self) -> Iterator[Mapping[str, Any]]:
        """Yield the training examples as features, in batches; see ``tasks.task.StatisticsTask``.

        Inputs are named ``x`` (several ones ``x0``, ``x1``, ..., those of a dict by their keys). Targets that
        are one whole number or truth value per example are ``labels``, other ones the feature ``target``.
        Override it to give the features names of their own.
        """
        samples = self._read(self._training)
        for inputs, targets in batches.in_order(samples, torch.device("cpu"), loading=self._loading):
            yield batch_features(inputs, targets)

    def predictor(self, weights: Arrays) -> Predict:
        """Return a function from inputs to outputs, both as nested lists; it has its own copy of the model.

        Raises:
            WorkFailed: the model's input is not a single tensor.
        """
        model = accept_float32(self._make_model().to(self._device))
        load_arrays(model, weights)
        return make_predict(model, self._device, self._one_input(), self._location)

    def module(self, weights: Arrays, examples: int) -> tuple[nn.Module, Any]:
        """Return the module with some weights, for an export, and inputs to trace it with.

        Args:
            weights: all arrays of the module.
            examples: how many inputs to return; fewer if the local data have fewer.

        Returns:
            A copy of the module in evaluation mode, and a batch of its inputs, both on the CPU.

        Raises:
            WorkFailed: the weights do not fit the module.
        """
        model = self._make_model()
        load_arrays(model, weights)
        inputs, _ = self.first_batch(examples)
        return model.eval().cpu(), structures.to_device(inputs, torch.device("cpu"))

    def _one_input(self) -> Any:
        """Return one input of the local data, whose shape and dtype inputs of applications must have."""
        for source in (self._training, self._held_out):
            samples = self._read(source)
            if batches.length(samples):
                inputs = self._batch(samples, 1)[0]
                return inputs[0] if isinstance(inputs, Tensor) else inputs
        return None

    def sample(self, most: int) -> None:
        """Use at most ``most`` examples of each data set from now on, for a quick check of the task."""
        training, held_out = self._training, self._held_out
        self._training = lambda: batches.first(self._read(training), most)
        self._held_out = lambda: batches.first(self._read(held_out), most)

    def limit_training(self, most: int) -> None:
        """Train on at most ``most`` of the training examples from now on; all held-out ones are kept."""
        training = self._training
        self._training = lambda: batches.first(self._read(training), most)

    def first_batch(self, size: int = _FIRST_BATCH) -> tuple[Any, Any]:
        """Return inputs and targets of the first training batch, as the model gets them."""
        return self._batch(self._read(self._training), size)

    def gradients(self, weights: Arrays) -> dict[str, Tensor | None]:
        """Return the gradient of each trained parameter on the first batch, with the parameter's shape.

        The gradient is None for a parameter that does not affect the loss.
        """
        load_arrays(self._model, weights)
        trained_parameters(self._model, self._location)
        inputs, targets = self.first_batch()
        self._model.train()
        self._model.zero_grad()
        try:
            loss = loss_of(self._loss, structures.call(self._model, inputs), targets)
        except ValueError as error:
            explain_batch_norm(error, structures.count(inputs, targets), _FIRST_BATCH, self._location)
            raise
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
        parameters = canonical(self._model, self._model.named_parameters())
        return {name: parameter.grad for name, parameter in parameters.items() if parameter.requires_grad}

    def _batch(self, samples: Samples, size: int) -> tuple[Any, Any]:
        return next(batches.in_order(samples, self._device, size, self._loading))

    def _read(self, source: Source) -> Samples:
        return batches.read(source, self._location)


def _module_factory(make_model: Any, location: str) -> Callable[[], nn.Module]:
    """Return a function that creates the module; a module is copied with its weights."""
    if isinstance(make_model, nn.Module):
        return lambda: copy.deepcopy(make_model)
    if not callable(make_model):
        message = f"make_model must be a function or an nn.Module, not {structures.describe(make_model)}"
        raise work_failed(message, location)

    def make() -> nn.Module:
        made: object = make_model()
        if not isinstance(made, nn.Module):
            message = f"make_model must return an nn.Module, not {structures.describe(made)}"
            raise work_failed(message, make_model, location)
        return made

    return make
