"""Which slice of the task's data each virtual device has, and what it is asked to do with it."""

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from fedgrass.simulation.fleets.device_conditions import DeviceConditions

# In errors of tasks on too few examples, see partition.py: other errors name the option `share` too.
_OF_SHARES = re.compile(r"\bat most [\d,]+ shares\b|\buse fewer (shares|devices)\b")


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


def too_many_slices(devices: Sequence[DeviceConditions], reason: str) -> str:
    """Return the error on a task that cannot be created for each device: with too little data, the way out.

    Args:
        devices: the fleet.
        reason: the error of the task, such as "at most 143 shares".
    """
    slices = number_of_slices(devices)
    if slices == 1 or not _OF_SHARES.search(reason):
        return reason
    return (
        f"{len(devices):,} virtual devices need {slices:,} slices of data: {reason}; take fewer --devices, or"
        " more data, or let several devices have the same slice with `slices = N` in a fleet file (--fleet)"
    )


def epochs_of(training: Mapping[str, object]) -> float:
    """Return the epochs of settings of the training; 1 if there are none, as for the durations."""
    epochs = training.get("epochs", 1)
    return float(epochs) if isinstance(epochs, int | float) and epochs > 0 else 1.0


def examples_of(device: DeviceConditions, available: int) -> int:
    """Return how many of the ``available`` examples of its slice a device trains on."""
    return available if device.examples is None else min(device.examples, available)
