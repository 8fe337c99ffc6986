"""The methods of ``TorchTask`` that a user's task overrides to choose a part of the training."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch.nn import Parameter

from components.trainer.training.sgd import Optimizer, Sgd, TrainingSettings


class Scheduler(Protocol):
    """A learning rate scheduler: any of torch.optim.lr_scheduler, or the user's own class."""

    def step(self) -> object:
        """Set the learning rate of the next step."""


class Hooks:
    """Hooks with their defaults; each may be overridden in a subclass of ``TorchTask``."""

    def make_optimizer(self, parameters: list[Parameter], settings: TrainingSettings) -> Optimizer:
        """Return the optimizer; called once per round.

        The default is stochastic gradient descent with momentum. Another optimizer:

            return torch.optim.AdamW(parameters, lr=settings.learning_rate)

        Args:
            parameters: the trained parameters of the model.
            settings: of this round.
        """
        return Sgd(parameters, settings)

    def make_scheduler(self, optimizer: Any, settings: TrainingSettings, steps: int) -> Scheduler | None:
        """Return a scheduler of the learning rate within a round; None, the default, keeps it constant.

        For example:

            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)

        From round to round, the run's setting ``training_by_round`` changes the learning rate.

        Args:
            optimizer: the one that ``make_optimizer`` returned.
            settings: of this round.
            steps: number of steps in the round; the scheduler is called after each.
        """
        del optimizer, settings, steps  # the learning rate stays constant
        return None

    def compute_metrics(self, outputs: Any, targets: Any) -> Mapping[str, float]:
        """Return additional metrics of an evaluation by name, such as F1 or AUC; the default has none.

        Args:
            outputs: of the model for all evaluated examples: a tensor of shape (n, ...) on the CPU, or a
                structure of such tensors.
            targets: of the same examples, in the same form.
        """
        del outputs, targets  # no additional metrics
        return {}
