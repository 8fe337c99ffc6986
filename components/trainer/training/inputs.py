"""What an application sends to a model, checked and made a tensor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from components.trainer.tasks.task import InputRefused


def read_inputs(inputs: Sequence[object], like: Tensor | None) -> Tensor:
    """Return inputs as one tensor, of the shape (number of inputs, ...) and the type of ``like``.

    Args:
        inputs: numbers in nested lists, or arrays, one entry for each input.
        like: one input of the task's own data; None if there is none, and then nothing is known of the shape.

    Raises:
        InputRefused: an input is no array of numbers, or not of the shape; the text says which one.
    """
    shape = tuple(like.shape) if like is not None else None
    arrays = [_array(number, value) for number, value in enumerate(inputs)]
    shape = arrays[0].shape if shape is None and arrays else shape
    for number, array in enumerate(arrays):
        if array.shape != shape:
            message = f"inputs[{number}] has the shape {array.shape}; the model takes {shape}"
            raise InputRefused(message)
    return torch.from_numpy(np.stack(arrays)).to(like.dtype if like is not None else torch.float32)


def _array(number: int, value: object) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        message = (
            f"inputs[{number}] is no array: its rows have different lengths, or too many levels ({error})"
        )
        raise InputRefused(message) from error
    if array.dtype.kind not in "iufb" or not np.isfinite(array).all():
        message = f"inputs[{number}] holds something that is no finite number"
        raise InputRefused(message)
    return array
