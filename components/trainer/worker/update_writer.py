"""Write the update's file, and the arrays of error feedback and SCAFFOLD that are kept with it.

Files are whole or absent, whatever happens. Of the kept arrays, ``residual:<array>`` is the part of an
array of the update that error feedback has not sent yet, ``control:<array>`` the device's control
variate; all are float32. components/trainer/session/error_feedback.py describes where the files are.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.runtime.atomic_file import publish_file, unfinished, write_unfinished
from components.runtime.component_errors import WorkFailed
from components.trainer.session.error_feedback import pending_path
from components.trainer.worker.worker_protocol import Work, id_of
from fedgrass.federation import encodings, weights
from fedgrass.federation.aggregation.scaffold import Control
from fedgrass.federation.encodings import Feedback
from fedgrass.federation.encodings.array_types import to_model_types
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import Arrays, Encoded, Layout, Written
from fedgrass.federation.weights.auxiliary_state import auxiliary_name
from fedgrass.federation.weights.trained_arrays import statistics_among, trained_metadata

RESIDUAL, CONTROL = "residual", "control"
Shapes = Mapping[str, tuple[int, ...]]
log = logging.getLogger(__name__)


@dataclass
class Remembered:
    """What former updates of a run left behind, by the names of the arrays; what is missing is zero."""

    residual: Feedback = field(default_factory=dict)
    control: Control = field(default_factory=dict)


def load_memory(work: Work) -> Remembered:
    """Return what is remembered of a work's run; nothing if there is nothing, or if it is damaged."""
    try:
        data = Path(work.memory).read_bytes() if work.memory else b""
    except FileNotFoundError:
        data = b""
    except OSError as error:
        _begin_anew(work, error)
        data = b""
    if not data:
        return Remembered()
    try:
        weights.check_data(data)
        found = weights.decode(data)
        weights.check_finite(found)
    except UpdateRefused as error:
        _begin_anew(work, error)
        return Remembered()
    return Remembered(_of(RESIDUAL, found), _of(CONTROL, found))


def fitting(
    work: Work, kept: dict[str, NDArray[np.float32]], shapes: Shapes
) -> dict[str, NDArray[np.float32]]:
    """Return what is remembered of arrays of these shapes; nothing if it is of others."""
    if kept and {name: array.shape for name, array in kept.items()} != dict(shapes):
        _begin_anew(work, f"its arrays {', '.join(sorted(kept))} are not the model's")
        return {}
    return kept


def arrays_of(memory: Remembered) -> dict[str, Encoded]:
    """Return the arrays of the file, as they are written."""
    return {
        auxiliary_name(what, name): weights.unencoded(array, "F32")
        for what, kept in ((RESIDUAL, memory.residual), (CONTROL, memory.control))
        for name, array in kept.items()
    }


def _of(what: str, found: weights.Arrays) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of one kind, as copies that can be written to: what is read from a file cannot."""
    start = auxiliary_name(what, "")
    return {
        name.removeprefix(start): np.array(array, dtype=np.float32)
        for name, array in found.items()
        if name.startswith(start)
    }


def _begin_anew(work: Work, why: object) -> None:
    log.warning("%s: what was remembered of the run is begun anew: %s", id_of(work.announcement), why)


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
    carried = {auxiliary_name(CONTROL, name) for name in memory.control}
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
        weights_after = to_model_types(layout, weights_after)
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
        declared = trained_metadata(trained)
        _, written = _write(path, lambda file: weights.write(arrays, file, declared))
    except UpdateRefused as error:
        message = f"the training made an update that cannot be used: {error}"
        raise WorkFailed(message) from error
    if remembered := arrays_of(memory):
        other, _ = _write(pending_path(path), lambda file: weights.write(remembered, file))
        publish_file(other, pending_path(path))
    return written


def _write(path: Path, write: Callable[[BinaryIO], Written]) -> tuple[Path, Written]:
    """Write a file under a name that nobody looks for, and return that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return unfinished(path), write_unfinished(path, write)
