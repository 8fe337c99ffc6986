"""The port through which a grid runs its simulations, with the semantics of ``concurrent.futures.Executor``.

``submit`` returns a ``Future`` at once; a future that has not begun can be cancelled; ``shutdown`` waits, or
cancels what has not begun. What is submitted is bytes: any machine can run it, and nothing is pickled.
"""

from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self

from fedgrass.federation.errors import FedgrassError

Work = Callable[[bytes], bytes]


class WorkerLost(FedgrassError):
    """The process or machine that ran a work ended before the work did: it may be tried once more."""


class WorkCrashed(FedgrassError):
    """The work itself raised an error, which no repetition would change."""


class CellExecutor(Protocol):
    """Runs works elsewhere. As a context manager it waits for all of them, unless an error leaves it."""

    def submit(self, work: bytes) -> Future[bytes]:
        """Begin a work as soon as there is room; its future raises ``WorkerLost`` or ``WorkCrashed``.

        Raises:
            RuntimeError: ``shutdown`` or ``abandon`` was called.
        """

    def shutdown(self, *, wait: bool = True, cancel_futures: bool = False) -> None:
        """Accept no more work; with ``cancel_futures``, cancel what has not begun. May be called twice."""

    def abandon(self) -> None:
        """Cancel what has not begun, and end what runs: its futures are cancelled or raise ``WorkerLost``."""

    def __enter__(self) -> Self:
        """Return the executor."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all works; after an error, abandon them."""


class EndsInContext:
    """The context of an executor: mixed into each implementation."""

    def __enter__(self) -> Self:
        """Return the executor."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all works; after an error, abandon them."""
        if kind is not None:
            self.abandon()
        self.shutdown()

    def shutdown(self, *, wait: bool = True, cancel_futures: bool = False) -> None:
        """See ``CellExecutor``."""
        raise NotImplementedError

    def abandon(self) -> None:
        """See ``CellExecutor``."""
        raise NotImplementedError
