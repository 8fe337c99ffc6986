"""Reading many updates at once: each lane is a thread that reads its updates in order, slice after slice.

While one block of rows is being averaged the next ones are read. An update always keeps its lane, so that its
bytes come in order and its checksums can be made on the way.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.slices import Slice

# Values to whose multiples rows are filled up: what a product does with the last few values of a row may
# round otherwise than what it does with the others, and a slice may end anywhere.
PADDING = 64
AHEAD = 3  # blocks in memory: one is averaged while the lanes fill the others
_WIDEST = 8  # bytes of a value
_LONGEST = 900.0  # seconds that any reading may take: a Lambda function has no more


class Readable(Protocol):
    """What is read slice by slice: an update, or the sum of some."""

    def begin(self, first: Slice | None) -> None:
        """Begin at a slice, None for the front."""

    def read(self, part: Slice, row: NDArray[Any], scratch: NDArray[np.uint8]) -> None:
        """Read the next slice into ``row``, of its length and type."""

    def finish(self) -> None:
        """Check what was read to the end."""

    def peek(self, part: Slice) -> NDArray[Any]:
        """Return a slice's values, read once more."""


class Block(NamedTuple):
    """The same slice of some updates, side by side."""

    part: Slice
    places: range  # of the updates
    rows: NDArray[Any]  # shape (updates, values)
    padded: NDArray[Any]  # the same with zeros after each row, to a multiple of ``PADDING``
    last: bool  # of its slice


class Lanes:
    """Threads that read updates.

    Args:
        count: how many there are.
        rows: updates in a block.
        length: values of the longest slice, all of ``width`` bytes at most.
    """

    def __init__(self, count: int, rows: int, length: int, width: int = _WIDEST) -> None:
        self._pools = [ThreadPoolExecutor(1, thread_name_prefix=f"lane-{lane}") for lane in range(count)]
        self._rows = rows
        self._buffers = [np.empty(rows * _padded(length) * width, dtype=np.uint8) for _ in range(AHEAD)]
        self._scratch = [np.empty(length * _WIDEST, dtype=np.uint8) for _ in range(count)]
        self.refused: dict[int, str] = {}  # the places of bad updates, and what is wrong with them

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def blocks(
        self, updates: Sequence[Readable], slices: Iterable[Slice], *, wide: bool = False
    ) -> Iterator[Block]:
        """Yield all slices of all updates, block by block; a block's rows last until the next is taken.

        ``wide`` rows are float64, whatever the slice's own type. The rows of an update that turns out to be
        bad are zeros from there on, and ``refused`` has it.
        """
        waiting: deque[tuple[Block, list[Future[None]]]] = deque()
        buffers = cycle(self._buffers)
        for part in slices:
            for first in range(0, len(updates), self._rows):
                dtype = np.dtype(np.float64) if wide else part.dtype
                waiting.append(self._begin(updates, part, first, next(buffers), dtype))
                if len(waiting) == AHEAD:
                    yield _filled(*waiting.popleft())
        while waiting:
            yield _filled(*waiting.popleft())

    def each(self, updates: Sequence[Readable], do: Callable[[Readable], None]) -> None:
        """Do something with every update in its lane; those that raise UpdateRefused are refused."""
        tasks = [
            self._pools[place % self._rows % len(self._pools)].submit(self._try, place, do, update)
            for place, update in enumerate(updates)
        ]
        for task in tasks:
            task.result(_LONGEST)

    def _begin(
        self,
        updates: Sequence[Readable],
        part: Slice,
        first: int,
        buffer: NDArray[np.uint8],
        dtype: "np.dtype[Any]",
    ) -> tuple[Block, list[Future[None]]]:
        """Have the lanes fill the rows of a block."""
        places = range(first, min(first + self._rows, len(updates)))
        size = len(places) * _padded(part.length) * dtype.itemsize
        padded = buffer[:size].view(dtype).reshape(len(places), -1)
        padded[:, part.length :] = 0
        rows = padded[:, : part.length]
        block = Block(part, places, rows, padded, last=places.stop == len(updates))
        shares = [places[lane :: len(self._pools)] for lane in range(len(self._pools))]
        return block, [
            pool.submit(self._fill, updates, block, share, scratch)
            for pool, share, scratch in zip(self._pools, shares, self._scratch, strict=True)
            if share
        ]

    def _fill(
        self, updates: Sequence[Readable], block: Block, places: range, scratch: NDArray[np.uint8]
    ) -> None:
        for place in places:
            row = block.rows[place - block.places.start]

            def read(update: Readable, row: NDArray[Any] = row) -> None:
                update.read(block.part, row, scratch)

            self._try(place, read, updates[place])
            if place in self.refused:
                row[:] = 0

    def _try(self, place: int, do: Callable[[Readable], None], update: Readable) -> None:
        if place not in self.refused:
            try:
                do(update)
            except UpdateRefused as error:
                self.refused[place] = str(error)


def _padded(length: int) -> int:
    return -(-length // PADDING) * PADDING


def _filled(block: Block, filling: list[Future[None]]) -> Block:
    for share in filling:
        share.result(_LONGEST)
    return block
