"""Writes the update of an assignment, and the client state that later updates of the run need.

The client state is a safetensors file of float32 arrays: ``residual:<array>`` is the part of an update that
error feedback has not sent yet (Stich et al., "Sparsified SGD with Memory", NeurIPS 2018,
https://arxiv.org/abs/1809.07599), ``control:<array>`` the device's control variate of SCAFFOLD.
components/trainer/session/error_feedback.py describes where the files are kept. At any moment a file is
either complete or absent.
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
from components.trainer.worker.worker_protocol import WorkOrder, id_of
from fedgrass.federation import encodings, weights
from fedgrass.federation.aggregation.scaffold import Control
from fedgrass.federation.encodings import Feedback
from fedgrass.federation.encodings.array_types import to_model_types
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import Arrays, Encoded, Layout, Written
from fedgrass.federation.weights.array_roles import auxiliary_name, statistics_among, trained_metadata

RESIDUAL, CONTROL = "residual", "control"
Shapes = Mapping[str, tuple[int, ...]]
log = logging.getLogger(__name__)


@dataclass
class ClientState:
    """State that a device carries from update to update of a run; a missing array stands for zeros.

    Attributes:
        residual: what error feedback has not sent yet; float32 arrays by the names of the model's arrays.
        control: the device's control variate of SCAFFOLD; float32 arrays by the same names.
    """

    residual: Feedback = field(default_factory=dict)
    control: Control = field(default_factory=dict)


def load_client_state(work: WorkOrder) -> ClientState:
    """Return the client state of an assignment's run; an empty one if the file is missing or damaged."""
    try:
        data = Path(work.memory).read_bytes() if work.memory else b""
    except FileNotFoundError:
        data = b""
    except OSError as error:
        _warn_of_reset(work, error)
        data = b""
    if not data:
        return ClientState()
    try:
        weights.check_data(data)
        arrays = weights.decode(data)
        weights.check_finite(arrays)
    except UpdateRefused as error:
        _warn_of_reset(work, error)
        return ClientState()
    return ClientState(_select(RESIDUAL, arrays), _select(CONTROL, arrays))


def same_shapes_only(
    work: WorkOrder, kept: dict[str, NDArray[np.float32]], shapes: Shapes
) -> dict[str, NDArray[np.float32]]:
    """Return the kept arrays if their names and shapes are those of the model, else an empty dict."""
    if kept and {name: array.shape for name, array in kept.items()} != dict(shapes):
        _warn_of_reset(work, f"its arrays {', '.join(sorted(kept))} are not the model's")
        return {}
    return kept


def encode_client_state(state: ClientState) -> dict[str, Encoded]:
    """Return the arrays of the client state's file by the names that they have there."""
    return {
        auxiliary_name(kind, name): weights.unencoded(array, "F32")
        for kind, kept in ((RESIDUAL, state.residual), (CONTROL, state.control))
        for name, array in kept.items()
    }


def _select(kind: str, arrays: weights.Arrays) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of one kind as writable copies: decoded arrays are read-only."""
    start = auxiliary_name(kind, "")
    return {
        name.removeprefix(start): np.array(array, dtype=np.float32)
        for name, array in arrays.items()
        if name.startswith(start)
    }


def _warn_of_reset(work: WorkOrder, reason: object) -> None:
    log.warning("%s: the client state of the run is reset: %s", id_of(work.announcement), reason)


def write_update(  # noqa: PLR0913 - the parts of an update
    work: WorkOrder,
    weights_after: Arrays,
    start: Arrays,
    layout: Layout,
    control: Control | None = None,
    *,
    trained: Collection[str] | None = None,
    rng: np.random.Generator | None = None,
) -> Written:
    """Write the update of an assignment in the announced encoding, with the dtypes of the model.

    The file keeps its temporary name until the result is published (``publish_result`` in
    components/trainer/session/journal.py). The new client state (the residual of top_k, the control variate)
    is written to a separate file first; the trainer adopts it once the update has been uploaded.

    Args:
        work: the assignment.
        weights_after: the weights after the training (with SCAFFOLD, plus the change of the control variate).
        start: the global model, subtracted from them if the update is sent as a difference.
        layout: of the update's arrays.
        control: the device's new control variate by the names of the model's arrays, if there is one.
        trained: names of the arrays with gradients, declared in the update; None if the task does not report
            them.
        rng: for the stochastic rounding of int8; None: a new one.

    Raises:
        WorkFailed: the cloud would refuse the update, for example because an array is not finite.
    """
    encoding = work.announcement.upload
    state = ClientState(control=control or {})
    auxiliary = {auxiliary_name(CONTROL, name) for name in state.control}
    statistics = statistics_among(layout.arrays.keys() - auxiliary, trained)
    if encoding.kind == "top_k":
        shapes = {
            name: array.shape
            for name, array in layout.arrays.items()
            if array.dtype == "F32" and name not in statistics
        }
        # Older versions kept residuals of statistics too.
        kept = {name: a for name, a in load_client_state(work).residual.items() if name not in statistics}
        state.residual = same_shapes_only(work, kept, shapes)
    path = Path(work.update)
    try:
        weights.check_finite(weights_after)
        weights_after = to_model_types(layout, weights_after)
        base = start if encoding.difference else None
        feedback = state.residual if encoding.kind == "top_k" else None
        arrays = encodings.encode(
            weights_after,
            layout,
            encoding,
            rng or np.random.default_rng(),
            feedback,
            base,
            statistics=statistics,
        )
        declared = trained_metadata(trained)
        _, written = _write(path, lambda file: weights.write(arrays, file, declared))
    except UpdateRefused as error:
        message = f"the training produced an unusable update: {error}"
        raise WorkFailed(message) from error
    if remembered := encode_client_state(state):
        other, _ = _write(pending_path(path), lambda file: weights.write(remembered, file))
        publish_file(other, pending_path(path))
    return written


def write_whole_update(work: WorkOrder, update: Arrays) -> Written:
    """Write an update whose arrays have other shapes than the model's, as the task made them.

    Args:
        work: the assignment.
        update: the arrays by name.

    Raises:
        WorkFailed: an array is not finite, or the run encodes updates in a way that needs the model's shapes.
    """
    encoding = work.announcement.upload
    if encoding.kind != "float32" or encoding.difference:
        message = (
            "the task sends arrays of other shapes than the model's, which the run's upload_encoding"
            f" {encoding.kind!r} (upload_difference {str(encoding.difference).lower()}) cannot encode: choose"
            " the aggregation tree_bagging"
        )
        raise WorkFailed(message)
    try:
        weights.check_finite(update)
        arrays = {
            name: weights.unencoded(array, weights.dtype_of(name, array)) for name, array in update.items()
        }
        _, written = _write(Path(work.update), lambda file: weights.write(arrays, file))
    except UpdateRefused as error:
        message = f"the training produced an unusable update: {error}"
        raise WorkFailed(message) from error
    return written


def _write(path: Path, write: Callable[[BinaryIO], Written]) -> tuple[Path, Written]:
    """Write a file under a temporary name and return that name with what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return unfinished(path), write_unfinished(path, write)
