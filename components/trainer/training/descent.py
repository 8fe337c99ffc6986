"""Stochastic gradient descent with momentum."""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.sgd import sgd

from components.trainer.training.settings import TrainingSettings


class Optimizer(Protocol):
    """What moves the parameters, once their gradients are there: any optimizer of torch's, or one's own."""

    def step(self) -> object:
        """Move the parameters."""


class Descent:
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
