"""Reading many updates at once: each lane is a thread that reads its updates in order, slice after slice.

An update always keeps its lane, so that its bytes come in order and its checksums can be made on the way.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.slices import Slice

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


class Lanes:
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
