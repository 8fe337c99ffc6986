"""What a user's task may override of the training, and how its module is made."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn import Parameter

from components.trainer.training import structures
from components.trainer.training.descent import Descent, Optimizer
from components.trainer.training.fitting import Scheduler
from components.trainer.training.places import refused
from components.trainer.training.settings import TrainingSettings


class Hooks:
    """The methods of ``TorchTask`` that choose a part of the training; each has a default."""

    def make_optimizer(self, parameters: list[Parameter], settings: TrainingSettings) -> Optimizer:
        """Return what moves the parameters; called for each round. Override it for another optimizer.

        As in ``return torch.optim.AdamW(parameters, lr=settings.learning_rate)``.
        """
        return Descent(parameters, settings)

    def make_scheduler(self, optimizer: Any, settings: TrainingSettings, steps: int) -> Scheduler | None:
        """Return what changes the learning rate within a round, called after each of its ``steps``.

        As in ``return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)``. From round to
        round the run's ``training_by_round`` changes it.
        """
        del optimizer, settings, steps  # the learning rate stays as it is
        return None

    def compute_metrics(self, outputs: Any, targets: Any) -> Mapping[str, float]:
        """Return further metrics of an evaluation, such as F1 or AUC, of the outputs for all its examples."""
        del outputs, targets  # no further metrics
        return {}


def module_factory(make_model: Any, place: str) -> Callable[[], nn.Module]:
    """Return what makes the module: a module itself is copied, with its weights."""
    if isinstance(make_model, nn.Module):
        return lambda: copy.deepcopy(make_model)
    if not callable(make_model):
        message = f"make_model is {structures.describe(make_model)}: it has to be a function, or an nn.Module"
        raise refused(message, place)

    def make() -> nn.Module:
        made: object = make_model()
        if not isinstance(made, nn.Module):
            message = f"make_model returns {structures.describe(made)}: it has to return an nn.Module"
            raise refused(message, make_model, place)
        return made

    return make
