"""Predictions of a PyTorch module for applications: inputs from JSON to a tensor, outputs to nested lists."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.trainer.tasks.task import InputRefused, Predict
from components.trainer.training import structures
from components.trainer.training.source_location import work_failed


def make_predict(model: nn.Module, device: torch.device, like: Any, location: str) -> Predict:
    """Return a function from inputs to the outputs of a model, both as nested lists.

    Args:
        model: with its weights, on ``device``; it must not be used elsewhere.
        device: where to compute.
        like: one input of the task's own data, which determines shape and dtype; None if there is none.
        location: of the task in the user's file, for messages.

    Raises:
        WorkFailed: the model's input is not a single tensor.
    """
    if like is not None and not isinstance(like, Tensor):
        message = (
            f"the model's inputs are {structures.describe(like)}: TorchTask serves only models with one input"
            " tensor. Override predictor to convert the applications' inputs"
        )
        raise work_failed(message, location)
    model.eval()

    def predict(inputs: Sequence[object]) -> list[object]:
        batch = read_inputs(inputs, like).to(device)
        try:
            with torch.no_grad():
                outputs: list[object] = structures.named_output(model(batch)).cpu().tolist()
        except (RuntimeError, IndexError, ValueError) as error:
            message = f"the model cannot take these inputs: {str(error).splitlines()[0]}"
            raise InputRefused(message) from error
        return outputs

    return predict


def read_inputs(inputs: Sequence[object], like: Tensor | None) -> Tensor:
    """Convert the inputs of applications to one tensor of shape (number of inputs, ...).

    Args:
        inputs: for each input a number, a nested list of numbers, or an array.
        like: one input of the task's own data, whose shape and dtype all inputs must have; None: the shape of
            the first input, and float32.

    Raises:
        InputRefused: an input is not an array of finite numbers, or has another shape; the text names it.
    """
    shape = tuple(like.shape) if like is not None else None
    arrays = [_input_array(number, value) for number, value in enumerate(inputs)]
    shape = arrays[0].shape if shape is None and arrays else shape
    for number, array in enumerate(arrays):
        if array.shape != shape:
            message = f"inputs[{number}] has the shape {array.shape}; the model takes {shape}"
            raise InputRefused(message)
    return torch.from_numpy(np.stack(arrays)).to(like.dtype if like is not None else torch.float32)


def _input_array(number: int, value: object) -> NDArray[np.generic]:
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        message = (
            f"inputs[{number}] is not an array: its rows differ in length or are nested too deeply ({error})"
        )
        raise InputRefused(message) from error
    if array.dtype.kind not in "iufb" or not np.isfinite(array).all():
        message = f"inputs[{number}] contains something that is not a finite number"
        raise InputRefused(message)
    return array
