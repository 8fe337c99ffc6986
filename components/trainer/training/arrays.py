"""A model's parameters and buffers as named numpy arrays, and back."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn, tensor

from components.trainer.errors import WorkFailed
from fedgrass.federation.weights import Arrays


def state_arrays(model: nn.Module) -> dict[str, NDArray[np.generic]]:
    """Return the parameters and buffers of a model as numpy arrays of their own.

    Raises:
        WorkFailed: an array has a type that numpy does not know, such as bfloat16.
    """
    return {name: _array(name, value) for name, value in model.state_dict().items()}


def trained_arrays(model: nn.Module) -> frozenset[str]:
    """Return the names of the arrays that gradients move; a tied parameter has several names."""
    parameters = model.named_parameters(remove_duplicate=False)
    return frozenset(name for name, parameter in parameters if parameter.requires_grad)


def load_arrays(model: nn.Module, weights: Arrays) -> None:
    """Set the parameters and buffers of a model.

    Raises:
        WorkFailed: the weights are not this model's; the text names the first array that differs.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
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


def _array(name: str, value: Tensor) -> NDArray[np.generic]:
    try:
        return np.array(value.detach().cpu().numpy())
    except TypeError as error:
        message = (
            f"the model's array {name!r} is of {value.dtype}, which numpy and the averaging do not know: make"
            " the model in float32 (the training setting `precision` is for faster arithmetic)"
        )
        raise WorkFailed(message) from error
