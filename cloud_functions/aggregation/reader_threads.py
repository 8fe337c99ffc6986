"""How updates are read: in slices of the model, many at a time by threads, or as blocks of columns.

``ModelSlices`` cuts the model into slices so short that the buffers of all threads fit into the memory.

Each thread (a lane) reads its updates slice after slice. An update always stays in the same lane, so that
its bytes are read in order and its checksums are computed on the way. While the caller uses one result (a
block of columns, or a sum), the lanes make the next ones: ``AHEAD`` of them exist at a time. A bad update is
noted in ``refused`` by its name, and reads as zeros from then on.
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

from cloud_functions.aggregation.model_files import Bytes, ModelReader
from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.ports import LONGEST_WAIT
from fedgrass.federation.weights import DTYPES, Layout
from fedgrass.federation.weights.slices import BLOCK, Kind, Slice, cut, cut_further

AHEAD = 3  # results in memory: one is used while the lanes make the others
WIDEST = 8  # bytes of a value
SMALLEST_BUFFERS = 48 * 1024**2  # bytes of all rows; for larger models, the size of the model
_LARGEST_BUFFERS = 256 * 1024**2
Result = TypeVar("Result")


class ModelSlices:
    """The base model of a round cut into slices, and what updates contain of each slice.

    Args:
        base: the model from which the devices started.
        layout: of the model.
        differences: whether updates contain changes instead of changed values.
        check: called before each slice; may raise to stop.
        part: the part of the model to cut; the whole model if None.
        carried: auxiliary arrays whose changes updates carry, after the model's arrays.
    """

    def __init__(  # noqa: PLR0913 - a model and what is done with it
        self,
        base: ModelReader,
        layout: Layout,
        *,
        differences: bool,
        check: Callable[[], None],
        part: Slice | None,
        carried: Layout,
    ) -> None:
        self.base = base
        self.layout = layout
        self.part = part
        self.sent = Layout({**layout.arrays, **carried.arrays}, 0, 0)  # all arrays of an update
        self._differences = differences
        self._check = check
        self._carried = carried

    @property
    def width(self) -> int:
        """Bytes of the widest value of an update."""
        return max([4, *(DTYPES[array.dtype].itemsize for array in self.layout.arrays.values())])

    def length(self, held: int, width: int) -> int:
        """Return how many values a slice may have.

        Args:
            held: bytes that all buffers together need for each value.
            width: bytes of a value in the file.
        """
        room = min(max(SMALLEST_BUFFERS, self.layout.data_bytes), _LARGEST_BUFFERS)
        return max(BLOCK, min(room // held, self.base.range_bytes // width) // BLOCK * BLOCK)

    def slices(self, length: int) -> Iterator[Slice]:
        """Yield the slices in file order, of at most ``length`` values each; raises what ``check`` raises."""
        for part in cut_further(self.part, length) if self.part else self._whole(length):
            self._check()
            yield part

    def _whole(self, length: int) -> Iterator[Slice]:
        yield from cut(self.layout, length)
        yield from cut(self._carried, length)

    def values(self, part: Slice) -> Floats:
        """Return a slice of the base model, float64 array of shape (L,).

        Auxiliary arrays, which updates carry as changes, have the base zero.

        Raises:
            AggregationFailed: the base model cannot be read.
        """
        return np.zeros(part.length) if self.is_carried(part) else self.base.values(part)

    def has_changes(self, part: Slice) -> bool:
        """Return whether updates contain changes of a slice; all but float32 is sent as full values."""
        return part.kind is Kind.FLOAT32 and (self._differences or self.is_carried(part))

    def is_carried(self, part: Slice) -> bool:
        """Return whether a slice is of auxiliary arrays."""
        return part.pieces[0].name in self._carried.arrays


class Readable(Protocol):
    """A file that is read slice by slice: an update, or a partial sum of updates."""

    name: str  # in ``refused``: the device of an update, the key of a partial sum

    def begin(self, first: Slice | None) -> None:
        """Start to read at a slice, or at the front if None. Raises UpdateRefused."""

    def read(self, part: Slice, row: NDArray[Any], scratch: Bytes) -> None:
        """Read the next slice into ``row``, array of shape (L,). Raises UpdateRefused."""

    def finish(self) -> None:
        """Check what was read. Raises UpdateRefused."""

    def peek(self, part: Slice, dtype: "np.dtype[Any] | None" = None) -> NDArray[Any]:
        """Return the values of any slice, array of shape (L,), read again. Raises UpdateRefused."""


class ReaderThreads:
    """Threads that read updates; a context manager that ends them.

    Args:
        updates: what to read.
        count: the number of lanes.
        length: values of the longest slice.
    """

    def __init__(self, updates: Sequence[Readable], count: int, length: int) -> None:
        self.updates = updates
        self._pools = [ThreadPoolExecutor(1, thread_name_prefix=f"lane-{lane}") for lane in range(count)]
        self._scratch = [np.empty(length * WIDEST, dtype=np.uint8) for _ in range(count)]
        self.refused: dict[str, str] = {}  # the reason for each bad update, by name

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
        """Submit work to a lane, which does it after all work submitted before."""
        return self._pools[lane].submit(do)

    def read(self, lane: int, place: int, part: Slice, row: NDArray[Any]) -> None:
        """Read the next slice of an update, in its lane.

        Args:
            lane: the lane of the update, whose thread calls this.
            place: index of the update.
            part: the slice.
            row: array of shape (L,) that receives the values, or zeros if the update is bad.
        """
        update = self.updates[place]
        if update.name not in self.refused:
            try:
                update.read(part, row, self._scratch[lane])
            except UpdateRefused as error:
                self.refused[update.name] = str(error)
            else:
                return
        row[:] = 0

    def each(self, do: Callable[[Readable], None]) -> None:
        """Call ``do`` with each update not yet refused; refuse those for which it raises UpdateRefused."""

        def do_share(lane: int) -> None:
            for update in self.updates[lane :: len(self)]:
                if update.name not in self.refused:
                    try:
                        do(update)
                    except UpdateRefused as error:
                        self.refused[update.name] = str(error)

        _wait_for([self.begin(lane, partial(do_share, lane)) for lane in range(len(self))])


def ahead(begun: Iterable[tuple[Result, Sequence[Future[None]]]]) -> Iterator[Result]:
    """Yield the results of lanes in order, while the lanes make the next ones.

    Args:
        begun: each result with the work that fills it. An item is taken only when its work is to begin, and
            at most ``AHEAD`` are in use: a result is valid until the next one is taken.
    """
    pending: deque[tuple[Result, Sequence[Future[None]]]] = deque()
    for item in begun:
        pending.append(item)
        if len(pending) == AHEAD:
            yield _done(*pending.popleft())
    while pending:
        yield _done(*pending.popleft())


def _done(result: Result, work: Sequence[Future[None]]) -> Result:
    _wait_for(work)
    return result


def _wait_for(work: Sequence[Future[None]]) -> None:
    """Wait for the work of lanes; raises what one of them raised."""
    for future in work:
        future.result(LONGEST_WAIT)


class Block(NamedTuple):
    """The same slice of several updates, side by side."""

    part: Slice
    places: range  # indices of the updates
    rows: NDArray[Any]  # float32 or float64, shape (updates, L)


class Blocks:
    """Reads blocks of columns into buffers that are used in turns.

    Args:
        lanes: read the updates.
        rows: updates in a block.
        length: values of the longest slice.
        width: bytes of the widest value.
    """

    def __init__(self, lanes: ReaderThreads, rows: int, length: int, width: int) -> None:
        self._lanes = lanes
        self._rows = rows
        self._buffers = [np.empty(rows * length * width, dtype=np.uint8) for _ in range(AHEAD)]

    def over(self, slices: Iterable[Slice]) -> Iterator[Block]:
        """Yield all slices of all updates, block by block.

        The rows of a block are valid until the next block is taken. The rows of a bad update, which
        ``lanes.refused`` names, are zeros from there on.
        """
        buffers = cycle(self._buffers)
        firsts = range(0, len(self._lanes.updates), self._rows)
        return ahead(self._begin(part, first, next(buffers)) for part in slices for first in firsts)

    def _begin(self, part: Slice, first: int, buffer: Bytes) -> tuple[Block, list[Future[None]]]:
        """Return a block and the work of the lanes that fills its rows."""
        places = range(first, min(first + self._rows, len(self._lanes.updates)))
        size = len(places) * part.length * part.dtype.itemsize
        block = Block(part, places, buffer[:size].view(part.dtype).reshape(len(places), -1))
        lanes = range(min(len(self._lanes), len(places)))
        return block, [self._lanes.begin(lane, partial(self._fill, lane, block)) for lane in lanes]

    def _fill(self, lane: int, block: Block) -> None:
        for place in block.places[lane :: len(self._lanes)]:
            self._lanes.read(lane, place, block.part, block.rows[place - block.places.start])


def squared_norm(change: NDArray[Any]) -> float:
    """Return the squared Euclidean norm of a change.

    Args:
        change: float32 or float64 array of shape (L,).

    Returns:
        The norm in float64 if it overflows in the array's type; infinity if it overflows in float64 too.
    """
    with np.errstate(over="ignore"):
        square = float(np.dot(change, change))
    if math.isfinite(square):
        return square
    wide = change.astype(np.float64)
    with np.errstate(over="ignore"):  # the caller refuses an infinite norm
        return float(np.dot(wide, wide))


def products_of(changes: NDArray[Any]) -> Floats:
    """Return the inner products of all pairs of changes.

    Args:
        changes: float32 or float64 array of shape (N, L).

    Returns:
        float64 array of shape (N, N).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        products = changes @ changes.T
        if not np.isfinite(products).all():
            wide = changes.astype(np.float64)
            products = wide @ wide.T
    return np.asarray(products, dtype=np.float64)
