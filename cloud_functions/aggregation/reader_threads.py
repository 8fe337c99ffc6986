"""Many updates read at once: by threads, as columns of one slice of all, with norms and whole numbers.

Each thread (a lane) reads its updates in order, slice after slice. An update always keeps its lane, so
that its bytes come in order and its checksums can be made on the way. While one block of columns is used
(for medians, norms, products) the lanes read the next ones.

Whole numbers beyond 2^53 (identifiers, hashes, clocks) do not fit into float64. Where all updates agree
on such a number, it is the new model's. Where their mean is that of the previous model, as far as float64
can tell, the model's own digits stay. Otherwise it is the mean, rounded to the 53 binary digits of
float64, within the range of int64.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import cycle
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation.model_files import LARGEST_INT64
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights.slices import Slice

AHEAD = 3  # results in memory: one is used while the lanes make the others
WIDEST = 8  # bytes of a value
_LONGEST = 900.0  # seconds that any reading may take: a Lambda function has no more
Made = TypeVar("Made")


class Readable(Protocol):
    """What is read slice by slice: an update, or the sum of some."""

    def begin(self, first: Slice | None) -> None:
        """Begin at a slice, None for the front."""

    def read(self, part: Slice, row: NDArray[Any], scratch: NDArray[np.uint8]) -> None:
        """Read the next slice into ``row``, of its length and type."""

    def finish(self) -> None:
        """Check what was read to the end."""

    def peek(self, part: Slice, dtype: "np.dtype[Any] | None" = None) -> NDArray[Any]:
        """Return a slice's values, read once more; in their own type unless another is given."""


class ReaderThreads:
    """Threads that read updates.

    Args:
        updates: what they read.
        count: how many lanes there are.
        length: values of the longest slice.
    """

    def __init__(self, updates: Sequence[Readable], count: int, length: int) -> None:
        self.updates = updates
        self._pools = [ThreadPoolExecutor(1, thread_name_prefix=f"lane-{lane}") for lane in range(count)]
        self._scratch = [np.empty(length * WIDEST, dtype=np.uint8) for _ in range(count)]
        self.refused: dict[int, str] = {}  # the places of bad updates, and what is wrong with them

    def __len__(self) -> int:
        return len(self._pools)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def begin(self, lane: int, do: Callable[[], None]) -> Future[None]:
        """Have a lane do something, after all that it was given before."""
        return self._pools[lane].submit(do)

    def read(self, lane: int, place: int, part: Slice, row: NDArray[Any]) -> None:
        """Read the next slice of an update into ``row``, in its lane: zeros if the update is bad."""
        if place not in self.refused:
            try:
                self.updates[place].read(part, row, self._scratch[lane])
            except UpdateRefused as error:
                self.refused[place] = str(error)
            else:
                return
        row[:] = 0

    def each(self, do: Callable[[Readable], None]) -> None:
        """Do something with every update, in any lane; those that raise UpdateRefused are refused."""

        def do_share(lane: int) -> None:
            for place in range(lane, len(self.updates), len(self)):
                if place not in self.refused:
                    try:
                        do(self.updates[place])
                    except UpdateRefused as error:
                        self.refused[place] = str(error)

        _wait_for([self.begin(lane, partial(do_share, lane)) for lane in range(len(self))])


def ahead(begun: Iterable[tuple[Made, Sequence[Future[None]]]]) -> Iterator[Made]:
    """Yield in order what lanes have made, while they make the next ones.

    Args:
        begun: what is made, and what the lanes do for it; taken only when it is to begin. ``AHEAD`` of them
            are in use at a time: each lasts until the next is taken.
    """
    waiting: deque[tuple[Made, Sequence[Future[None]]]] = deque()
    for one in begun:
        waiting.append(one)
        if len(waiting) == AHEAD:
            yield _done(*waiting.popleft())
    while waiting:
        yield _done(*waiting.popleft())


def _done(made: Made, work: Sequence[Future[None]]) -> Made:
    _wait_for(work)
    return made


def _wait_for(work: Sequence[Future[None]]) -> None:
    """Wait until lanes have done their work; raises what one of them raised."""
    for one in work:
        one.result(_LONGEST)


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

    def __init__(self, lanes: ReaderThreads, rows: int, length: int, width: int) -> None:
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


Floats = NDArray[np.float64]


def squared_norm(change: NDArray[Any]) -> float:
    """Return the sum of the squares of a change, shape (L,)."""
    with np.errstate(over="ignore"):
        square = float(np.dot(change, change))
    if math.isfinite(square):
        return square
    wide = change.astype(np.float64)
    with np.errstate(over="ignore"):  # infinite then, and refused as that
        return float(np.dot(wide, wide))


def products_of(changes: NDArray[Any]) -> Floats:
    """Return the products of N changes, shape (N, L), with each other: shape (N, N)."""
    with np.errstate(over="ignore", invalid="ignore"):
        products = changes @ changes.T
        if not np.isfinite(products).all():
            wide = changes.astype(np.float64)
            products = wide @ wide.T
    return np.asarray(products, dtype=np.float64)


_EXACT = 2.0**53
_INT64 = np.dtype(np.int64)
_CLOSE = 1e-9  # relative: a mean of equal values may be made in several steps


def settled(part: Slice, mean: Floats, before: Readable, updates: Sequence[Readable]) -> NDArray[Any]:
    """Return the new values of a slice of whole numbers, shape (L,): int64 if some are beyond 2^53.

    Args:
        part: the slice.
        mean: of all updates, in float64.
        before: the model before.
        updates: all of them; none if some are only there as sums.
    """
    if not (np.abs(mean) >= _EXACT).any():
        return mean
    own = before.peek(part, _INT64)
    values = np.minimum(np.rint(mean), LARGEST_INT64).astype(_INT64)
    values = np.where(own.astype(np.float64) == mean, own, values)
    agreed = _agreed(part, updates)
    if agreed is None:
        return np.asarray(values)
    common, agree = agreed
    # A change that was clipped is not what the updates agree on.
    return np.where(agree & np.isclose(mean, common.astype(np.float64), rtol=_CLOSE, atol=0), common, values)


def _agreed(part: Slice, updates: Sequence[Readable]) -> tuple[NDArray[np.int64], NDArray[np.bool_]] | None:
    """Return the values of the first update, and where all others have the same; None if that is unknown."""
    agree = np.ones(part.length, dtype=np.bool_)
    try:
        rows = (update.peek(part, _INT64) for update in updates)
        common = next(rows, None)
        if common is None:
            return None
        for row in rows:
            agree &= row == common
    except UpdateRefused:  # the sums find that out too, and refuse it by name
        return None
    return common, agree
