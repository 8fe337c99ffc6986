"""Files of PyTorch: a model's ``state_dict``, written and read with weights only, so that no code runs."""

import json
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import BFLOAT16, check_finite, encode
from fedgrass.local.model_files.fitting_models import GivenTask, arrays_of, fitted_model

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_NESTED = ("state_dict", "model_state_dict", "model")  # where checkpoints keep the weights


def export_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Write the model in a safetensors file as a PyTorch ``state_dict``.

    ``options`` has ``model``, ``target`` and ``result``, the paths of three files, and ``task``, whose arrays
    are added and whose order is kept, or None.
    """
    note("export")
    told = ""
    if options["task"]:
        found = fitted_model(GivenTask(**options["task"]), Path(options["model"]).read_bytes())
        arrays, told = dict(found.arrays), found.note
    else:
        arrays = arrays_of(Path(options["model"]))
    write_state_dict(arrays, Path(options["target"]))
    Path(options["result"]).write_text(json.dumps({"note": told}), encoding="utf-8")
    return 0


def read_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Write the weights in a file of PyTorch, ``source``, as a safetensors file, ``target``."""
    note("reading")
    arrays = read_state_dict(Path(options["source"]))
    check_finite(arrays)
    Path(options["target"]).write_bytes(encode(arrays, in_order=True))
    names = json.dumps({"arrays": len(arrays)})
    Path(options["result"]).write_text(names, encoding="utf-8")
    return 0


def write_state_dict(arrays: Mapping[str, NDArray[np.generic]], target: Path) -> None:
    """Write arrays as a ``state_dict`` that ``torch.load(weights_only=True)`` reads."""
    state = OrderedDict((name, _tensor(array)) for name, array in arrays.items())
    torch.save(state, target)


def read_state_dict(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a file of PyTorch by name, bfloat16 as ``BFLOAT16``.

    A checkpoint may have them below ``state_dict`` or ``model_state_dict``.

    Raises:
        SettingsError: it has anything but weights; the text names the first such thing.
    """
    _check_uncompressed(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about former formats
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = " ".join(str(error).split())
        if named := _GLOBAL.search(text):
            message = (
                f"{path} has more than weights: it refers to {named[1]}, which loading would run. Save"
                " model.state_dict() instead of the model"
            )
        else:
            message = f"{path} is not a file of weights that PyTorch can read: {_without_advice(text)[:300]}"
        raise SettingsError(message) from error
    return state_of(found, path)


def _without_advice(text: str) -> str:
    """Return the reason in PyTorch's error, without its advice to load the file with weights_only=False."""
    if "weights_only" not in text:
        return text
    reason = text.partition("WeightsUnpickler error: ")[2].partition(" Please file")[0]
    return reason if reason and "weights_only" not in reason else "it has more than weights, or is damaged"


def _check_uncompressed(path: Path) -> None:
    """Refuse an archive that unpacks to more than its size, before PyTorch reads all of it into memory.

    PyTorch stores the parts of its files uncompressed, so only a crafted archive does.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
    except zipfile.BadZipFile as error:
        message = f"{path} is a damaged archive: {error}"
        raise SettingsError(message) from error
    if unpacked > path.stat().st_size:
        message = (
            f"{path} has {path.stat().st_size:,} bytes and unpacks to {unpacked:,}: PyTorch does not compress"
            " its files, so it is not one of them"
        )
        raise SettingsError(message)


def state_of(found: object, path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a loaded object by name. Raises SettingsError if it is not a mapping of arrays."""
    if isinstance(found, Mapping):
        for key in _NESTED:
            if isinstance(found.get(key), Mapping):
                found = found[key]
                break
    if not isinstance(found, Mapping) or not found:
        message = f"{path} holds {type(found).__name__} and no state_dict: a mapping of names to arrays"
        raise SettingsError(message)
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor | np.ndarray):
            message = f"{path}: the entry {name!r} is {type(value).__name__}, and a model has only arrays"
            raise SettingsError(message)
        arrays[name] = _array(name, value)
    return arrays


def _array(name: str, value: Tensor | NDArray[np.generic]) -> NDArray[np.generic]:
    if isinstance(value, np.ndarray):
        return value
    if value.is_sparse or value.is_quantized or value.is_complex():
        message = f"the array {name!r} is {value.layout} of {value.dtype}, which models cannot have"
        raise SettingsError(message)
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        message = f"the array {name!r} repeats values of a smaller one: save it with .contiguous()"
        raise SettingsError(message)
    dense = value.detach().cpu().contiguous()
    if dense.dtype == torch.bfloat16:
        bits: NDArray[np.generic] = dense.view(torch.int16).numpy().view(BFLOAT16)
        return bits
    array: NDArray[np.generic] = dense.numpy()
    return array


def _tensor(array: NDArray[np.generic]) -> Tensor:
    if array.dtype == BFLOAT16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(array)  # a copy: the arrays are read-only views of the file
