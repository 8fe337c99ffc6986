"""The local training of one round: its epochs, early stopping, and the checks of its result."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import Evaluation, Fit, Report, Stop
from components.trainer.training import batches, precision, structures
from components.trainer.training.arrays import (
    check_finite_state,
    load_arrays,
    named_as,
    state_arrays,
    trained_arrays,
)
from components.trainer.training.batches import Loading, Samples
from components.trainer.training.fitting import Epoch, Fitting, Patience
from components.trainer.training.hooks import Hooks
from components.trainer.training.losses import Loss, balanced_weights
from components.trainer.training.sgd import (
    Optimizer,
    Sgd,
    TrainingSettings,
    check_plain,
    corrections_of,
    plain_steps,
)
from components.trainer.training.source_location import work_failed
from fedgrass.federation.weights import Arrays


class LocalTraining:
    """Trains a task's model on the device's examples, one round at a time.

    Args:
        model: the model, on ``device``.
        loss: of a batch.
        loading: how examples become batches.
        device: where to compute.
        hooks: the task, which chooses optimizer and scheduler.
        measure: evaluates the model with its current weights, for early stopping.
        location: of the task in the user's file, for messages.
    """

    def __init__(  # noqa: PLR0913 - the parts of training
        self,
        model: nn.Module,
        loss: Loss,
        loading: Loading,
        device: torch.device,
        *,
        hooks: Hooks,
        measure: Callable[[Samples], Evaluation],
        location: str,
    ) -> None:
        self._model = model
        self._loss = loss
        self._loading = loading
        self._device = device
        self._hooks = hooks
        self._measure = measure
        self._location = location
        self._autocast: dict[tuple[object, ...], torch.dtype | None] = {}  # measured once per combination

    def run(  # noqa: PLR0913 - the parts of a round
        self,
        weights: Arrays,
        chosen: TrainingSettings,
        report: Report,
        stop: Stop,
        *,
        examples: Samples,
        read_held_out: Callable[[], Samples],
        correction: Arrays | None = None,
    ) -> Fit:
        """Train from ``weights`` for the epochs of ``chosen``.

        Args:
            weights: the global model.
            chosen: the settings of the round.
            report: takes the completed fraction, 0 to 1.
            stop: returns whether to stop; called before each batch.
            examples: to train on.
            read_held_out: returns the held-out examples; called only if early stopping is enabled.
            correction: SCAFFOLD's correction of the gradients, by array name; None for a plain training.

        Raises:
            WorkFailed: as for ``TorchTask.fit`` and ``TorchTask.fit_corrected``.
        """
        total = batches.length(examples)
        if not total:
            message = "there are no examples to train on"
            raise WorkFailed(message)
        load_arrays(self._model, weights)
        generator = _seeded_generator(chosen.seed)
        fitting = self._fitting(examples, chosen, correction)
        patience = Patience(chosen.patience_epochs)
        held_out = read_held_out() if chosen.patience_epochs else None
        loss, seen, metrics, partial = math.nan, 0, {}, False
        for number in range(1, chosen.epochs + 1):
            order = batches.shuffled(examples, self._device, chosen.batch_size, generator, self._loading)
            epoch = self._epoch(fitting, order, stop, total, chosen)
            if epoch.examples and not math.isfinite(epoch.loss):
                self._check_finite(chosen, weights)  # fails now rather than after the remaining epochs
            loss = epoch.loss if epoch.examples else loss
            # A complete epoch counts all examples, although a last batch of one example may be skipped.
            seen = max(seen, epoch.examples if epoch.stopped else total)
            if epoch.stopped:
                partial = True
                break
            report(number / chosen.epochs)
            if held_out is not None and self._is_enough(patience, held_out, loss) and number < chosen.epochs:
                metrics["epochs"] = float(number)
                report(1.0)
                break
        if not seen:
            message = "the training was stopped before its first batch"
            raise WorkFailed(message)
        patience.restore(self._model)
        self._check_finite(chosen, weights)
        steps = plain_steps(self._model, fitting.steps, chosen) if correction is not None else None
        metrics = {"train_loss": loss, **metrics}
        after = named_as(weights, self._model, state_arrays(self._model))
        trained = named_as(weights, self._model, dict.fromkeys(trained_arrays(self._model)))
        return Fit(after, seen, metrics, partial, steps, frozenset(trained))

    def _epoch(
        self,
        fitting: Fitting,
        order: batches.Batches,
        stop: Stop,
        total: int,
        chosen: TrainingSettings,
    ) -> Epoch:
        try:
            return fitting.epoch(order, stop)
        except ValueError as error:
            explain_batch_norm(error, total, chosen.batch_size, self._location)
            raise

    def _check_finite(self, chosen: TrainingSettings, weights: Arrays) -> None:
        advice = (
            f"the training diverged. Choose a smaller learning_rate than {chosen.learning_rate:g}, set"
            " max_grad_norm, or look for inputs that are not finite"
        )
        check_finite_state(self._model, state_arrays(self._model), advice, weights)

    def _is_enough(self, patience: Patience, held_out: Samples, train_loss: float) -> bool:
        """Judge an epoch by the held-out loss, or by the training loss if none are held out."""
        return patience.exhausted(self._measure(held_out).metrics.get("loss", train_loss), self._model)

    def _fitting(self, examples: Samples, chosen: TrainingSettings, correction: Arrays | None) -> Fitting:
        optimizer = self._optimizer(chosen)
        if correction is not None:
            check_plain(optimizer)
        steps = math.ceil(batches.length(examples) / chosen.batch_size) * chosen.epochs
        return Fitting(
            self._model,
            self._loss,
            optimizer,
            proximal=chosen.proximal,
            class_weights=self.class_weights(examples) if chosen.class_weights == "balanced" else None,
            autocast=self._arithmetic(examples, chosen),
            corrections=corrections_of(self._model, correction) if correction else (),
            max_grad_norm=chosen.max_grad_norm,
            scheduler=self._hooks.make_scheduler(optimizer, chosen, steps),
        )

    def _optimizer(self, chosen: TrainingSettings) -> Optimizer:
        """Return the task's optimizer; torch.optim.SGD if a scheduler must change its learning rate."""
        parameters = trained_parameters(self._model, self._location)
        optimizer = self._hooks.make_optimizer(parameters, chosen)
        if isinstance(optimizer, Sgd) and type(self._hooks).make_scheduler is not Hooks.make_scheduler:
            return torch.optim.SGD(parameters, lr=chosen.learning_rate, momentum=chosen.momentum)
        return optimizer

    def class_weights(self, examples: Samples) -> Tensor:
        """Return the balanced weight of each class, float32 of shape (classes,); see ``balanced_weights``."""
        self._model.eval()
        with torch.no_grad():
            outputs = structures.main_output(structures.call(self._model, self._batch(examples, 1)[0]))
        if outputs is None:
            message = "class_weights is 'balanced', but the model's outputs are not the logits of classes"
            raise work_failed(message, self._model, self._location)
        targets = batches.targets_of(examples, self._loading)
        return balanced_weights(self._loss, targets, outputs.shape[-1]).to(outputs.device)

    def _arithmetic(self, examples: Samples, chosen: TrainingSettings) -> torch.dtype | None:
        key = (chosen.precision, chosen.batch_size, chosen.seed is None)
        if key not in self._autocast:
            self._autocast[key] = precision.choose(
                self._model, self._loss, lambda: self._batch(examples, chosen.batch_size), chosen
            )
        return self._autocast[key]

    def _batch(self, examples: Samples, size: int) -> tuple[Any, Any]:
        return next(batches.in_order(examples, self._device, size, self._loading))


