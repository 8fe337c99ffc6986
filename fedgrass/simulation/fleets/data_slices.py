"""Which slice of the task's data each virtual device has, and what it is asked to do with it."""

from collections.abc import Sequence

from msgspec import Struct

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets.device_conditions import DeviceConditions


class AssignmentSize(Struct, frozen=True, kw_only=True):
    """What devices are asked to do in a round.

    Attributes:
        examples: in each slice of the data; 0: not known.
        epochs: of the training.
        download: bytes of the model.
        upload: bytes of an update.
    """

    examples: int = 0
    epochs: float = 1.0
    download: int = 0
    upload: int = 0


def number_of_slices(devices: Sequence[DeviceConditions]) -> int:
    """Return into how many slices the data is cut: the value of the task's option ``shares``."""
    return max((device.share for device in devices), default=-1) + 1


def check_slices(devices: Sequence[DeviceConditions], examples: int, task: str, smallest: int = 1) -> None:
    """Check that each slice can have enough examples.

    Args:
        devices: the fleet.
        examples: of training, which the task has in all.
        task: its name, for the error.
        smallest: number of examples that a slice needs.

    Raises:
        SettingsError: there are more slices than examples.
    """
    slices = number_of_slices(devices)
    if slices * smallest > examples:
        most = examples // smallest
        message = (
            f"{slices:,} devices need as many slices of data of at least {smallest:,} examples, and the task"
            f" {task} has {examples:,} examples to train on: take --devices {most} or fewer, or set"
            f" `slices = {most}` in a fleet file (--fleet), with which several devices have the same slice"
        )
        raise SettingsError(message)


def examples_of(device: DeviceConditions, available: int) -> int:
    """Return how many of the ``available`` examples of its slice a device trains on."""
    return available if device.examples is None else min(device.examples, available)
