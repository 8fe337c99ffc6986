"""Stochastic gradient descent: its settings, momentum, and the corrected plain steps of SCAFFOLD.

SCAFFOLD's control variates are mean gradients only if each step is the learning rate times the gradient:
with momentum or an adaptive optimizer it would silently be a different method.
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
from components.trainer.training.arrays import trained_arrays
from fedgrass.federation.conversion import convert
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import Arrays


class TrainingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The training of one round on one device; docs/own_task.md explains each setting."""

    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 1
    learning_rate: Annotated[float, Meta(gt=0)] = 0.01
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    batch_size: Annotated[int, Meta(ge=1)] = 32
    seed: int | None = None  # of the order of examples and of dropout; None draws a new one each time
    proximal: Annotated[float, Meta(ge=0)] = 0.0  # FedProx's mu; see fitting.py
    class_weights: Literal["none", "balanced"] = "none"
    patience_epochs: Annotated[int, Meta(ge=0, le=10_000)] = 0  # 0: all epochs are trained
    max_grad_norm: Annotated[float, Meta(ge=0)] = 0.0  # longer gradients are shortened to it; 0: none is
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the arithmetic, never of the weights


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


class Optimizer(Protocol):
    """What moves the parameters, once their gradients are there: any optimizer of torch's, or one's own."""

    def step(self) -> object:
        """Move the parameters."""


class Sgd:
    """Stochastic gradient descent with momentum, by torch's own function.

    ``torch.optim.SGD`` does the same through the same function, but its first use imports torch's compiler,
    which costs a new worker 2 seconds on a laptop and ten on a small device.
    """

    def __init__(self, parameters: Iterable[Parameter], settings: TrainingSettings) -> None:
        self._parameters = list(parameters)
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


# Early stopping goes back to a state of some steps ago.
_PLAIN = {"momentum": 0.0, "patience_epochs": 0, "max_grad_norm": 0.0}


def parse_plain_settings(settings: Settings, defaults: TrainingSettings) -> TrainingSettings:
    """Return ``settings`` over ``defaults``, of plain steps.

    Raises:
        WorkFailed: a setting is unknown, out of its range, or asks for other steps; the text names it.
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
    """Refuse an optimizer of the task's own. Raises WorkFailed."""
    if not isinstance(optimizer, Sgd):
        message = (
            f"the task trains with {type(optimizer).__name__}; the aggregation scaffold needs plain gradient"
            " steps: leave make_optimizer as it is, or choose another aggregation for the run"
        )
        raise WorkFailed(message)


def corrections_of(model: nn.Module, correction: Arrays) -> list[tuple[Parameter, Tensor]]:
    """Return each trained parameter that has a correction, with it.

    Raises:
        WorkFailed: the shapes differ; the text names the array.
    """
    found = []
    for name, parameter in model.named_parameters():
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
    """Return the steps that a training has taken."""
    return GradientSteps(count, chosen.learning_rate, trained_arrays(model))
