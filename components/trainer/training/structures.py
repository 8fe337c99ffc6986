"""Batches and outputs of any structure: tensors, and dicts, tuples and lists of them.

A batch is split into inputs and targets:

    (inputs, targets)            a pair; each may itself be a dict or a tuple
    (first, second, targets)     several inputs, passed as positional arguments, and the target
    {"labels": ..., ...}         inputs passed as keyword arguments; the target too if ``forward`` accepts it
    inputs, or (inputs,)         no target: the target is the input itself, as for an autoencoder
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from components.trainer.training.source_location import work_failed

_TARGET_NAMES = ("labels", "label", "targets", "target", "y")  # the first that a batch has is its target
_OUTPUT_NAMES = ("logits", "out", "output", "prediction")  # as in Hugging Face and torchvision


def split(batch: Any, model: nn.Module) -> tuple[Any, Any]:
    """Return the inputs and the targets of a batch; targets are None for a dict without a target's name.

    Raises:
        WorkFailed: the batch has another structure.
    """
    if isinstance(batch, Tensor):
        return batch, batch
    if isinstance(batch, Mapping):
        name = next((name for name in _TARGET_NAMES if name in batch), None)
        if name is None:
            return batch, None
        return {key: batch[key] for key in batch if key != name or name in _takes(model)}, batch[name]
    if isinstance(batch, tuple | list) and batch:
        *inputs, targets = batch
        if not inputs:
            return targets, targets
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), targets
    message = (
        f"a batch is {describe(batch)}: give examples as (input, target) or as dicts, or override"
        " split_batch, which returns the inputs and the targets of a batch"
    )
    raise work_failed(message)


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model: a dict of inputs as keyword arguments, a tuple or list as positional arguments.

    Raises:
        WorkFailed: the model's ``forward`` takes other arguments.
    """
    keywords: Mapping[str, Any] = inputs if isinstance(inputs, Mapping) else {}
    positional: tuple[Any, ...] = (inputs,)
    if isinstance(inputs, Mapping):
        positional = ()
    elif isinstance(inputs, tuple | list):
        positional = tuple(inputs)
    try:
        return model(*positional, **keywords)
    except TypeError as error:
        try:
            inspect.signature(model.forward).bind(*positional, **keywords)
        except TypeError as mismatch:
            message = (
                f"{type(model).__name__}.forward cannot take a batch's inputs, {describe(inputs)}:"
                f" {mismatch}. The last entry of a tuple is the target"
                " (docs/own_task.md, examples of any structure)"
            )
            raise work_failed(message, model) from error
        raise


def main_output(outputs: Any) -> Tensor | None:
    """Return the tensor to compare with the targets; None if there is none.

    It is the outputs themselves, or their entry or attribute ``logits``, ``out``, ``output``, ``prediction``.
    """
    if isinstance(outputs, Tensor):
        return outputs
    for name in _OUTPUT_NAMES:
        found = _part(outputs, name)
        if isinstance(found, Tensor):
            return found
    return None


def named_output(outputs: Any) -> Tensor:
    """Return ``main_output``.

    Raises:
        ValueError: there is none.
    """
    found = main_output(outputs)
    if found is None:
        message = f"the outputs {describe(outputs)} have no tensor with a known name, such as logits"
        raise ValueError(message)
    return found


def own_loss(outputs: Any) -> Tensor | None:
    """Return the loss in a model's outputs, as Hugging Face models compute it; None if there is none."""
    found = None if isinstance(outputs, Tensor) else _part(outputs, "loss")
    return found if isinstance(found, Tensor) else None


def to_device(part: Any, device: torch.device) -> Any:
    """Return a structure with everything that has a method ``to`` moved to ``device``."""
    return _mapped(part, lambda leaf: leaf.to(device) if hasattr(leaf, "to") else leaf)


def to_float(outputs: Any) -> Any:
    """Convert floating-point tensors in plain containers to float32; other objects are returned unchanged."""

    def convert(leaf: Any) -> Any:
        return leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return _mapped(outputs, convert) if type(outputs) in {Tensor, dict, tuple, list} else outputs


def detached(part: Any) -> Any:
    """Return a structure with its tensors moved to the CPU, without gradients."""
    return _mapped(part, lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf)


def joined(parts: list[Any]) -> Any:
    """Combine the structures of several batches: tensors are concatenated, anything else becomes a list."""
    first = parts[0]
    if isinstance(first, Tensor):
        same = first.ndim and all(
            isinstance(part, Tensor) and part.shape[1:] == first.shape[1:] for part in parts
        )
        return torch.cat(parts) if same else parts
    if isinstance(first, Mapping):
        return {name: joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple | list) and first:
        return tuple(joined(list(column)) for column in zip(*parts, strict=True))
    return parts


def count(inputs: Any, targets: Any) -> int:
    """Return the number of examples in a batch: the length of its first tensor.

    Raises:
        WorkFailed: the batch contains neither a tensor nor an object with a length.
    """
    for part in (targets, inputs):
        if isinstance(part, tuple | list) and part and all(isinstance(entry, Mapping) for entry in part):
            return len(part)  # a dict per example, as in object detection
        for leaf in _leaves(part):
            if isinstance(leaf, Tensor):
                return len(leaf) if leaf.ndim else 1
    for part in (targets, inputs):
        if hasattr(part, "__len__"):
            return len(part)
    message = f"cannot count the examples of a batch of {describe(inputs)}: it contains no tensor"
    raise work_failed(message)


def describe(part: Any) -> str:
    """Return a short description of a structure, such as ``{'input_ids': torch.int64 (32, 128)}``."""
    if isinstance(part, Tensor):
        return f"{part.dtype} {tuple(part.shape)}"
    if isinstance(part, Mapping):
        return "{" + ", ".join(f"{name!r}: {describe(value)}" for name, value in part.items()) + "}"
    if isinstance(part, tuple | list):
        return "(" + ", ".join(map(describe, part)) + ")"
    return f"a {type(part).__name__}"


def _takes(model: nn.Module) -> set[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}


def _part(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def _mapped(part: Any, change: Callable[[Any], Any]) -> Any:
    """Apply ``change`` to each leaf of a structure; mappings become plain dicts."""
    if isinstance(part, Tensor) or (hasattr(part, "to") and not isinstance(part, Mapping)):
        return change(part)
    if isinstance(part, Mapping):
        return {name: _mapped(value, change) for name, value in part.items()}
    if isinstance(part, tuple | list):
        made = (_mapped(value, change) for value in part)
        return type(part)(*made) if hasattr(part, "_fields") else type(part)(made)
    return change(part)


def _leaves(part: Any) -> Iterator[Any]:
    if isinstance(part, Mapping):
        for value in part.values():
            yield from _leaves(value)
    elif isinstance(part, tuple | list):
        for value in part:
            yield from _leaves(value)
    else:
        yield part
