"""ONNX files of a task's module with the weights of a model, exported by PyTorch."""

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.trainer.training.torch_task import TorchTask
from fedgrass.federation.errors import SettingsError
from fedgrass.local.model_files.fitting_models import GivenTask, fitted_model
from fedgrass.local.task_loading import explain
from fedgrass.sources import install_extra

_MISSING = f"the export to ONNX needs the packages onnx and onnxscript: {install_extra('onnx')}"
_EXAMPLES = 2  # of the input: with a single one, the exporter would fix the size of the batch


def export_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Write the model in a safetensors file as an ONNX file of the task's module.

    ``options`` has ``model``, ``target`` and ``result``, the paths of three files; ``task``; and ``about``,
    texts by name that the file carries.
    """
    note("export to ONNX")
    given = GivenTask(**options["task"])
    found = fitted_model(given, Path(options["model"]).read_bytes())
    if not isinstance(found.task, TorchTask):
        message = f"the task {given.name} is not a TorchTask, so it has no PyTorch module to export"
        raise SettingsError(message)
    module, inputs = found.task.module(found.arrays, _EXAMPLES)
    batch = write_onnx(module, inputs, Path(options["target"]), options["about"])
    told = [
        found.note,
        "" if batch else f"the batch size is fixed at {_EXAMPLES}: the module did not allow others",
    ]
    Path(options["result"]).write_text(json.dumps({"note": "; ".join(filter(None, told))}), encoding="utf-8")
    return 0


def write_onnx(module: nn.Module, inputs: Any, target: Path, about: Mapping[str, str]) -> bool:
    """Write a module as an ONNX file.

    Args:
        module: in evaluation mode, on the CPU.
        inputs: an example batch: a tensor, a dict of keyword arguments, or a tuple of positional ones.
        target: the file.
        about: texts by name, for the file's metadata.

    Returns:
        Whether the first dimension of all inputs may have any size.

    Raises:
        SettingsError: the packages are missing, or the module cannot be exported.
    """
    keywords = dict(inputs) if isinstance(inputs, Mapping) else {}
    positional = () if keywords else tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    batch = torch.export.Dim("batch")
    shapes: Any = (
        {name: _first(value, batch) for name, value in keywords.items()}
        if keywords
        else tuple(_first(value, batch) for value in positional)
    )
    try:
        program = _export(module, positional, keywords, shapes)
        is_dynamic = True
    except SettingsError:
        raise
    except Exception:  # noqa: BLE001 - the exporter raises many kinds; without a free size it may succeed
        try:
            program, is_dynamic = _export(module, positional, keywords, None), False
        except Exception as error:
            message = f"the module cannot be exported to ONNX: {explain(error)[:500]}"
            raise SettingsError(message) from error
    program.model.metadata_props.update(about)
    program.save(str(target))
    return is_dynamic


def _export(module: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any], shapes: Any) -> Any:
    names = list(keywords) or (
        ["input"] if len(positional) == 1 else [f"input_{number}" for number in range(len(positional))]
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                module,
                positional,
                kwargs=keywords or None,
                dynamo=True,
                input_names=names,
                dynamic_shapes=shapes,
                verbose=False,
            )
    except ImportError as error:
        raise SettingsError(_MISSING) from error


def _first(value: Any, batch: Any) -> Any:
    """Return the dimensions of an input that may have any size."""
    return {0: batch} if isinstance(value, Tensor) and value.dim() else None
