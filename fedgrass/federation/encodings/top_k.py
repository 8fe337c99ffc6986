"""Only the largest changes: from each block of 4096 values the few with the largest magnitude, exactly.

A row of the encoded array is one block: first the indices within the block as ascending uint16, then the
values as float32. What is not sent is not lost: the device keeps it and adds it to its next update (error
feedback). Stich et al., "Sparsified SGD with Memory" (2018); for the feedback Seide et al., "1-Bit
Stochastic Gradient Descent" (2014) and Karimireddy et al., "Error Feedback Fixes SignSGD" (2019).
"""

import math

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights.slices import BLOCK, block_count

_INDEX_BYTES = 2
_ENTRY_BYTES = _INDEX_BYTES + 4


def entries_of(values: int, fraction: float) -> int:
    """Return how many values are sent from a block of ``values`` values: at least one."""
    # Rounded first: 0.07 * 100 is slightly above 7 in floating point.
    return max(1, math.ceil(round(fraction * values, 9)))


def row_bytes(values: int, fraction: float) -> int:
    """Return the size in bytes of one encoded block of an array of ``values`` values."""
    return entries_of(min(values, BLOCK), fraction) * _ENTRY_BYTES


def to_top_k(values: NDArray[np.float32], fraction: float, row: int) -> NDArray[np.uint8]:
    """Encode a float32 array of shape (n,) as uint8 array of shape (blocks, ``row``), one row per block."""
    whole = len(values) // BLOCK * BLOCK
    rows = np.zeros((block_count(len(values)), row), np.uint8)
    if whole:
        _fill(rows[: whole // BLOCK], values[:whole].reshape(-1, BLOCK), fraction)
    if whole < len(values):
        _fill(rows[whole // BLOCK :], values[whole:].reshape(1, -1), fraction)
    return rows


def _fill(rows: NDArray[np.uint8], blocks: NDArray[np.float32], fraction: float) -> None:
    """Write each block's largest values; unused entries have index 0 and value 0."""
    count, room = entries_of(blocks.shape[1], fraction), rows.shape[1] // _ENTRY_BYTES
    chosen = np.argpartition(np.abs(blocks), -count, axis=1)[:, -count:]
    chosen.sort(axis=1)
    indices, values = np.zeros((len(rows), room), "<u2"), np.zeros((len(rows), room), "<f4")
    indices[:, :count] = chosen
    values[:, :count] = np.take_along_axis(blocks, chosen, axis=1)
    rows[:, : room * _INDEX_BYTES] = indices.view(np.uint8)
    rows[:, room * _INDEX_BYTES :] = values.view(np.uint8)


def from_top_k(raw: memoryview, out: NDArray[np.float32]) -> None:
    """Decode whole rows to ``out``; values that were not sent are 0.

    Args:
        raw: The encoded rows.
        out: float32 array of shape (n,).

    Raises:
        UpdateRefused: An index is outside its block, or ``raw`` does not consist of rows.
    """
    out[:] = 0
    count = block_count(len(out))
    if not count and not len(raw):
        return
    if not count or not len(raw) or len(raw) % (count * _ENTRY_BYTES):
        message = f"{len(raw)} bytes of top_k cannot be {count} blocks of entries of {_ENTRY_BYTES} bytes"
        raise UpdateRefused(message)
    rows = np.frombuffer(raw, np.uint8).reshape(count, -1)
    room = rows.shape[1] // _ENTRY_BYTES
    indices = np.ascontiguousarray(rows[:, : room * _INDEX_BYTES]).view("<u2")
    values = np.ascontiguousarray(rows[:, room * _INDEX_BYTES :]).view("<f4")
    _check_indices(indices, len(out))
    places = indices + np.arange(0, count * BLOCK, BLOCK, dtype=np.int64)[:, np.newaxis]
    with np.errstate(over="ignore", invalid="ignore"):  # the sum detects non-finite values, which are refused
        np.add.at(out, places.reshape(-1), values.reshape(-1))


def _check_indices(indices: NDArray[np.uint16], values: int) -> None:
    """Check that no entry would be written outside its block."""
    last = len(indices) - 1
    lengths = np.full(len(indices), BLOCK)
    lengths[last] = values - last * BLOCK
    largest = indices.max(axis=1)
    wrong = np.flatnonzero(largest >= lengths)
    if wrong.size:
        block = int(wrong[0])
        message = (
            f"block {block} of an array in top_k has the index {largest[block]};"
            f" its {lengths[block]} values are numbered from 0"
        )
        raise UpdateRefused(message)
