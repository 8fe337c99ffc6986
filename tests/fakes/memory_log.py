"""A ``Log`` that records its lines and metrics."""

from collections.abc import Iterator
from contextlib import contextmanager

from cloud_functions.monitoring import Level, Metric


class MemoryLog:
    """Records lines and metrics, each with the run, round and device that it is about."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.entries: list[tuple[tuple[str, int, str], Level, str]] = []
        self.measured: list[tuple[tuple[str, int, str], Metric, float]] = []
        self._about = ("", 0, "")

    def __call__(self, text: str, level: Level = "INFO") -> None:
        self.lines.append(text)
        self.entries.append((self._about, level, text))

    @contextmanager
    def about(self, run: str = "", number: int = 0, device: str = "") -> Iterator[None]:
        before, self._about = self._about, (run, number, device)
        try:
            yield
        finally:
            self._about = before

    def measure(self, metric: Metric, value: float) -> None:
        self.measured.append((self._about, metric, value))

    def values(self, metric: Metric) -> list[float]:
        """Return the values of a metric, in order."""
        return [value for _, name, value in self.measured if name is metric]
