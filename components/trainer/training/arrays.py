"""A model's parameters and buffers as named numpy arrays, and back."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.trainer.errors import WorkFailed
from fedgrass.federation.weights import BFLOAT16, Arrays


def state_arrays(model: nn.Module) -> dict[str, NDArray[np.generic]]:
    """Return the parameters and buffers of a model as numpy arrays of their own; bfloat16 as ``BFLOAT16``.

    Raises:
        WorkFailed: an array has a type that numpy does not know, such as float8.
    """
    return {name: _array(name, value) for name, value in model.state_dict().items()}


def load_arrays(model: nn.Module, weights: Arrays) -> None:
    """Set the parameters and buffers of a model, each in the model's own precision.

    Raises:
        WorkFailed: the weights are not this model's; the text names the first array that differs.
    """
    own = model.state_dict()
    expected = {name: tuple(value.shape) for name, value in own.items()}
    found = {name: tuple(array.shape) for name, array in weights.items()}
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            message = (
                f"the global model does not fit this task's: array {name!r} is {found.get(name, 'missing')}"
                f" there and {expected.get(name, 'missing')} here"
            )
            raise WorkFailed(message)
    model.load_state_dict({name: _tensor(name, array, own[name]) for name, array in weights.items()})


def _tensor(name: str, array: NDArray[np.generic], own: Tensor) -> Tensor:
    """Return an array as a tensor in the type of the model's own; what it holds is not shared.

    Raises:
        WorkFailed: it is of another kind, or has values that the type cannot hold.
    """
    # torch.tensor copies: the arrays are read-only views into the downloaded file.
    if array.dtype == BFLOAT16:
        given = torch.tensor(np.asarray(array).view(np.int16)).view(torch.bfloat16)
    else:
        given = torch.tensor(np.asarray(array))
    if given.dtype == own.dtype:
        return given
    converted = given.to(own.dtype)
    if _kind(given) != _kind(own):
        problem = "which is another kind of number"
    elif given.is_floating_point():
        fits = bool((converted.isfinite() | ~given.isfinite()).all())
        problem = "" if fits else "which cannot hold its values"
    else:
        problem = "" if torch.equal(converted.to(given.dtype), given) else "which cannot hold its values"
    if problem:
        message = (
            f"the global model does not fit this task's: array {name!r} is {given.dtype} there and"
            f" {own.dtype} here, {problem}"
        )
        raise WorkFailed(message)
    return converted


def _kind(tensor: Tensor) -> str:
    if tensor.dtype is torch.bool:
        return "true or false"
    return "float" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "whole number"


def _array(name: str, value: Tensor) -> NDArray[np.generic]:
    value = value.detach().cpu()
    if value.dtype is torch.bfloat16:
        return np.array(value.contiguous().view(torch.int16).numpy()).view(BFLOAT16)
    try:
        return np.array(value.numpy())
    except TypeError as error:
        message = (
            f"the model's array {name!r} is of {value.dtype}, which numpy and the averaging do not know: make"
            " the model in float32 (the training setting `precision` is for faster arithmetic)"
        )
        raise WorkFailed(message) from error
