"""Tensors from and to numpy: a model's state as named arrays, and an application's inputs."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import InputRefused
from fedgrass.federation.weights import BFLOAT16, Arrays, finite


def state_arrays(model: nn.Module) -> dict[str, NDArray[np.generic]]:
    """Return the parameters and buffers of a model as numpy arrays of their own; bfloat16 as ``BFLOAT16``.

    Raises:
        WorkFailed: an array has a type that numpy does not know, such as float8, or is no array at all.
    """
    return {name: _array(name, value) for name, value in model.state_dict().items()}


def trained_arrays(model: nn.Module) -> frozenset[str]:
    """Return the names of the arrays that gradients move; a tied parameter has several names."""
    parameters = model.named_parameters(remove_duplicate=False)
    return frozenset(name for name, parameter in parameters if parameter.requires_grad)


def load_arrays(model: nn.Module, weights: Arrays) -> None:
    """Set the parameters and buffers of a model, each in the model's own precision.

    Raises:
        WorkFailed: the weights are not this model's; the text names the first array that differs.
    """
    own = {name: _entry(name, value) for name, value in model.state_dict().items()}
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


def check_finite_state(model: nn.Module, arrays: Arrays, way_out: str, before: Arrays | None = None) -> None:
    """Check that no parameter or buffer holds infinities or NaN.

    Args:
        model: whose arrays they are.
        arrays: by their names.
        way_out: for a parameter, or a buffer that training changed.
        before: the arrays before the training; None: there was none.

    Raises:
        WorkFailed: the text names the first such array, and what is likely to be done.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, array in arrays.items():
        good = finite(array)
        if good.all():
            continue
        was_finite = before is not None and finite(before[name]).all()
        is_nan = array.dtype.kind == "f" and bool(np.isnan(array).any())
        if name in parameters or was_finite or is_nan:
            count = int((~good).sum())
            message = f"array {name!r} has {count} values that are not finite: {way_out}"
            raise WorkFailed(message)
        message = (
            f"the buffer {name!r} holds infinite values, such as those of an attention mask, which cannot be"
            " averaged: register it with persistent=False, so that it is not sent, or keep a bool mask"
        )
        raise WorkFailed(message)


def _entry(name: str, value: object) -> Tensor:
    """Return an entry of a model's state, if it is a tensor with values."""
    if not isinstance(value, Tensor):
        message = (
            f"the model's state has {name!r}, a {type(value).__name__}: only tensors can be averaged. Keep it"
            " in an attribute instead of get_extra_state, or make it a tensor (register_buffer)"
        )
        raise WorkFailed(message)
    if nn.parameter.is_lazy(value):
        message = (
            f"the model's array {name!r} has no shape yet, as of a lazy layer: give the layer its sizes, or"
            " let make_model call the model once"
        )
        raise WorkFailed(message)
    return value


def _array(name: str, state: object) -> NDArray[np.generic]:
    value = _entry(name, state).detach().cpu()
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


def read_inputs(inputs: Sequence[object], like: Tensor | None) -> Tensor:
    """Return inputs as one tensor, of the shape (number of inputs, ...) and the type of ``like``.

    Args:
        inputs: numbers in nested lists, or arrays, one entry for each input.
        like: one input of the task's own data; None if there is none, and then nothing is known of the shape.

    Raises:
        InputRefused: an input is no array of numbers, or not of the shape; the text says which one.
    """
    shape = tuple(like.shape) if like is not None else None
    arrays = [_input_array(number, value) for number, value in enumerate(inputs)]
    shape = arrays[0].shape if shape is None and arrays else shape
    for number, array in enumerate(arrays):
        if array.shape != shape:
            message = f"inputs[{number}] has the shape {array.shape}; the model takes {shape}"
            raise InputRefused(message)
    return torch.from_numpy(np.stack(arrays)).to(like.dtype if like is not None else torch.float32)


def _input_array(number: int, value: object) -> np.ndarray:
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
