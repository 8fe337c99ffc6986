"""The settings of training, stochastic gradient descent, and the plain steps that SCAFFOLD requires.

SCAFFOLD's control variates (Karimireddy et al., ICML 2020, https://arxiv.org/abs/1910.06378) are mean
gradients only if each step is the learning rate times the gradient. Momentum or an adaptive optimizer would
silently make it a different method, so they are refused.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, Protocol

import msgspec
import numpy as np
import torch
from msgspec import Meta, Struct
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim.sgd import sgd

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import GradientSteps, Settings
from components.trainer.training.arrays import canonical, trained_arrays
from fedgrass.federation.conversion import convert
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import Arrays


class TrainingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of training: one round on one device. docs/own_task.md describes them for users.

    Attributes:
        epochs: passes over the training examples per round.
        learning_rate: of the optimizer.
        momentum: of stochastic gradient descent.
        batch_size: number of examples per step.
        seed: of the order of examples and of dropout; None draws a new one for each round.
        proximal: FedProx's mu, see ``fitting.Fitting``.
        class_weights: ``balanced`` weights each class by ``losses.balanced_weights``.
        patience_epochs: stop after this number of epochs without a smaller held-out loss and keep the best
            state; 0: train all epochs.
        max_grad_norm: gradients are scaled down to this norm over all parameters; 0: no limit.
        precision: of the arithmetic, never of the weights; see ``precision.choose``.
    """

    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 1
    learning_rate: Annotated[float, Meta(gt=0)] = 0.01
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    batch_size: Annotated[int, Meta(ge=1)] = 32
    seed: int | None = None
    proximal: Annotated[float, Meta(ge=0)] = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    patience_epochs: Annotated[int, Meta(ge=0, le=10_000)] = 0
    max_grad_norm: Annotated[float, Meta(ge=0)] = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


def parse_training_settings(settings: Settings, defaults: TrainingSettings) -> TrainingSettings:
    """Return ``defaults`` overridden by a run's ``settings``.

    Raises:
        WorkFailed: a setting is unknown or out of range; the text names it.
    """
    chosen = {**msgspec.structs.asdict(defaults), **settings}
    try:
        return convert(chosen, TrainingSettings, whole="the run's training", part="the run's training.")
    except SettingsError as error:
        raise WorkFailed(str(error)) from error


class Optimizer(Protocol):
    """An optimizer: any of torch.optim, or the user's own class."""

    def step(self) -> object:
        """Update the parameters by their current gradients."""


class Sgd:
    """Stochastic gradient descent with momentum, by the function behind ``torch.optim.SGD``.

    The first use of ``torch.optim.SGD`` imports torch's compiler, which takes 2 seconds in a new worker on a
    laptop and 10 on a small device.
    """

    def __init__(self, parameters: Iterable[Parameter], settings: TrainingSettings) -> None:
        self._parameters = list(parameters)
        self._momenta: list[Tensor | None] = [None] * len(self._parameters)
        self._settings = settings

    @torch.no_grad()
    def step(self) -> None:
        """Update each parameter that has a gradient."""
        moved = [index for index, parameter in enumerate(self._parameters) if parameter.grad is not None]
        momenta = [self._momenta[index] for index in moved]
        sgd(
            [self._parameters[index] for index in moved],
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
        for index, momentum in zip(moved, momenta, strict=True):
            self._momenta[index] = momentum


# Early stopping is excluded because it restores an earlier state, which undoes steps.
_PLAIN = {"momentum": 0.0, "patience_epochs": 0, "max_grad_norm": 0.0}


def parse_plain_settings(settings: Settings, defaults: TrainingSettings) -> TrainingSettings:
    """Return ``defaults``, changed to plain gradient steps, overridden by a run's ``settings``.

    Raises:
        WorkFailed: a setting is unknown, out of range, or not compatible with plain steps; the text names it.
    """
    chosen = parse_training_settings(settings, msgspec.structs.replace(defaults, **_PLAIN))
    for name, plain in _PLAIN.items():
        if getattr(chosen, name) != plain:
            message = (
                f"the run's training.{name} is {settings[name]!r}; the aggregation scaffold needs plain"
                f" gradient steps: leave it out, or set it to {plain:g}"
            )
            raise WorkFailed(message)
    return chosen


def check_plain(optimizer: Optimizer) -> None:
    """Check that an optimizer takes plain gradient steps.

    Raises:
        WorkFailed: it is not ``Sgd``.
    """
    if not isinstance(optimizer, Sgd):
        message = (
            f"the task trains with {type(optimizer).__name__}; the aggregation scaffold needs plain gradient"
            " steps: do not override make_optimizer, or choose another aggregation for the run"
        )
        raise WorkFailed(message)


def corrections_of(model: nn.Module, correction: Arrays) -> list[tuple[Parameter, Tensor]]:
    """Return pairs of a trained parameter and its correction, a tensor of the same shape, dtype and device.

    Raises:
        WorkFailed: a correction has another shape than its parameter; the text names the array.
    """
    found = []
    for name, parameter in canonical(model, model.named_parameters()).items():
        if parameter.requires_grad and name in correction:
            added = torch.tensor(np.asarray(correction[name]), dtype=parameter.dtype, device=parameter.device)
            if added.shape != parameter.shape:
                message = (
                    f"the correction of array {name!r} has the shape {tuple(added.shape)},"
                    f" the model has {tuple(parameter.shape)}"
                )
                raise WorkFailed(message)
            found.append((parameter, added))
    return found


def plain_steps(model: nn.Module, count: int, chosen: TrainingSettings) -> GradientSteps:
    """Return the ``count`` steps of training in the form that a ``Fit`` reports."""
    return GradientSteps(count, chosen.learning_rate, trained_arrays(model))
