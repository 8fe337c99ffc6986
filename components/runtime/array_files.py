"""Reads the private and frozen arrays that the trainer keeps (array_folders.py), and completes a model.

A run's model has the shared arrays only, but a task computes with all of its arrays. ``completed`` puts the
shared, private and frozen ones together, in the trainer's worker and in the predictor.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from fedgrass.federation import weights
from fedgrass.federation.encodings.array_types import bfloat16_to_float32, read_arrays
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import BFLOAT16, Arrays, dtype_of

ROUND, FROZEN_FILE = "round", "frozen_file"  # entries of the header's metadata


class PrivateArrays(Struct, frozen=True):
    """The private arrays of a run on this device.

    Attributes:
        arrays: by name, bfloat16 as ``BFLOAT16``; empty if the run has none.
        round: of the update with which they became valid.
        frozen_file: SHA-256 of the file with the run's frozen arrays; empty if the task brings them.
    """

    arrays: dict[str, NDArray[np.generic]]
    round: int = 0
    frozen_file: str = ""


def read_private(path: Path) -> PrivateArrays | None:
    """Return the private arrays in a file; None if it does not exist.

    Raises:
        UpdateRefused: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    _, metadata = weights.read_layout_and_metadata(data, len(data))
    weights.check_data(data)
    try:
        number = int(metadata.get(ROUND, "0"))
    except ValueError as error:
        message = f"its header has the round {metadata[ROUND]!r}"
        raise UpdateRefused(message) from error
    return PrivateArrays(read_arrays(data), number, metadata.get(FROZEN_FILE, ""))


def frozen_file_of(path: Path) -> str:
    """Return the SHA-256 of the frozen arrays that a file of private arrays goes with; empty if none.

    Only the header is read.

    Raises:
        UpdateRefused: the file is damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        prefix = file.read(weights.PREFIX)
        size = weights.header_size(prefix, path.stat().st_size)
        head = prefix + file.read(size - len(prefix))
    _, metadata = weights.read_layout_and_metadata(head, path.stat().st_size)
    return metadata.get(FROZEN_FILE, "")


def read_frozen(path: Path) -> dict[str, NDArray[np.generic]] | None:
    """Return the frozen arrays in a file that is named by its SHA-256; None if it does not exist.

    Raises:
        UpdateRefused: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if (digest := weights.sha256(data)) != path.stem:
        message = f"the file {path.name} has the SHA-256 {digest}"
        raise UpdateRefused(message)
    return read_arrays(data)


def mismatch(found: Arrays, own: Arrays) -> str:
    """Return why kept arrays cannot take the place of a task's own ones; empty if they can.

    Args:
        found: the kept arrays; they may have further ones than ``own``.
        own: the initial arrays, whose names, types and shapes they must have.
    """
    for name, array in own.items():
        if name not in found:
            return f"array {name!r} is not among them"
        if found[name].shape != array.shape:
            return f"array {name!r} has the shape {found[name].shape} there and {array.shape} in the task"
        there, here = dtype_of(name, found[name]), dtype_of(name, array)
        if there != here:
            return f"array {name!r} has the type {there} there and {here} in the task"
    return ""


def completed(own: Arrays, *parts: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """Return all arrays of a task, in its own order and in the types that tasks get.

    Args:
        own: the initial arrays of the task.
        parts: frozen, private and shared arrays by name, which take the place of initial ones; of several
            arrays of a name the last.
    """
    complete: dict[str, NDArray[np.generic]] = dict(own)
    for part in parts:
        complete.update(part)
    return {
        name: bfloat16_to_float32(array) if array.dtype == BFLOAT16 else array
        for name, array in complete.items()
    }
