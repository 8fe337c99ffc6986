"""The arrays that a device remembers of its updates, read and written by the worker.

``residual:<array>`` is what error feedback left unsaid of an array of the update, ``control:<array>`` the
device's control variate; all are float32. memory.py says where the files lie.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.trainer.worker_protocol import Work, id_of
from fedgrass.federation import weights
from fedgrass.federation.carried import carried_name
from fedgrass.federation.encodings import Feedback
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.scaffold import Control
from fedgrass.federation.weights import Encoded

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
        carried_name(what, name): weights.as_it_is(array, "F32")
        for what, kept in ((RESIDUAL, memory.residual), (CONTROL, memory.control))
        for name, array in kept.items()
    }


def _of(what: str, found: weights.Arrays) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of one kind, as copies that can be written to: what is read from a file cannot."""
    start = carried_name(what, "")
    return {
        name.removeprefix(start): np.array(array, dtype=np.float32)
        for name, array in found.items()
        if name.startswith(start)
    }


def _begin_anew(work: Work, why: object) -> None:
    log.warning("%s: what was remembered of the run is begun anew: %s", id_of(work.announcement), why)
