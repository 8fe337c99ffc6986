"""Networks whose parameters are float16, bfloat16 or float64: they take data in float32 all the same."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_HALVES = (torch.float16, torch.bfloat16)


def accept_float32(model: nn.Module) -> nn.Module:
    """Return the model; if all its parameters are of one other precision, its inputs are converted to that.

    A data set has float32, whatever the network computes in. The outputs of a half precision are converted
    back for the loss: a mean over many examples needs more than the 8 binary digits of bfloat16. Models of
    mixed precision convert by themselves where they want it.
    """
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if len(types) != 1 or types == {torch.float32}:
        return model
    own = types.pop()

    def to_own(tensor: Tensor) -> Tensor:
        return tensor.to(own)

    def before(_model: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return _each_float(args, to_own), _each_float(kwargs, to_own)

    def after(_model: nn.Module, _args: Any, outputs: Any) -> Any:
        return _each_float(outputs, Tensor.float)

    model.register_forward_pre_hook(before, with_kwargs=True)
    if own in _HALVES:
        model.register_forward_hook(after)
    return model


def _each_float(values: Any, convert: Callable[[Tensor], Tensor]) -> Any:
    """Return tensors, and plain lists, tuples and dicts of them, with the floats among them converted."""
    if isinstance(values, Tensor):
        return convert(values) if values.is_floating_point() else values
    if type(values) in {list, tuple}:
        return type(values)(_each_float(value, convert) for value in values)
    if type(values) is dict:
        return {name: _each_float(value, convert) for name, value in values.items()}
    return values
