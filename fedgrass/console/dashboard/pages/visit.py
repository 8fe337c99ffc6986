"""What one browser looks at: the stack, the view and the run that it chose."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from nicegui import run as executor
from nicegui.elements.mixins.text_element import TextElement

from fedgrass.console.dashboard.fleet_views import RunView
from fedgrass.console.dashboard.pages.elements import say
from fedgrass.console.dashboard.pages.page_sources import FleetSource, ShownStack
from fedgrass.console.terminal import printable
from fedgrass.federation.errors import FedgrassError

_LONGEST_OUTCOME = 500  # characters


class View(Protocol):
    """A part of the page."""

    def update(self, now: int) -> None:
        """Show the stack's present data; ``now`` is in milliseconds since the epoch."""


class Visit:
    """One browser's visit.

    Args:
        stacks: those that the page shows; at least one.
        show: builds the view of this name in the page.
        update: updates the present view, after a choice that it has to follow.
    """

    def __init__(
        self, stacks: Sequence[ShownStack], show: Callable[[str], None], update: Callable[[], None]
    ) -> None:
        self.stacks = stacks
        self.show = show
        self.update = update
        self.outcome: TextElement | None = None  # where the outcome of an action is shown
        self.device = ""  # the device that is shown in the view of the devices
        self._place = 0
        self._chosen: dict[int, str] = {}  # run by stack
        self._watched: set[tuple[int, str]] = set()

    @property
    def stack(self) -> ShownStack:
        """The chosen stack."""
        return self.stacks[self._place]

    @property
    def place(self) -> int:
        """The place of the chosen stack."""
        return self._place

    def choose_stack(self, place: int) -> None:
        """Show another stack."""
        if 0 <= place < len(self.stacks):
            self._place = place

    def choose_run(self, place: int, name: str) -> None:
        """Show another run of a stack."""
        self._chosen[place] = name

    def run_name(self, place: int) -> str:
        """Return the run that is shown of a stack: the chosen one, else the first of the list."""
        runs = self.stacks[place].source.overview().runs
        chosen = self._chosen.get(place, "")
        if chosen and any(line.name == chosen for line in runs):
            return chosen
        return runs[0].name if runs else ""

    def run(self, place: int) -> RunView | None:
        """Return the run that is shown of a stack, which is kept up to date from now on."""
        name = self.run_name(place)
        if not name:
            return None
        if (place, name) not in self._watched:
            for other in [pair for pair in self._watched if pair[0] == place]:
                self._unwatch(*other)
            self._watched.add((place, name))
            self.stacks[place].source.watch_run(name)
        return self.stacks[place].source.run(name)

    def close(self) -> None:
        """Release the runs that only this visit keeps up to date."""
        for pair in list(self._watched):
            self._unwatch(*pair)

    def _unwatch(self, place: int, name: str) -> None:
        self._watched.discard((place, name))
        self.stacks[place].source.unwatch_run(name)

    async def perform(self, source: FleetSource, action: Callable[[], str]) -> bool:
        """Carry out an action in a thread and show its outcome; return whether it succeeded."""
        try:
            done = await executor.io_bound(action)
        except FedgrassError as error:
            self.tell(f"Refused: {error}", "bad")
            return False
        self.tell(done or "", "good")
        source.refresh()
        self.update()
        return True

    def tell(self, outcome: str, tone: str) -> None:
        """Show the outcome of an action, which screen readers announce."""
        if self.outcome is not None and not self.outcome.is_deleted:
            say(self.outcome, printable(outcome, _LONGEST_OUTCOME), f"banner tone-{tone}")


def now_in_milliseconds() -> int:
    """Return the time since the epoch."""
    return round(time.time() * 1000)


def shown_time(at: int) -> str:
    """Return a time of the cloud's clock for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at / 1000)) if at else ""


def plain(value: Any, longest: int = 300) -> str:
    """Return any text of a device in one printable line."""
    return printable(str(value), longest)
