"""Batches and outputs of any structure: tensors, and dicts, tuples and lists of them.

A batch becomes inputs and targets:

    (inputs, targets)            a pair, as most data sets give it; each may be a dict or a tuple itself
    (first, second, targets)     several inputs, which the model takes one after the other, and the target
    {"labels": ..., ...}         by names; the model takes the others so, and the target too if it asks for it
    inputs, or (inputs,)         no target: the inputs themselves, as of an auto-encoder
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from components.trainer.training.places import refused

TARGET_NAMES = ("labels", "label", "targets", "target", "y")  # of a batch by names: the first that it has
OUTPUT_NAMES = ("logits", "out", "output", "prediction")  # of outputs by names: Hugging Face's, torchvision's


def split(batch: Any, model: nn.Module) -> tuple[Any, Any]:
    """Return the inputs and the targets of a batch; the targets are None if they have no name.

    Raises:
        WorkFailed: the batch has another structure.
    """
    if isinstance(batch, Tensor):
        return batch, batch
    if isinstance(batch, Mapping):
        name = next((name for name in TARGET_NAMES if name in batch), None)
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
    raise refused(message)


def call(model: nn.Module, inputs: Any) -> Any:
    """Return the model's outputs: a dict of inputs goes in by name, a tuple one after the other.

    Raises:
        WorkFailed: the model's ``forward`` takes other arguments.
    """
    by_name: Mapping[str, Any] = inputs if isinstance(inputs, Mapping) else {}
    in_turn = tuple(inputs) if isinstance(inputs, tuple | list) and not by_name else (inputs,)
    try:
        return model(**by_name) if isinstance(inputs, Mapping) else model(*in_turn)
    except TypeError as error:
        try:
            inspect.signature(model.forward).bind(
                *(() if isinstance(inputs, Mapping) else in_turn), **by_name
            )
        except TypeError as mismatch:
            message = (
                f"{type(model).__name__}.forward cannot take a batch's inputs, {describe(inputs)}: "
                f"{mismatch}."
                " Of a tuple the last entry is the target (docs/own_task.md, examples of any structure)"
            )
            raise refused(message, model) from error
        raise


def main_output(outputs: Any) -> Tensor | None:
    """Return the tensor that is compared with the targets: the outputs, or the one that has a usual name."""
    if isinstance(outputs, Tensor):
        return outputs
    for name in OUTPUT_NAMES:
        found = _part(outputs, name)
        if isinstance(found, Tensor):
            return found
    return None


def named_output(outputs: Any) -> Tensor:
    """Return the same; raises ValueError if there is none."""
    found = main_output(outputs)
    if found is None:
        message = f"outputs {describe(outputs)} have no tensor of a usual name, such as logits"
        raise ValueError(message)
    return found


def own_loss(outputs: Any) -> Tensor | None:
    """Return the loss that the model computed itself, as Hugging Face's do; None if there is none."""
    found = None if isinstance(outputs, Tensor) else _part(outputs, "loss")
    return found if isinstance(found, Tensor) else None


def to_device(part: Any, device: torch.device) -> Any:
    """Return a structure with all that can be moved on ``device``."""
    return _mapped(part, lambda leaf: leaf.to(device) if hasattr(leaf, "to") else leaf)


def to_float(outputs: Any) -> Any:
    """Return outputs with floating-point tensors in float32; objects other than containers as they are."""

    def convert(leaf: Any) -> Any:
        return leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return _mapped(outputs, convert) if type(outputs) in {Tensor, dict, tuple, list} else outputs


def detached(part: Any) -> Any:
    """Return a structure with its tensors on the processor and without gradients."""
    return _mapped(part, lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf)


def joined(parts: list[Any]) -> Any:
    """Return one structure of the batches' ones: tensors are concatenated, anything else is a list."""
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
        WorkFailed: there is no tensor.
    """
    for part in (targets, inputs):
        if isinstance(part, tuple | list) and part and all(isinstance(entry, Mapping) for entry in part):
            return len(part)  # a dict per example, as of boxes in images
        for leaf in _leaves(part):
            if isinstance(leaf, Tensor):
                return len(leaf) if leaf.ndim else 1
    for part in (targets, inputs):
        if hasattr(part, "__len__"):
            return len(part)
    message = f"nobody can count the examples of a batch of {describe(inputs)}: it holds no tensor"
    raise refused(message)


def describe(part: Any) -> str:
    """Return a structure in short, such as ``{'input_ids': int64 (32, 128)}``."""
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
    """Return a structure with ``change`` made to each leaf; its containers become plain ones."""
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
