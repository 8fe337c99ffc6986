"""The examples of a task with trees: a table of numbers and one target per row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.runtime.component_errors import WorkFailed

Source = tuple[Any, Any] | Callable[[], tuple[Any, Any]]  # (X, y), or a function that returns them
_LARGEST = float(np.finfo(np.float32).max)


class Table(NamedTuple):
    """Examples. A missing value of a feature is NaN.

    ``inputs`` is a float32 array of shape (n, features), ``targets`` one of shape (n,).
    """

    inputs: NDArray[np.float32]
    targets: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.targets)


def read_table(source: Source, what: str) -> Table:
    """Return the current examples of a source.

    Args:
        source: the examples.
        what: "training" or "held_out", for messages.

    Raises:
        WorkFailed: they are not a table of numbers with a target per row; the text names the place.
    """
    found: Any = source() if callable(source) else source
    try:
        inputs, targets = found
        table = np.asarray(inputs, dtype=np.float64)
        target = np.asarray(targets, dtype=np.float64)
    except (TypeError, ValueError) as error:
        message = f"{what} must be a pair of arrays (X, y) of numbers: {error}"
        raise WorkFailed(message) from error
    if table.ndim != 2 or target.shape != table.shape[:1]:  # noqa: PLR2004 - rows and columns
        shapes = f"X of shape {table.shape} and y of shape {target.shape}"
        message = f"{what} has {shapes}; it takes (n, features) and (n,)"
        raise WorkFailed(message)
    check_inputs(table, f"{what}: X")
    if not np.isfinite(target).all():
        place = int(np.argmin(np.isfinite(target)))
        message = f"{what}: y has the value {target[place]} at {place}, not a finite number"
        raise WorkFailed(message)
    return Table(table.astype(np.float32), target.astype(np.float32))


def check_inputs(table: NDArray[np.float64], what: str) -> None:
    """Check that each value fits float32, or is NaN, which stands for a missing one. Raises WorkFailed."""
    bad = np.abs(table) > _LARGEST
    if bad.any():
        row, column = (int(index) for index in np.unravel_index(int(np.argmax(bad)), table.shape))
        message = (
            f"{what} has the value {table[row, column]} in row {row}, column {column}: it takes finite"
            " numbers of float32, and NaN for a missing value"
        )
        raise WorkFailed(message)


def check_classes(table: Table, classes: int, what: str) -> None:
    """Check that each target is a class, 0 to ``classes`` - 1. Raises WorkFailed."""
    targets = table.targets
    bad = (targets != np.floor(targets)) | (targets < 0) | (targets >= classes)
    if bad.any():
        place = int(np.argmax(bad))
        message = f"{what}: y has the value {targets[place]:g} at {place}; the classes are 0 to {classes - 1}"
        raise WorkFailed(message)
