"""The task for any PyTorch module."""

import math
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import Parameter

from components.trainer.errors import WorkFailed
from components.trainer.tasks.task import Evaluation, Fit, InputRefused, Predict, Report, Settings, Stop
from components.trainer.training import batches, precision
from components.trainer.training.arrays import load_arrays, state_arrays
from components.trainer.training.batches import Samples, Source
from components.trainer.training.corrections import (
    check_plain,
    corrections_of,
    parse_plain_settings,
    plain_steps,
)
from components.trainer.training.descent import Descent, Optimizer
from components.trainer.training.devices import choose_device
from components.trainer.training.fitting import Fitting, Patience
from components.trainer.training.inputs import read_inputs
from components.trainer.training.losses import Loss, Measures, balanced_weights, loss_of
from components.trainer.training.network_precision import accept_float32
from components.trainer.training.settings import TrainingSettings, parse_training_settings
from fedgrass.federation.weights import Arrays


class TorchTask:
    """A task for an ``nn.Module`` and a data set; see ``tasks/digits.py`` for how little is left to write.

    Args:
        make_model: makes the module, with fresh weights.
        training: the examples to train on, pairs of input and target; or a function that returns them, which
            is called before each work, where a device's data change from round to round.
        held_out: local examples that training never sees, for the evaluation; or such a function.
        defaults: of the training, where a run's settings say nothing.
        loss: of a batch of outputs and targets, the mean over the batch.
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        training: Source,
        held_out: Source,
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
        self._device = choose_device()
        self._model = accept_float32(make_model().to(self._device))
        self._counted: Samples | None = None  # what examples() saw, for the fit that follows
        self._autocast: dict[tuple[object, ...], torch.dtype | None] = {}  # a measurement is made once

    def make_optimizer(self, parameters: list[Parameter], settings: TrainingSettings) -> Optimizer:
        """Return what moves the parameters; called for each round. Override it for another optimizer.

        As in ``return torch.optim.AdamW(parameters, lr=settings.learning_rate)``.
        """
        return Descent(parameters, settings)

    def initial_weights(self, seed: int) -> Mapping[str, NDArray[np.generic]]:
        """Return the weights that ``make_model`` gives after ``torch.manual_seed(seed)``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return state_arrays(self._make_model())

    def evaluate(self, weights: Arrays) -> Evaluation:
        """Measure a model on the held-out examples; ``losses.Measures`` says which measures there are."""
        load_arrays(self._model, weights)
        return self.measure(batches.read(self._held_out))

    def examples(self) -> int:
        """Return the number of examples to train on, as it is now."""
        self._counted = batches.read(self._training)
        return batches.length(self._counted)

    def evaluate_training(self, weights: Arrays) -> Evaluation:
        """Measure a model on the examples to train on: how well it has learnt them."""
        load_arrays(self._model, weights)
        return self.measure(batches.read(self._training))

    def sample(self, most: int) -> None:
        """Use at most so many examples of each data set from now on, for a quick check of the task."""
        training, held_out = self._training, self._held_out
        self._training = lambda: batches.first(batches.read(training), most)
        self._held_out = lambda: batches.first(batches.read(held_out), most)

    def first_batch(self, size: int = 32) -> tuple[Tensor, Tensor]:
        """Return the first inputs and targets of the training, as the model gets them."""
        return self._batch(batches.read(self._training), size)

    def gradients(self, weights: Arrays) -> dict[str, Tensor | None]:
        """Return each parameter's gradient on the first batch; None for one that has no part in the loss."""
        load_arrays(self._model, weights)
        inputs, targets = self.first_batch()
        self._model.train()
        self._model.zero_grad()
        loss_of(self._loss, self._model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        trained = [pair for pair in self._model.named_parameters() if pair[1].requires_grad]
        return {name: parameter.grad for name, parameter in trained}

    def predictor(self, weights: Arrays) -> Predict:
        """Return a function from inputs to outputs, in nested lists; it has a model of its own."""
        model = accept_float32(self._make_model().to(self._device))
        load_arrays(model, weights)
        model.eval()
        like = self._one_input()

        def predict(inputs: Sequence[object]) -> list[object]:
            batch = read_inputs(inputs, like).to(self._device)
            try:
                with torch.no_grad():
                    outputs: list[object] = model(batch).cpu().tolist()
            except (RuntimeError, IndexError, ValueError) as error:
                message = f"the model cannot take these inputs: {str(error).splitlines()[0]}"
                raise InputRefused(message) from error
            return outputs

        return predict

    def _one_input(self) -> Tensor | None:
        """Return one input of the local data, if there are any: applications send inputs of its shape."""
        for source in (self._training, self._held_out):
            samples = batches.read(source)
            if batches.length(samples):
                return self._batch(samples, 1)[0][0]
        return None

    @torch.no_grad()
    def measure(self, samples: Samples) -> Evaluation:
        """Measure the model as it stands on ``samples``; means over examples, not over batches."""
        self._model.eval()
        measures = Measures(self._loss)
        for inputs, targets in batches.in_order(samples, self._device):
            measures.add(self._model(inputs), targets)
        return Evaluation(measures.examples, measures.means())

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        """Train for the settings' epochs; ``train_loss`` is the mean of the last one.

        Once ``stop`` says so, what was reached by then is returned: partial, with the number of examples that
        were seen. ``epochs`` is among the metrics where a training ended early for want of progress.

        Raises:
            WorkFailed: there is nothing to train on, a setting cannot be used, or the training was stopped
                before its first batch.
        """
        return self._train(weights, parse_training_settings(settings, self._defaults), report, stop)

    def fit_corrected(
        self, weights: Arrays, settings: Settings, report: Report, stop: Stop, correction: Arrays
    ) -> Fit:
        """Train as ``fit`` does, with ``correction`` added to each gradient: the device's half of SCAFFOLD.

        By plain steps: ``momentum`` is 0 unless the run's settings say another, which is refused.

        Raises:
            WorkFailed: as in ``fit``; the steps would not be plain ones; the correction is not the model's.
        """
        if type(self).fit is not TorchTask.fit and type(self).fit_corrected is TorchTask.fit_corrected:
            message = (
                "the task has a fit of its own: for the aggregation scaffold it needs a fit_corrected too"
            )
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
        training = batches.read(self._training) if self._counted is None else self._counted
        self._counted = None
        if not batches.length(training):
            message = "there are no examples to train on"
            raise WorkFailed(message)
        load_arrays(self._model, weights)
        generator = self._seeded(chosen.seed)
        fitting = self._fitting(training, chosen, correction)
        patience = Patience(chosen.patience_epochs)
        held_out = batches.read(self._held_out) if chosen.patience_epochs else None
        loss, seen, metrics, partial = math.nan, 0, {}, False
        for number in range(1, chosen.epochs + 1):
            order = batches.shuffled(training, self._device, chosen.batch_size, generator)
            epoch = fitting.epoch(order, stop)
            loss = epoch.loss if epoch.examples else loss
            # A full pass has seen all, though it may leave a lonely last example out.
            seen = max(seen, epoch.examples if epoch.stopped else batches.length(training))
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
        steps = plain_steps(self._model, fitting.steps, chosen) if correction is not None else None
        return Fit(state_arrays(self._model), seen, {"train_loss": loss, **metrics}, partial, steps)

    def _is_enough(self, patience: Patience, held_out: Samples, train_loss: float) -> bool:
        """Judge an epoch on the held-out examples; on those of the training where none are held out."""
        return patience.exhausted(self.measure(held_out).metrics.get("loss", train_loss), self._model)

    def _fitting(self, training: Samples, chosen: TrainingSettings, correction: Arrays | None) -> Fitting:
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        optimizer = self.make_optimizer(parameters, chosen)
        if correction is not None:
            check_plain(optimizer)
        return Fitting(
            self._model,
            self._loss,
            optimizer,
            proximal=chosen.proximal,
            class_weights=self._weights_of_classes(training) if chosen.class_weights == "balanced" else None,
            autocast=self._arithmetic(training, chosen),
            corrections=corrections_of(self._model, correction) if correction else (),
        )

    def _weights_of_classes(self, training: Samples) -> Tensor:
        self._model.eval()
        with torch.no_grad():
            outputs = self._model(self._batch(training, 1)[0])
        weights = balanced_weights(self._loss, batches.targets_of(training), outputs.shape[-1])
        return weights.to(outputs.device)

    def _arithmetic(self, training: Samples, chosen: TrainingSettings) -> torch.dtype | None:
        key = (chosen.precision, chosen.batch_size, chosen.seed is None)
        if key not in self._autocast:
            self._autocast[key] = precision.choose(
                self._model, self._loss, lambda: self._batch(training, chosen.batch_size), chosen
            )
        return self._autocast[key]

    def _batch(self, samples: Samples, size: int) -> tuple[Tensor, Tensor]:
        return next(batches.in_order(samples, self._device, size))

    def _seeded(self, seed: int | None) -> torch.Generator:
        """Return a generator for the order of examples, and seed what the model itself draws from."""
        seed = torch.seed() if seed is None else seed
        torch.manual_seed(seed)
        return torch.Generator().manual_seed(seed)
