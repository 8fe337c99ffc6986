"""What the operator sees while a ServerApp runs: its log, and a line per round of messages.

On a terminal the rounds are redrawn in place below the log (rich). Elsewhere (a pipe, a log) a round is one
line when its messages are sent and one when all have an outcome.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table

from fedgrass.console.redrawn_view import RedrawnView
from fedgrass.console.tables import styled
from fedgrass.console.task_messages.message_outcomes import Failure, Outcome
from fedgrass.console.task_messages.message_queue import Letter
from fedgrass.console.terminal import LONGEST_TEXT
from fedgrass.federation.messages.message_fields import LONGEST_REASON
from fedgrass.federation.rounds import Round

_LONGEST_LINE = LONGEST_REASON + 2 * LONGEST_TEXT  # characters: a reason of a device, its name, and the rest
_MOST_ROWS = 12  # rounds that are shown; older ones that have ended leave first
_MEGA = 1e6
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class _Line:
    """One round of messages."""

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.began_at = now
        self.ended_at = 0.0
        self.aims: dict[str, None] = {}
        self.asked = 0
        self.accepted = 0
        self.replied = 0
        self.failures: dict[str, int] = {}  # number by kind
        self.bytes_down = 0
        self.bytes_up = 0
        self.adopted = False

    @property
    def outstanding(self) -> int:
        return self.asked - self.replied - sum(self.failures.values())

    def seconds(self, now: float) -> float:
        return (self.ended_at or now) - self.began_at

    @property
    def aim(self) -> str:
        return ", ".join(self.aims) + (" (of the earlier process)" if self.adopted else "")

    @property
    def failed(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.failures.items())


class ExchangeView(RedrawnView):
    """The ``Observer`` at the operator's terminal.

    Args:
        console: to print to.
        run: name of the run.
        clock: returns the seconds of a clock that never goes back.
    """

    def __init__(self, console: Console, run: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console)
        self._run, self._clock = run, clock
        self._lock = threading.RLock()
        self._lines: dict[int, _Line] = {}
        self._uploaded = 0
        self._held_up = ""

    def say(self, text: str, style: str = "") -> None:
        """Print one line above the rounds, literally."""
        self._console.print(styled((text, style), longest=_LONGEST_LINE), highlight=False, soft_wrap=True)

    def sent(self, number: int, letters: Sequence[Letter], *, adopted: bool) -> None:
        """Add messages that were sent, or adopted, to their round."""
        with self._lock:
            line = self._lines.setdefault(number, _Line(number, self._clock()))
            line.ended_at = 0.0
            line.adopted = adopted
            line.asked += len(letters)
            for letter in letters:
                line.aims[f"{letter.type} {letter.group}".strip()] = None
            if not adopted:
                line.bytes_down += sum(letter.content.holds for letter in letters)
            uploaded, self._uploaded = self._uploaded, 0
            self._held_up = ""
            self._forget()
        if not adopted:
            size = f", {line.bytes_down / _MEGA:.2f} MB to download" if line.bytes_down else ""
            stored = f", {uploaded / _MEGA:.2f} MB uploaded" if uploaded else ""
            self._plain(f"round {number}: {line.aim} sent to {_devices(line.asked)}{size}{stored}")

    def stored(self, size: int) -> None:
        """Count an uploaded file to the next round."""
        with self._lock:
            self._uploaded += size

    def seen(self, round_: Round) -> None:
        """Note how many devices have accepted."""
        with self._lock:
            if line := self._lines.get(round_.number):
                line.accepted = max(line.accepted, min(round_.accepted, line.asked))

    def collected(self, number: int, device: str, outcome: Outcome) -> None:
        """Count an outcome; print a failure with its reason."""
        with self._lock:
            line = self._lines.setdefault(number, _Line(number, self._clock()))
            if isinstance(outcome, Failure):
                line.failures[outcome.kind] = line.failures.get(outcome.kind, 0) + 1
            else:
                line.replied += 1
                line.bytes_up += outcome.bytes
            ended = line.outstanding <= 0
            if ended:
                line.ended_at = self._clock()
        if isinstance(outcome, Failure):
            self.say(f"round {number}: {device} {outcome}", "yellow")
        if ended:
            failed = f", {line.failed}" if line.failures else ""
            self._plain(
                f"round {number}: {line.replied} replied{failed}, {line.bytes_up / _MEGA:.2f} MB,"
                f" in {line.seconds(self._clock()):.2f} s"
            )

    def postponed(self, device: str, reason: str) -> None:
        """Print that a device gets its message later."""
        self.say(f"{device} is asked again later: {reason}", "dim")

    def held_up(self, reason: str) -> None:
        """Print why no messages are sent, once."""
        if reason != self._held_up:
            self._held_up = reason
            self.say(f"messages wait: {reason}", "yellow")

    def _plain(self, text: str) -> None:
        if not self._console.is_terminal:
            self.say(text)

    def _forget(self) -> None:
        """Forget the oldest rounds that have ended."""
        for number in [number for number, line in self._lines.items() if line.ended_at][:-_MOST_ROWS]:
            del self._lines[number]

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("round", "message", "asked", "accepted", "replied", "failed", "MB down/up", "s"):
            table.add_column(styled((heading, "dim")), no_wrap=True, overflow="ellipsis")
        now = self._clock()
        with self._lock:
            for line in list(self._lines.values())[-_MOST_ROWS:]:
                table.add_row(
                    str(line.number),
                    styled((line.aim, "" if line.ended_at else "cyan"), longest=LONGEST_TEXT),
                    str(line.asked),
                    str(line.accepted),
                    styled((str(line.replied), "green" if line.replied == line.asked else "")),
                    styled((line.failed, "red")),
                    f"{line.bytes_down / _MEGA:.2f}/{line.bytes_up / _MEGA:.2f}",
                    f"{line.seconds(now):.1f}",
                )
        return Group(styled((f"run {self._run}", "bold")), table)


class LogToView(logging.Handler):
    """Shows the log lines of Flower and of the app in the view, without empty ones."""

    def __init__(self, view: ExchangeView) -> None:
        super().__init__(logging.INFO)
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        """Print the lines of a record."""
        for line in record.getMessage().expandtabs(2).splitlines():
            if line.strip():
                self._view.say(line.rstrip(), _STYLES.get(record.levelno, ""))


def _devices(count: int) -> str:
    return f"{count} device{'' if count == 1 else 's'}"
