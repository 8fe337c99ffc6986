"""What the page needs of a stack: its data, kept up to date elsewhere, and its actions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fedgrass.console.dashboard.fleet_views import CellBlock, DevicesPage, DeviceView, Overview, RunView
from fedgrass.console.dashboard.pages.page_actions import Actions


class FleetSource(Protocol):
    """The data of one stack; ``FleetState`` is one. All but ``device`` returns from memory."""

    @property
    def version(self) -> int:
        """Grows with each change of the data."""

    def start(self) -> None:
        """Begin to read and to listen."""

    def close(self) -> None:
        """Stop within two seconds."""

    def refresh(self) -> None:
        """Ask for a reading soon, after an action."""

    def overview(self) -> Overview:
        """Return what is shown of the whole stack."""

    def watch_run(self, name: str) -> None:
        """Keep a run up to date from now on."""

    def unwatch_run(self, name: str) -> None:
        """End what ``watch_run`` began, once per call."""

    def run(self, name: str) -> RunView | None:
        """Return a run; None if it was not read yet."""

    def blocks(self, run: str, most: int = 1000) -> Sequence[CellBlock]:
        """Return the cells of a run's open round in at most ``most`` blocks."""

    def devices(
        self, page: int, per_page: int, *, text: str = "", health: str = "", version: str = ""
    ) -> DevicesPage:
        """Return a page of the devices."""

    def device(self, name: str) -> DeviceView:
        """Read one device with its last rounds. Blocks; raises FedgrassError."""


@dataclass(frozen=True)
class ShownStack:
    """One stack of the page."""

    name: str
    source: FleetSource
    actions: Actions
