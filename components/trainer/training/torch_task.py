"""The task for any PyTorch module."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import Parameter

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import Evaluation, Fit, InputRefused, Predict, Report, Settings, Stop
from components.trainer.training import batches, precision, structures
from components.trainer.training.arrays import (
    check_finite_state,
    load_arrays,
    read_inputs,
    state_arrays,
    trained_arrays,
)
from components.trainer.training.batches import Collate, Loading, Samples, Source
from components.trainer.training.fitting import Epoch, Fitting, Hooks, Patience, module_factory
from components.trainer.training.losses import Measures, as_loss, balanced_weights, default_loss, loss_of
from components.trainer.training.places import caller, refused
from components.trainer.training.precision import accept_float32, choose_device
from components.trainer.training.sgd import (
    Optimizer,
    Sgd,
    TrainingSettings,
    check_plain,
    corrections_of,
    parse_plain_settings,
    parse_training_settings,
    plain_steps,
)
from fedgrass.federation.weights import Arrays


class TorchTask(Hooks):
    """A task for an ``nn.Module`` and a data set; see ``tasks/digits.py`` for how little is left to write.

    Args:
        make_model: makes the module, with fresh weights; or a module, whose weights every run starts from.
        training: the examples to train on: a data set of (input, target) pairs, of dicts, or of any other
            structure that ``split_batch`` understands; or a function that returns it, which is called before
            each work, where a device's data change from round to round.
        held_out: local examples that training never sees, for the evaluation; or such a function.
        defaults: of the training, where a run's settings do not choose.
        loss: of a batch of outputs and targets, the mean over the batch. Without it, the loss that the model
            computes itself, else the cross entropy.
        collate: puts a list of examples into one batch, where their shapes differ.
        test: examples that no device trains on, for the demo's judgement of the global model; without it,
            ``held_out`` serves.

    Raises:
        WorkFailed: one of them cannot be used; the text has the place in the user's file.
    """

    def __init__(  # noqa: PLR0913 - what a task is made of
        self,
        make_model: Callable[[], nn.Module] | nn.Module,
        training: Source,
        held_out: Source,
        *,
        defaults: TrainingSettings | None = None,
        loss: Any = default_loss,
        collate: Collate | None = None,
        test: Source | None = None,
    ) -> None:
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        self._place = caller()
        self._make_model = module_factory(make_model, self._place)
        self._training = training
        self._held_out = held_out
        self._test = held_out if test is None else test
        self._defaults = defaults or TrainingSettings()
        self._loading = Loading(self.split_batch, collate, self._place)
        self._device = choose_device()
        self._loss = as_loss(loss, self._place)
        if isinstance(self._loss, nn.Module):
            self._loss = self._loss.to(self._device)
        self._model = accept_float32(self._make_model().to(self._device))
        self._counted: Samples | None = None  # what examples() saw, for the fit that follows
        self._autocast: dict[tuple[object, ...], torch.dtype | None] = {}  # a measurement is made once

    def split_batch(self, batch: Any) -> tuple[Any, Any]:
        """Return the inputs and the targets of a batch; structures.py has what is understood."""
        inputs, targets = structures.split(batch, self._model)
        if targets is inputs and self._loss is default_loss:
            message = (
                "the examples have no target, so that the model learns its own input: give a `loss`,"
                " such as nn.functional.mse_loss"
            )
            raise refused(message, self._place)
        return inputs, targets

    def initial_weights(self, seed: int) -> Mapping[str, NDArray[np.generic]]:
        """Return the weights that ``make_model`` gives after ``torch.manual_seed(seed)``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._make_model()
        arrays = state_arrays(model)
        check_finite_state(model, arrays, "the initial model has to be finite")
        return arrays

    def evaluate(self, weights: Arrays) -> Evaluation:
        """Measure a model on the held-out examples; ``losses.Measures`` says which measures there are."""
        load_arrays(self._model, weights)
        return self.measure(self._read(self._held_out))

    def evaluate_held_out(self, weights: Arrays) -> Evaluation:
        """Measure a model on the examples that no device trains on, as the demo does after each round."""
        load_arrays(self._model, weights)
        return self.measure(self._read(self._test))

    def examples(self) -> int:
        """Return the number of examples to train on, as it is now."""
        self._counted = self._read(self._training)
        return batches.length(self._counted)

    def evaluate_training(self, weights: Arrays) -> Evaluation:
        """Measure a model on the examples to train on: how well it has learnt them."""
        load_arrays(self._model, weights)
        return self.measure(self._read(self._training))

    def sample(self, most: int) -> None:
        """Use at most so many examples of each data set from now on, for a quick check of the task."""
        training, held_out = self._training, self._held_out
        self._training = lambda: batches.first(self._read(training), most)
        self._held_out = lambda: batches.first(self._read(held_out), most)

    def first_batch(self, size: int = 32) -> tuple[Any, Any]:
        """Return the first inputs and targets of the training, as the model gets them."""
        return self._batch(self._read(self._training), size)

    def gradients(self, weights: Arrays) -> dict[str, Tensor | None]:
        """Return each parameter's gradient on the first batch; None for one that has no part in the loss."""
        load_arrays(self._model, weights)
        self._trained_parameters()
        inputs, targets = self.first_batch()
        self._model.train()
        self._model.zero_grad()
        try:
            loss = loss_of(self._loss, structures.call(self._model, inputs), targets)
        except ValueError as error:
            self._explain(error, structures.count(inputs, targets), 32)
            raise
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        trained = [pair for pair in self._model.named_parameters() if pair[1].requires_grad]
        return {name: parameter.grad for name, parameter in trained}

    def predictor(self, weights: Arrays) -> Predict:
        """Return a function from inputs to outputs, in nested lists; it has a model of its own."""
        model = accept_float32(self._make_model().to(self._device))
        load_arrays(model, weights)
        model.eval()
        like = self._one_input()
        if like is not None and not isinstance(like, Tensor):
            message = (
                f"the model's inputs are {structures.describe(like)}: TorchTask serves models of one tensor."
                " Override predictor, which makes such inputs of what applications send"
            )
            raise refused(message, self._place)

        def predict(inputs: Sequence[object]) -> list[object]:
            batch = read_inputs(inputs, like).to(self._device)
            try:
                with torch.no_grad():
                    outputs: list[object] = structures.named_output(model(batch)).cpu().tolist()
            except (RuntimeError, IndexError, ValueError) as error:
                message = f"the model cannot take these inputs: {str(error).splitlines()[0]}"
                raise InputRefused(message) from error
            return outputs

        return predict

    def _one_input(self) -> Any:
        """Return one input of the local data, if there are any: applications send inputs of its shape."""
        for source in (self._training, self._held_out):
            samples = self._read(source)
            if batches.length(samples):
                inputs = self._batch(samples, 1)[0]
                return inputs[0] if isinstance(inputs, Tensor) else inputs
        return None

    @torch.no_grad()
    def measure(self, samples: Samples) -> Evaluation:
        """Measure the model as it stands on ``samples``; means over examples, not over batches."""
        self._model.eval()
        is_own = type(self).compute_metrics is not Hooks.compute_metrics
        measures = Measures(self._loss, self.compute_metrics if is_own else None)
        for inputs, targets in batches.in_order(samples, self._device, loading=self._loading):
            measures.add(structures.call(self._model, inputs), targets, inputs)
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
        training = self._read(self._training) if self._counted is None else self._counted
        self._counted = None
        examples = batches.length(training)
        if not examples:
            message = "there are no examples to train on"
            raise WorkFailed(message)
        load_arrays(self._model, weights)
        generator = self._seeded(chosen.seed)
        fitting = self._fitting(training, chosen, correction)
        patience = Patience(chosen.patience_epochs)
        held_out = self._read(self._held_out) if chosen.patience_epochs else None
        loss, seen, metrics, partial = math.nan, 0, {}, False
        for number in range(1, chosen.epochs + 1):
            order = batches.shuffled(training, self._device, chosen.batch_size, generator, self._loading)
            epoch = self._epoch(fitting, order, stop, examples, chosen)
            if epoch.examples and not math.isfinite(epoch.loss):
                self._check_finite(chosen, weights)  # now, and not after all the epochs that are left
            loss = epoch.loss if epoch.examples else loss
            # A full pass has seen all, though it may leave a lonely last example out.
            seen = max(seen, epoch.examples if epoch.stopped else examples)
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
        return Fit(state_arrays(self._model), seen, metrics, partial, steps, trained_arrays(self._model))

    def _epoch(
        self,
        fitting: Fitting,
        order: batches.Batches,
        stop: Stop,
        examples: int,
        chosen: TrainingSettings,
    ) -> Epoch:
        """Train for an epoch; a mistake that PyTorch names by a layer's inside is explained."""
        try:
            return fitting.epoch(order, stop)
        except ValueError as error:
            self._explain(error, examples, chosen.batch_size)
            raise

    def _check_finite(self, chosen: TrainingSettings, weights: Arrays) -> None:
        way_out = (
            f"the training diverged. Choose a smaller learning_rate than {chosen.learning_rate:g}, set"
            " max_grad_norm, or look for inputs that are not finite"
        )
        check_finite_state(self._model, state_arrays(self._model), way_out, weights)

    def _explain(self, error: ValueError, examples: int, batch_size: int) -> None:
        """Raise the error of a batch that batch normalization cannot train on in words of the task."""
        if "more than 1 value per channel" not in str(error):
            return
        message = (
            f"batch normalization cannot train on one example at a time ({error}): this device has {examples}"
            f" examples, and batch_size is {batch_size}. Ask devices with more (minimum_examples), choose a"
            " larger batch_size, or another normalization, such as GroupNorm"
        )
        raise refused(message, self._place) from error

    def _is_enough(self, patience: Patience, held_out: Samples, train_loss: float) -> bool:
        """Judge an epoch on the held-out examples; on those of the training where none are held out."""
        return patience.exhausted(self.measure(held_out).metrics.get("loss", train_loss), self._model)

    def _fitting(self, training: Samples, chosen: TrainingSettings, correction: Arrays | None) -> Fitting:
        optimizer = self._optimizer(chosen)
        if correction is not None:
            check_plain(optimizer)
        steps = math.ceil(batches.length(training) / chosen.batch_size) * chosen.epochs
        return Fitting(
            self._model,
            self._loss,
            optimizer,
            proximal=chosen.proximal,
            class_weights=self._weights_of_classes(training) if chosen.class_weights == "balanced" else None,
            autocast=self._arithmetic(training, chosen),
            corrections=corrections_of(self._model, correction) if correction else (),
            max_grad_norm=chosen.max_grad_norm,
            scheduler=self.make_scheduler(optimizer, chosen, steps),
        )

    def _optimizer(self, chosen: TrainingSettings) -> Optimizer:
        """Return the optimizer; torch's own descent where a scheduler changes its learning rate."""
        parameters = self._trained_parameters()
        optimizer = self.make_optimizer(parameters, chosen)
        if isinstance(optimizer, Sgd) and type(self).make_scheduler is not Hooks.make_scheduler:
            return torch.optim.SGD(parameters, lr=chosen.learning_rate, momentum=chosen.momentum)
        return optimizer

    def _trained_parameters(self) -> list[Parameter]:
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        if not parameters:
            frozen = "requires_grad is False for all of them"
            has = frozen if list(self._model.parameters()) else "it has none at all"
            message = f"the model {type(self._model).__name__} has no parameters to train: {has}"
            raise refused(message, self._model, self._place)
        return parameters

    def _weights_of_classes(self, training: Samples) -> Tensor:
        self._model.eval()
        with torch.no_grad():
            outputs = structures.main_output(structures.call(self._model, self._batch(training, 1)[0]))
        if outputs is None:
            message = "class_weights is 'balanced', but the model's outputs are no classes' logits"
            raise refused(message, self._model, self._place)
        targets = batches.targets_of(training, self._loading)
        return balanced_weights(self._loss, targets, outputs.shape[-1]).to(outputs.device)

    def _arithmetic(self, training: Samples, chosen: TrainingSettings) -> torch.dtype | None:
        key = (chosen.precision, chosen.batch_size, chosen.seed is None)
        if key not in self._autocast:
            self._autocast[key] = precision.choose(
                self._model, self._loss, lambda: self._batch(training, chosen.batch_size), chosen
            )
        return self._autocast[key]

    def _batch(self, samples: Samples, size: int) -> tuple[Any, Any]:
        return next(batches.in_order(samples, self._device, size, self._loading))

    def _read(self, source: Source) -> Samples:
        return batches.read(source, self._place)

    def _seeded(self, seed: int | None) -> torch.Generator:
        """Return a generator for the order of examples, and seed what the model itself draws from."""
        seed = torch.seed() if seed is None else seed
        torch.manual_seed(seed)
        return torch.Generator().manual_seed(seed)