def trained_parameters(model: nn.Module, location: str) -> list[Parameter]:
    """Return the parameters of a model that require gradients.

    Raises:
        WorkFailed: there are none.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        frozen = "requires_grad is False for all of them"
        reason = frozen if list(model.parameters()) else "it has none at all"
        message = f"the model {type(model).__name__} has no parameters to train: {reason}"
        raise work_failed(message, model, location)
    return parameters


def explain_batch_norm(error: ValueError, examples: int, batch_size: int, location: str) -> None:
    """Raise a WorkFailed with advice if PyTorch refused to train batch normalization on a single example."""
    if "more than 1 value per channel" not in str(error):
        return
    message = (
        f"batch normalization cannot train on one example at a time ({error}): this device has {examples}"
        f" examples, and batch_size is {batch_size}. Select devices with more examples (minimum_examples),"
        " choose a larger batch_size, or use another normalization, such as GroupNorm"
    )
    raise work_failed(message, location) from error


def _seeded_generator(seed: int | None) -> torch.Generator:
    """Return a generator for the order of examples, and seed the global one, from which dropout draws."""
    seed = torch.seed() if seed is None else seed
    if torch.cuda.is_available():
        torch.manual_seed(seed)
    else:  # without the 3 ms that the other kinds of devices take, also where there are none
        torch.default_generator.manual_seed(seed)
    return torch.Generator().manual_seed(seed)
