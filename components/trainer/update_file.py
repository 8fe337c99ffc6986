"""The update's file, and what is remembered beside it. Files are whole or not there, whatever happens."""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np

from components.trainer.errors import WorkFailed
from components.trainer.finished_work import unfinished
from components.trainer.memory import beside
from components.trainer.memory_file import CONTROL, Remembered, arrays_of, fitting, load_memory
from components.trainer.worker_protocol import Work
from fedgrass.federation import encodings, weights
from fedgrass.federation.array_types import in_types_of
from fedgrass.federation.carried import carried_name
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.scaffold import Control
from fedgrass.federation.trained_arrays import statistics_among, to_metadata
from fedgrass.federation.weights import Arrays, Layout, Written


def write_update(  # noqa: PLR0913 # it is what an update is made of
    work: Work,
    weights_after: Arrays,
    start: Arrays,
    layout: Layout,
    control: Control | None = None,
    *,
    trained: Collection[str] | None = None,
) -> Written:
    """Write the update of a work in the encoding that its announcement asks for, in the model's types.

    It gets its own name when the work is finished (finished_work.py). What top_k leaves over and the device's
    new control variate are written beside it first; the trainer adopts them once the update is uploaded.

    Args:
        work: the work.
        weights_after: the arrays of the update.
        start: what is subtracted from them where the update is a difference.
        layout: of the update's arrays.
        control: the control variate, by the names of the model's arrays, if there is one.
        trained: the arrays that gradients move, which the update declares; None if the task does not know.

    Raises:
        WorkFailed: the training made what the cloud would refuse: it does not travel.
    """
    wanted = work.announcement.upload
    memory = Remembered(control=control or {})
    carried = {carried_name(CONTROL, name) for name in memory.control}
    statistics = statistics_among(layout.arrays.keys() - carried, trained)
    if wanted.kind == "top_k":
        shapes = {
            name: array.shape
            for name, array in layout.arrays.items()
            if array.dtype == "F32" and name not in statistics
        }
        # A former version kept residuals of statistics too.
        kept = {name: a for name, a in load_memory(work).residual.items() if name not in statistics}
        memory.residual = fitting(work, kept, shapes)
    path = Path(work.update)
    try:
        weights.check_finite(weights_after)
        weights_after = in_types_of(layout, weights_after)
        begun = start if wanted.difference else None
        feedback = memory.residual if wanted.kind == "top_k" else None
        arrays = encodings.encode(
            weights_after,
            layout,
            wanted,
            np.random.default_rng(),
            feedback,
            begun,
            statistics=statistics,
        )
        declared = to_metadata(trained)
        _, written = _write(path, lambda file: weights.write(arrays, file, declared))
    except UpdateRefused as error:
        message = f"the training made an update that cannot be used: {error}"
        raise WorkFailed(message) from error
    if remembered := arrays_of(memory):
        other, _ = _write(beside(path), lambda file: weights.write(remembered, file))
        other.replace(beside(path))
    return written


def _write(path: Path, write: Callable[[BinaryIO], Written]) -> tuple[Path, Written]:
    """Write a file under a name that nobody looks for, and return that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = unfinished(path)
    with place.open("wb") as file:
        written = write(file)
        file.flush()
        os.fsync(file.fileno())
    return place, written
