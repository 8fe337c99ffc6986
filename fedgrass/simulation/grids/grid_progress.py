"""Show how far a grid is: done and total, elapsed and remaining time."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from rich.console import Console
from rich.text import Text

from fedgrass.console.redrawn_view import RedrawnView
from fedgrass.console.tables import styled
from fedgrass.console.terminal import printable
from fedgrass.simulation.grids.cell_work import CellOutcome, effort_of
from fedgrass.simulation.simulation_spec import SimulationSpec

_PRINTED = 200  # simulations: of a larger grid a line comes every ten seconds
_SECONDS_BETWEEN_LINES = 10.0


def estimate(pending: Sequence[SimulationSpec], kept: Sequence[CellOutcome], workers: int) -> float | None:
    """Return about how many seconds a grid will take, from its earlier simulations; None without any."""
    done = [each for each in kept if each.seconds and each.figures]
    effort = sum(effort_of(each.spec, each.spec.settings) for each in done)
    if not effort or not pending:
        return None
    rate = sum(each.seconds for each in done) / effort
    return rate * sum(effort_of(spec, spec.settings) for spec in pending) / max(1, min(workers, len(pending)))


def duration(seconds: float) -> str:
    """Return a duration such as 0:04:10, or 2 days, 3:00:00."""
    return str(timedelta(seconds=round(seconds)))


class Progress(RedrawnView):
    """The progress of a grid: a line per simulation, and below them, on a terminal, the remaining time.

    Args:
        names: cell and seed of each simulation, by its id.
        efforts: how long each one takes, in relation to the others, by its id.
        say: prints a line.
        console: to draw on.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        names: dict[str, str],
        efforts: dict[str, float],
        say: Callable[[str], None],
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console)
        self._names, self._efforts, self._say, self._clock = names, efforts, say, clock
        self._begun = clock()
        self._last_line = self._begun - _SECONDS_BETWEEN_LINES
        self._done = self._failed = 0
        self._done_effort, self._effort = 0.0, sum(efforts.values())

    @property
    def remaining(self) -> float | None:
        """Seconds, estimated from those that have ended; None before the first one has."""
        if not self._done_effort:
            return None
        elapsed = self._clock() - self._begun
        return elapsed * (self._effort - self._done_effort) / self._done_effort

    def ended(self, outcome: CellOutcome) -> None:
        """Note that a simulation has ended."""
        self._done += 1
        self._failed += bool(outcome.error)
        self._done_effort += self._efforts[outcome.id]
        total, now = len(self._names), self._clock()
        is_last = self._done == total
        if total > _PRINTED and not outcome.error and not is_last:
            if now - self._last_line < _SECONDS_BETWEEN_LINES:
                return
            self._last_line = now
        what = f"failed: {outcome.error}" if outcome.error else self._result(outcome)
        left = "" if is_last else f"; {self.status()}"
        self._say(printable(f"{self._done}/{total} {self._names[outcome.id]}: {what}{left}"))

    def _result(self, outcome: CellOutcome) -> str:
        figures = outcome.figures
        if figures is None:
            return "no figures"
        metrics = [f"{name} {value:.4g}" for name, value in sorted(figures.last.items())[:2]]
        return ", ".join([*metrics, f"{figures.rounds} rounds, {outcome.seconds:.1f} s"])

    def status(self) -> str:
        """Return elapsed and remaining time."""
        remaining = self.remaining
        left = (
            "remaining time is known after the first one"
            if remaining is None
            else f"about {duration(remaining)} left"
        )
        return f"{duration(self._clock() - self._begun)} elapsed, {left}"

    def _render(self) -> Text:
        failed = f", {self._failed} failed" if self._failed else ""
        return styled(f"{self._done} of {len(self._names)} simulations{failed}: {self.status()}")
