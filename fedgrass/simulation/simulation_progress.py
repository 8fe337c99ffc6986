"""The progress of a simulation on a terminal: rounds, rounds per minute and the remaining time."""

import time
from collections.abc import Mapping

from rich.console import Console, RenderableType

from fedgrass.console.redrawn_view import RedrawnView
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.console.tables import styled
from fedgrass.federation.rounds import State

_SHOWN = 2  # metrics
_MINUTE = 60
_LINE_SECONDS = 10.0  # between two lines where there is no terminal


class SimulationProgress(RedrawnView):
    """Shows the rounds of a simulation as they end.

    Args:
        console: to print on.
        rounds: of the run.
    """

    def __init__(self, console: Console, rounds: int) -> None:
        super().__init__(console)
        self._rounds = rounds
        self._began = self._printed = time.monotonic()
        self._first: float | None = None  # when the first round ended: before, workers start
        self._ended = 0
        self._text = "the virtual devices are prepared ..."

    def on_round(self, record: RoundRecord, metrics: Mapping[str, float]) -> None:
        """Note a round that has ended.

        Args:
            record: the round.
            metrics: of its model on held-out data.
        """
        now = time.monotonic()
        self._ended += 1
        if self._first is None:
            self._first = now
        self._text = self._line(record, metrics, now)
        if not self._console.is_terminal and now - self._printed >= _LINE_SECONDS:
            self._printed = now
            self._console.print(styled(self._text), soft_wrap=True)

    def _line(self, record: RoundRecord, metrics: Mapping[str, float], now: float) -> str:
        round_ = record.round
        outcome = "" if round_.state is State.CLOSED else f" {round_.state.lower()}"
        shown = [f"{name} {value:.4g}" for name, value in sorted(metrics.items())[:_SHOWN]]
        return ", ".join(
            [
                f"round {round_.number} of {self._rounds}{outcome}",
                f"{round_.replied} of {round_.asked} devices replied",
                *shown,
                *self._speed(round_.number, now),
            ]
        )

    def _speed(self, number: int, now: float) -> list[str]:
        """Return the rounds per minute and the remaining time, once they are known."""
        if self._first is None or self._ended < 2 or now <= self._first:  # noqa: PLR2004 - one is no rate
            return []
        seconds = (now - self._first) / (self._ended - 1)
        left = max(0, self._rounds - number) * seconds
        return [f"{_MINUTE / seconds:.0f} rounds a minute", f"{duration(left)} left"]

    def _render(self) -> RenderableType:
        return styled(self._text)


def duration(seconds: float) -> str:
    """Return a duration in a unit that suits it: ``47 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    for unit, size, digits in (("days", 86_400, 1), ("h", 3_600, 1), ("min", 60, 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"  # noqa: PLR2004 - see above
