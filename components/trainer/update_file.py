"""The update's file, and beside it what it leaves unsaid. Files are whole or not there, whatever happens."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.trainer.errors import WorkFailed
from components.trainer.residuals import beside
from components.trainer.worker_protocol import Work, id_of
from fedgrass.federation import encodings, weights
from fedgrass.federation.encodings import Feedback
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import Arrays, Layout, Written

log = logging.getLogger(__name__)


def write_update(work: Work, trained: Arrays, start: Arrays, model: Layout) -> Written:
    """Write the update of a work in the encoding that its announcement asks for.

    What top_k leaves over is written beside it first; the trainer adopts it once the update is uploaded.

    Raises:
        WorkFailed: the training made what the cloud would refuse: it does not travel.
    """
    wanted = work.announcement.upload
    feedback = load_residual(work, model) if wanted.kind == "top_k" else None
    rng = np.random.default_rng()
    path = Path(work.update)
    try:
        weights.check_finite(trained)
        begun = start if wanted.difference else None
        arrays = encodings.encode(trained, model, wanted, rng, feedback, begun)
        unfinished, written = _write(path, lambda file: weights.write(arrays, file))
    except UpdateRefused as error:
        message = f"the training made an update that cannot be used: {error}"
        raise WorkFailed(message) from error
    if feedback is not None:
        kept = {name: weights.as_it_is(array, "F32") for name, array in feedback.items()}
        other, _ = _write(beside(path), lambda file: weights.write(kept, file))
        other.replace(beside(path))
    unfinished.replace(path)
    return written


def load_residual(work: Work, model: Layout) -> Feedback:
    """Return what former updates of the run left over; nothing if there were none, or if it is damaged."""
    try:
        data = Path(work.residual).read_bytes() if work.residual else b""
    except FileNotFoundError:
        data = b""
    except OSError as error:
        log.warning(
            "%s: what was left over cannot be read, and is begun anew: %s", id_of(work.announcement), error
        )
        data = b""
    if not data:
        return {}
    try:
        weights.check_data(data)
        found = weights.decode(data)
        expected = {name: array for name, array in model.arrays.items() if array.dtype == "F32"}
        layout = weights.read_layout(data, len(data))
        weights.check_layout(layout, Layout(expected, 0, 0))
        weights.check_finite(found)
    except UpdateRefused as error:
        log.warning("%s: what was left over is begun anew: %s", id_of(work.announcement), error)
        return {}
    return {name: _own(array) for name, array in found.items()}


def _own(array: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return a copy that can be written to, since what is read from a file cannot."""
    return np.array(array, dtype=np.float32)


def _write(path: Path, write: Callable[[BinaryIO], Written]) -> tuple[Path, Written]:
    """Write a file under a name that nobody looks for, and return that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        written = write(file)
        file.flush()
        os.fsync(file.fileno())
    return unfinished, written
