"""What SCAFFOLD needs of a training: plain steps, and its corrections as tensors.

The control variates are mean gradients only if each step is the learning rate times the gradient: with
momentum or an adaptive optimizer the method would quietly be another.
"""

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from components.trainer.errors import WorkFailed
from components.trainer.tasks.task import GradientSteps, Settings
from components.trainer.training.arrays import trained_arrays
from components.trainer.training.descent import Descent, Optimizer
from components.trainer.training.settings import TrainingSettings, parse_training_settings
from fedgrass.federation.weights import Arrays

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
    if not isinstance(optimizer, Descent):
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
