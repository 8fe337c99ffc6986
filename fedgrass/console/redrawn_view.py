"""A view that is redrawn in place on a terminal, below the lines that are printed meanwhile."""

from abc import ABC, abstractmethod
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

_REFRESH_PER_SECOND = 8


class RedrawnView(ABC):
    """Base class of the live views: a context within which ``_render`` is drawn, on a terminal only.

    Args:
        console: to print on.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Start the view."""
        if self._console.is_terminal:
            self._live = Live(  # draws at once
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=_REFRESH_PER_SECOND,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the view; lines printed above it remain."""
        if self._live:
            self._live.stop()

    @abstractmethod
    def _render(self) -> RenderableType:
        """Return what to draw; called on another thread."""
