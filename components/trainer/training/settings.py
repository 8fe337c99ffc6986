"""What a run may choose of the training of a PyTorch module."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from components.trainer.errors import WorkFailed
from components.trainer.tasks.task import Settings
from fedgrass.federation.conversion import convert
from fedgrass.federation.errors import SettingsError


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
