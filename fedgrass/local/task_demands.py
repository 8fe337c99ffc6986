"""What a task must give back, whatever it does."""

from typing import TypeVar

import numpy as np

from components.trainer.reported_metrics import describe_unsent, sendable
from components.trainer.tasks.task import Fit
from fedgrass.federation import weights
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.weights import Arrays

Found = TypeVar("Found")


class CheckFailed(FedgrassError):
    """A task does not do what it must; the text says what, and the way out."""


def expect(found: object, kind: type[Found], method: str) -> Found:
    """Return what a method gave back, if it is of the right kind."""
    if not isinstance(found, kind):
        message = f"{method}() returns a {type(found).__name__}; it has to return a {kind.__name__}"
        raise CheckFailed(message)
    return found


def check_arrays(first: Arrays, second: Arrays) -> None:
    """Check initial weights: numpy's, finite, and the same both times."""
    for name, array in first.items():
        if not isinstance(array, np.ndarray):
            message = f"initial_weights has {name!r} as a {type(array).__name__}: it takes numpy arrays"
            raise CheckFailed(message)
    weights.check_finite(first)
    same = first.keys() == second.keys()
    if not same or any(not np.array_equal(first[name], second[name]) for name in first):
        message = "initial_weights is another each time for the same seed: draw it from the seed alone"
        raise CheckFailed(message)


def through_a_file(arrays: Arrays) -> Arrays:
    """Return the arrays as a device gets them, read-only; bit for bit what they were."""
    back = read_arrays(weights.encode(arrays))
    for name, array in arrays.items():
        found = back[name]
        if (found.dtype, found.shape, found.tobytes()) != (array.dtype, array.shape, array.tobytes()):
            message = f"array {name!r} ({array.dtype}) does not come back from a file as it was"
            raise CheckFailed(message)
    return back


def read_arrays(data: bytes) -> Arrays:
    """Return the arrays of a file, those of BF16 marked as such."""
    layout = weights.read_layout(data, len(data))
    return {
        name: array.view(weights.BFLOAT16) if layout.arrays[name].dtype == "BF16" else array
        for name, array in weights.decode(data).items()
    }


def encode_update(fit: Fit, model: Arrays) -> bytes:
    """Return the update's file, which has to be one that the cloud takes."""
    weights.check_finite(fit.weights)
    base = weights.encode(model)
    layout = weights.read_layout(base, len(base))
    update = weights.encode(fit.weights)
    weights.check_layout(weights.read_layout(update, len(update)), layout)
    return update


def unsendable(metrics: object) -> str:
    """Return the metrics that a device would leave out, each with the reason; empty if all can be sent.

    Raises:
        CheckFailed: the loss is among them, by which a task is judged.
    """
    _, unsent = sendable(metrics)
    if reason := unsent.get("loss"):
        message = f"the metric 'loss' is {reason}: it cannot be sent"
        raise CheckFailed(message)
    return describe_unsent(unsent)


def check_report(fraction: float) -> None:
    """Check what a training reports of its progress."""
    if not 0 <= float(fraction) <= 1:
        message = f"report() was given {fraction}: it takes the part that is done, 0 to 1"
        raise CheckFailed(message)
