"""Where a device keeps the arrays that are not in a run's model, in the trainer's work folder.

    private/<task>/<run>.safetensors   the private arrays of a run, after all updates that were uploaded
    frozen/<sha256>.safetensors        frozen arrays that a run's devices downloaded

The trainer writes them, the predictor reads them (array_files.py). This module does not import numpy.
"""

from pathlib import Path

from fedgrass.federation.messages.message_fields import checked_name

_PRIVATE, _FROZEN = "private", "frozen"
ENDING = ".safetensors"


def private_folder(work_folder: Path) -> Path:
    """Return the folder of all private arrays, with one folder per task."""
    return work_folder / _PRIVATE


def private_file(work_folder: Path, task: str, run: str) -> Path:
    """Return the file with the private arrays of a run, which may not exist."""
    return private_folder(work_folder) / checked_name("task", task) / f"{checked_name('run', run)}{ENDING}"


def frozen_folder(work_folder: Path) -> Path:
    """Return the folder of downloaded frozen arrays."""
    return work_folder / _FROZEN


def frozen_file(folder: Path, sha256: str) -> Path:
    """Return the file of frozen arrays with a SHA-256 in the folder of frozen arrays."""
    return folder / f"{sha256}{ENDING}"
