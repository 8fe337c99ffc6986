"""A model's parameters and buffers as named numpy arrays, and back."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn, tensor

from components.trainer.errors import WorkFailed
from fedgrass.federation.weights import Arrays


def state_arrays(model: nn.Module) -> dict[str, NDArray[np.generic]]:
    """Return the parameters and buffers of a model as numpy arrays of their own.

    Raises:
        WorkFailed: an array has a type that numpy does not know, such as bfloat16, or is no array at all.
    """
    return {name: _array(name, value) for name, value in model.state_dict().items()}


def load_arrays(model: nn.Module, weights: Arrays) -> None:
    """Set the parameters and buffers of a model.

    Raises:
        WorkFailed: the weights are not this model's; the text names the first array that differs.
    """
    expected = {name: tuple(_tensor(name, value).shape) for name, value in model.state_dict().items()}
    found = {name: tuple(array.shape) for name, array in weights.items()}
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            message = (
                f"the global model does not fit this task's: array {name!r} is {found.get(name, 'missing')}"
                f" there and {expected.get(name, 'missing')} here"
            )
            raise WorkFailed(message)
    # torch.tensor copies: the arrays are read-only views into the downloaded file.
    model.load_state_dict({name: tensor(np.asarray(array)) for name, array in weights.items()})


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
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        was_finite = before is not None and np.isfinite(np.asarray(before[name])).all()
        if name in parameters or was_finite or np.isnan(array).any():
            count = int((~np.isfinite(array)).sum())
            message = f"array {name!r} has {count} values that are not finite: {way_out}"
            raise WorkFailed(message)
        message = (
            f"the buffer {name!r} holds infinite values, such as those of an attention mask, which cannot be"
            " averaged: register it with persistent=False, so that it is not sent, or keep a bool mask"
        )
        raise WorkFailed(message)


def _tensor(name: str, value: object) -> Tensor:
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
    value = _tensor(name, state)
    try:
        return np.array(value.detach().cpu().numpy())
    except TypeError as error:
        message = (
            f"the model's array {name!r} is of {value.dtype}, which numpy and the averaging do not know: make"
            " the model in float32 (the training setting `precision` is for faster arithmetic)"
        )
        raise WorkFailed(message) from error
