"""The same slice of all updates side by side, for what has to see them together: medians, lengths, products.

While one block of rows is looked at the lanes read the next ones.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_functions.lanes import AHEAD, Lanes, ahead
from fedgrass.federation.slices import Slice


class Block(NamedTuple):
    """The same slice of some updates, side by side."""

    part: Slice
    places: range  # of the updates
    rows: NDArray[Any]  # shape (updates, values)


class Blocks:
    """Reads blocks of updates into buffers that are used again and again.

    Args:
        lanes: what reads them.
        rows: updates in a block.
        length: values of the longest slice, all of ``width`` bytes at most.
    """

    def __init__(self, lanes: Lanes, rows: int, length: int, width: int) -> None:
        self._lanes = lanes
        self._rows = rows
        self._buffers = [np.empty(rows * length * width, dtype=np.uint8) for _ in range(AHEAD)]

    def of(self, slices: Iterable[Slice]) -> Iterator[Block]:
        """Yield all slices of all updates, block by block; a block's rows last until the next is taken.

        The rows of an update that turns out to be bad are zeros from there on; the lanes tell which are.
        """
        buffers = cycle(self._buffers)
        firsts = range(0, len(self._lanes.updates), self._rows)
        return ahead(self._begin(part, first, next(buffers)) for part in slices for first in firsts)

    def _begin(self, part: Slice, first: int, buffer: NDArray[np.uint8]) -> tuple[Block, list[Future[None]]]:
        """Have the lanes fill the rows of a block."""
        places = range(first, min(first + self._rows, len(self._lanes.updates)))
        size = len(places) * part.length * part.dtype.itemsize
        block = Block(part, places, buffer[:size].view(part.dtype).reshape(len(places), -1))
        lanes = range(min(len(self._lanes), len(places)))
        return block, [self._lanes.begin(lane, partial(self._fill, lane, block)) for lane in lanes]

    def _fill(self, lane: int, block: Block) -> None:
        for place in block.places[lane :: len(self._lanes)]:
            self._lanes.read(lane, place, block.part, block.rows[place - block.places.start])
