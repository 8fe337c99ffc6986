"""Follow a run until it has ended, by reading its rows: as a live view, line by line, or for its exit code.

Each look reads the run, its newest rounds and the participants of those that have changed; of large rounds
only once they have ended. A message on the run's topic causes the next look at once; without a subscription
there is one every two seconds. A look that AWS refuses for the moment, or does not answer, is repeated.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from fedgrass.console import stack
from fedgrass.console.results import show_result
from fedgrass.console.runs import fleet_operator, history
from fedgrass.console.runs.fleet_operator import Operator, RoundRecord
from fedgrass.console.runs.live_view import LiveView
from fedgrass.console.tables import console as console_of
from fedgrass.console.terminal import complain, say, say_json_line
from fedgrass.console.topic_feed.signed_address import signed_address
from fedgrass.console.topic_feed.topic_subscription import TopicSubscription
from fedgrass.federation import topics
from fedgrass.federation.rounds import ENDED, Participation, Round, State
from fedgrass.federation.runs import LIVING, Run, RunState

TIMED_OUT = 5
EXIT_CODES = {RunState.SUCCEEDED: 0, RunState.FAILED: 3, RunState.CANCELLED: 4}  # of ``run wait``
_LOOK_SECONDS = 2.0
_LEAST_SECONDS = 0.5  # between two looks, however many messages come
_MOST_READ = 500  # devices of an open round whose parts are read at each look
_WAIT_SECONDS = 5.0
_COUNTS = ("asked", "replied", "refused", "declined", "failed", "silent", "late", "overdue", "stale")
_STATES: dict[str, str] = {
    Participation.ASKED: "asked",
    Participation.ACCEPTED: "accepted",
    Participation.REPLIED: "done",
}


class RunEvent(Struct, frozen=True, kw_only=True):
    """One change of a run that was noticed."""

    kind: str  # run, round, progress (of an open round, whose counts have moved) or device
    run: str
    state: str  # of the run, of the round or of the device's part in it
    round: int = 0  # 0: the event is of the run
    attempt: int = 0
    device: str = ""
    reason: str = ""  # of the state, as far as one is known
    figures: dict[str, Any] = {}  # of a round or its progress: as in history.json, without ``devices``


class _Seen:
    """What was read of a run before, to notice what has changed since."""

    def __init__(self) -> None:
        self._run = ""
        self._rounds: dict[tuple[int, int], str] = {}
        self._counts: dict[tuple[int, int], tuple[int, ...]] = {}
        self._devices: dict[tuple[int, int, str], str] = {}

    def changed_run(self, run: Run) -> bool:
        before, self._run = self._run, run.state
        return before != run.state

    def changed_round(self, round_: Round) -> bool:
        before = self._rounds.get((round_.number, round_.attempt))
        self._rounds[round_.number, round_.attempt] = round_.state
        return before != round_.state

    def changed_counts(self, round_: Round) -> bool:
        """Return whether the counters have moved, so that its participants are worth reading."""
        counts = (round_.asked, round_.accepted, round_.replied, round_.refused, round_.gone, round_.late)
        before = self._counts.get((round_.number, round_.attempt))
        self._counts[round_.number, round_.attempt] = counts
        return before != counts

    def changed_device(self, round_: Round, device: str, state: str) -> bool:
        key = (round_.number, round_.attempt, device)
        before, self._devices[key] = self._devices.get(key), state
        return before != state

    @property
    def first_round(self) -> int:
        """The oldest round that may still change."""
        still_open = [number for (number, _), state in self._rounds.items() if state not in ENDED]
        return min(still_open, default=max((number for number, _ in self._rounds), default=1))


def run_events(
    operator: Operator, name: str, pause: Callable[[], None], *, devices: bool = True
) -> Iterator[RunEvent]:
    """Yield what happens in a run, from what is so already, until the run has ended.

    Args:
        operator: access to the stack.
        name: name of the run.
        pause: waits until the next look.
        devices: whether to read the participants of rounds, and yield events of devices.

    Raises:
        SettingsError: the run does not exist.
    """
    seen = _Seen()
    run = operator.run(name)
    first = max(1, run.round)
    while True:
        try:
            # The run is read before its rounds: what is read after its end is complete.
            run = operator.run(name)
            yield from _changes(operator, run, seen, max(first, seen.first_round), devices=devices)
        except Exception as error:
            if not stack.is_passing(error):
                raise
            complain(f"the run cannot be read at the moment, trying again: {error}")
        else:
            if run.state not in LIVING:
                return
        pause()


def _changes(operator: Operator, run: Run, seen: _Seen, first: int, *, devices: bool) -> Iterator[RunEvent]:
    for round_ in list(operator.rounds_alone(run, first)):
        moved, counted = seen.changed_round(round_), seen.changed_counts(round_)
        readable = round_.asked <= _MOST_READ or round_.state in ENDED
        parts = operator.participants(round_) if devices and counted and readable else []
        record = RoundRecord(round_, parts)
        for part in record.participants:
            if seen.changed_device(round_, part.device, part.state):
                yield RunEvent(
                    kind="device",
                    run=run.name,
                    state=part.state,
                    round=round_.number,
                    attempt=round_.attempt,
                    device=part.device,
                    reason=part.reason,
                )
        if moved or counted:
            figures = history.summarize(record, {})
            del figures["devices"]
            yield RunEvent(
                kind="round" if moved else "progress",
                run=run.name,
                state=round_.state,
                round=round_.number,
                attempt=round_.attempt,
                reason=round_.reason,
                figures=figures,
            )
    if seen.changed_run(run):
        yield RunEvent(kind="run", run=run.name, state=run.state, reason=run.reason)


@stack.refusals()
def follow(stack_name: str, name: str, output: str) -> None:
    """Follow a run until it has ended: redrawn on a terminal, otherwise a line per event.

    With ``output`` json, each line is one JSON object.
    """
    operator = fleet_operator.open_operator(stack_name)
    run = operator.run(name)
    topic = topics.of_run(stack.outputs(stack_name)["Fleet"], name)
    with TopicSubscription(signed_address, [topic]) as subscription:

        def pause() -> None:
            """Wait for a message; without a connection, for the time between two looks."""
            time.sleep(_LEAST_SECONDS)
            subscription.take(_LOOK_SECONDS - _LEAST_SECONDS)

        _show_events(run, run_events(operator, name, pause), output)


def _show_events(run: Run, events: Iterable[RunEvent], output: str) -> None:
    if output == "json":
        for event in events:
            say_json_line(msgspec.to_builtins(event))
        return
    rounds = None if run.settings.has_server_app else run.settings.rounds
    with LiveView(console_of(), run.name, rounds) as view:
        view.round_closed(max(0, run.round - 1), "")  # those before are not shown
        for event in events:
            show_event(view, event)


def show_event(view: LiveView, event: RunEvent) -> None:
    """Show one event in the live view: devices in their rows, changes of rounds and of the run as lines."""
    about = f"  round {event.round}.{event.attempt} "
    if event.kind == "device":
        state = _STATES.get(event.state, event.state.lower())
        view.show_device(event.device, event.round, state, event.reason)
    elif event.kind == "progress":
        found = event.figures
        view.round_note(f"round {event.round}: {found['replied']} of {found['asked']} replied")
    elif event.kind == "round":
        reason = f"; {event.reason}" if event.reason else ""
        view.say(f"{event.state.lower()}{_figures(event)}{reason}", aside=about)
        if event.state == State.CLOSED:
            view.round_closed(event.round, "")
    else:
        view.say(f"run {event.run}: {event.state} {event.reason}".rstrip())


def _figures(event: RunEvent) -> str:
    if event.state not in ENDED:
        return f": {event.figures['asked']} asked"
    found = event.figures
    metrics = "".join(f", {name} {value:.4g}" for name, value in sorted(found["metrics"].items()))
    counts = [f"{found[name]} {name}" for name in _COUNTS if found[name]]
    return f": {', '.join(counts) or 'no devices asked'} in {found['seconds'] or 0:.1f} s{metrics}"


class Waited(Struct, frozen=True, kw_only=True):
    """How a run ended, or that it did not within the time."""

    name: str
    state: RunState
    reason: str
    timed_out: bool


@stack.refusals()
def wait(stack_name: str, name: str, output: str, *, timeout: float | None) -> None:
    """Wait until a run has ended; exit with the code for its state.

    Args:
        stack_name: the stack.
        name: name of the run.
        output: ``text`` or ``json``.
        timeout: the longest time to wait, in seconds; None: no limit.

    Raises:
        SettingsError: the run does not exist.
    """
    found = wait_for(fleet_operator.open_operator(stack_name), name, timeout, time.monotonic, time.sleep)

    def draw(waited: Waited) -> None:
        say(f"run {waited.name}: {waited.state} {waited.reason}".rstrip())
        if waited.timed_out:
            complain(f"fedgrass: run {name!r} has not ended within {timeout:g} s: it continues")

    show_result(found, output, draw)
    sys.exit(TIMED_OUT if found.timed_out else EXIT_CODES[found.state])


def wait_for(
    operator: Operator,
    name: str,
    timeout: float | None,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> Waited:
    """Return how a run ended, or its state after ``timeout`` seconds.

    Args:
        operator: access to the stack.
        name: name of the run.
        timeout: in seconds; None: no limit.
        clock: returns seconds; a monotonic clock.
        pause: waits for a number of seconds.
    """
    began = clock()
    run = operator.run(name)
    while run.state in LIVING:
        left = _WAIT_SECONDS if timeout is None else min(_WAIT_SECONDS, timeout - (clock() - began))
        if left <= 0:
            break
        pause(left)
        try:
            run = operator.run(name)
        except Exception as error:
            if not stack.is_passing(error):
                raise
            complain(f"the run cannot be read at the moment, trying again: {error}")
    return Waited(name=name, state=run.state, reason=run.reason, timed_out=run.state in LIVING)
