"""Conversion of a model's state to named numpy arrays and back, each array in the model's own precision."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.runtime.component_errors import WorkFailed
from fedgrass.federation.weights import BFLOAT16, Arrays, finite

Entry = TypeVar("Entry")
Named = TypeVar("Named")


def wrapper_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes that wrappers put before the names of a model's arrays, the innermost first.

    ``torch.compile`` adds ``_orig_mod.``, ``DataParallel`` and ``DistributedDataParallel`` add ``module.``.
    The names of arrays do not have them, so that devices with and without such a wrapper share a model.
    """
    found = []
    for path, module in model.named_modules(remove_duplicate=False):
        start = f"{path}." if path else ""
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            found.append(f"{start}module.")
        elif isinstance(module._modules.get("_orig_mod"), nn.Module):  # noqa: SLF001 - its class is private
            found.append(f"{start}_orig_mod.")
    return tuple(reversed(found))


def canonical_name(name: str, prefixes: Iterable[str]) -> str:
    """Return the name of an array without the prefixes of wrappers.

    Args:
        name: as in the model's state.
        prefixes: from ``wrapper_prefixes``.
    """
    for prefix in prefixes:
        if name.startswith(prefix):
            outer = prefix[:-1].rpartition(".")[0]
            name = f"{outer}.{name[len(prefix) :]}" if outer else name[len(prefix) :]
    return name


def canonical(model: nn.Module, entries: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
    """Return entries of a model's state, such as its named parameters, by the names of arrays."""
    prefixes = wrapper_prefixes(model)
    return {canonical_name(name, prefixes): entry for name, entry in entries}


def named_as(given: Iterable[str], model: nn.Module, arrays: Mapping[str, Named]) -> dict[str, Named]:
    """Return what is known of a model's arrays under the names that a global model gives them.

    They differ for the models of older versions, which have the prefixes of wrappers.
    """
    prefixes = wrapper_prefixes(model)
    names = {canonical_name(name, prefixes): name for name in given}
    return {names.get(name, name): found for name, found in arrays.items()}


def state_arrays(model: nn.Module) -> dict[str, NDArray[np.generic]]:
    """Return copies of a model's parameters and persistent buffers as numpy arrays, by name.

    Shapes and dtypes are those of the model; bfloat16 becomes ``fedgrass.federation.weights.BFLOAT16``.

    Raises:
        WorkFailed: an entry has a dtype unknown to numpy, such as float8, or is not a tensor with values.
    """
    state = canonical(model, model.state_dict().items())
    return {name: _array(name, value) for name, value in state.items()}


def trained_arrays(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that require gradients; a tied parameter has several names."""
    parameters = canonical(model, model.named_parameters(remove_duplicate=False))
    return frozenset(name for name, parameter in parameters.items() if parameter.requires_grad)


def load_arrays(model: nn.Module, weights: Arrays) -> None:
    """Load weights into a model's parameters and persistent buffers, converted to the model's dtypes.

    Raises:
        WorkFailed: names or shapes are not those of the model, or its dtype cannot hold the values; the text
            names the first such array.
    """
    prefixes = wrapper_prefixes(model)
    names = {canonical_name(name, prefixes): name for name in model.state_dict()}
    weights = {canonical_name(name, prefixes): array for name, array in weights.items()}
    state = canonical(model, model.state_dict().items())
    own = {name: _entry(name, value) for name, value in state.items()}
    expected = {name: tuple(value.shape) for name, value in own.items()}
    found = {name: tuple(array.shape) for name, array in weights.items()}
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            message = (
                f"the global model does not fit this task's: array {name!r} is {found.get(name, 'missing')}"
                f" there and {expected.get(name, 'missing')} here"
            )
            raise WorkFailed(message)
    model.load_state_dict({names[name]: _tensor(name, array, own[name]) for name, array in weights.items()})


def _tensor(name: str, array: NDArray[np.generic], own: Tensor) -> Tensor:
    """Return a copy of an array as a tensor with the dtype of the model's own.

    Raises:
        WorkFailed: the array is of another kind of number, or has values that the dtype cannot hold.
    """
    # torch.tensor copies, as is necessary: the arrays are read-only views of the downloaded file.
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


def check_finite_state(model: nn.Module, arrays: Arrays, advice: str, before: Arrays | None = None) -> None:
    """Check that no parameter or buffer contains infinity or NaN.

    Args:
        model: the model.
        arrays: its state, by name.
        advice: ends the message about a parameter, or about a buffer that the training has changed.
        before: the state before the training; None if there was none.

    Raises:
        WorkFailed: an array is not finite; the text names the first one and gives advice.
    """
    parameters = canonical(model, model.named_parameters(remove_duplicate=False))
    for name, array in arrays.items():
        good = finite(array)
        if good.all():
            continue
        was_finite = before is not None and finite(before[name]).all()
        is_nan = array.dtype.kind == "f" and bool(np.isnan(array).any())
        if name in parameters or was_finite or is_nan:
            count = int((~good).sum())
            message = f"array {name!r} has {count} values that are not finite: {advice}"
            raise WorkFailed(message)
        message = (
            f"the buffer {name!r} holds infinite values, such as those of an attention mask, which cannot be"
            " averaged: register it with persistent=False, so that it is not sent, or use a bool mask"
        )
        raise WorkFailed(message)


def _entry(name: str, value: object) -> Tensor:
    """Return an entry of a model's state, checked to be a tensor with values."""
    if not isinstance(value, Tensor):
        message = (
            f"the model's state has {name!r}, a {type(value).__name__}: only tensors can be averaged. Keep it"
            " in an attribute instead of get_extra_state, or make it a tensor (register_buffer)"
        )
        raise WorkFailed(message)
    if nn.parameter.is_lazy(value):
        message = (
            f"the model's array {name!r} has no shape yet, as in a lazy layer: give the layer its sizes, or"
            " call the model once in make_model"
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
            f"the model's array {name!r} is {value.dtype}, which numpy and the averaging do not support:"
            " create the model in float32 (the training setting `precision` is for faster arithmetic)"
        )
        raise WorkFailed(message) from error
