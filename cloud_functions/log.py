"""The functions' one voice for those who keep them running: lines, and measurements."""

from contextlib import AbstractContextManager
from typing import Literal, Protocol

from cloud_functions.metrics import Metric

Level = Literal["INFO", "WARNING", "ERROR"]


class Log(Protocol):
    """A log whose every line, and every measurement, says of which run, round and device it is."""

    def __call__(self, text: str, level: Level = "INFO") -> None:
        """Write a line: INFO is the course of things, WARNING what comes back later, ERROR what failed."""

    def about(self, run: str = "", number: int = 0, device: str = "") -> AbstractContextManager[None]:
        """Say that what is written within is about a run, round ``number`` of it, and a device.

        What is empty or 0 is not known, or there is none. Afterwards it is as it was before.
        """

    def measure(self, metric: Metric, value: float) -> None:
        """Add a value to a metric of the fleet."""
