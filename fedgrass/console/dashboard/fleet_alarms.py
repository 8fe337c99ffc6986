"""The alarms and dead letters of a stack, for the dashboard; read at long intervals."""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from fedgrass.console import stack
from fedgrass.console.aws_clients import Clients
from fedgrass.console.dashboard.fleet_views import AlarmLine, DeadLetterLine
from fedgrass.console.runs.dead_letters import DeadLetters
from fedgrass.federation.errors import FedgrassError

_ALARMS_EVERY, _LETTERS_EVERY = 60.0, 30.0  # seconds
_STATES = {"OK": "ok", "ALARM": "alarm"}
_MOST_LETTERS = 50


class AlarmsView(Struct, frozen=True, kw_only=True):
    """Alarms and dead letters as they were last read."""

    alarms: tuple[AlarmLine, ...] = ()
    alarms_note: str = ""
    dead_letters: tuple[DeadLetterLine, ...] = ()
    dead_letter_count: int = 0
    letters_note: str = ""


class FleetAlarms:
    """Reads the alarms of one stack's CloudWatch, and its dead-letter queue.

    Args:
        clients: returns the boto3 client of a service.
        outputs: the outputs of the stack.
        stack_name: begins the names of its alarms, as CloudFormation makes them.
        clock: returns the time in seconds.
    """

    def __init__(
        self, clients: Clients, outputs: Mapping[str, str], stack_name: str, clock: Callable[[], float]
    ) -> None:
        self._clients, self._outputs, self._stack_name, self._clock = clients, outputs, stack_name, clock
        self._alarms_due = self._letters_due = 0.0
        self.view = AlarmsView()

    def refresh(self) -> None:
        """Have both read at the next call of ``read_if_due``."""
        self._alarms_due = self._letters_due = 0.0

    def read_if_due(self) -> bool:
        """Read what is due; return whether anything changed. What cannot be read is noted in the view."""
        now, before = self._clock(), self.view
        if now >= self._letters_due:
            self._letters_due = now + _LETTERS_EVERY
            self._read_letters()
        elif now >= self._alarms_due:
            self._alarms_due = now + _ALARMS_EVERY
            self._read_alarms()
        return self.view != before

    def _read_letters(self) -> None:
        try:
            self._receive_letters()
            self._change(letters_note="")
        except FedgrassError as error:  # such as credentials that may not read the queue: the rest continues
            self._change(letters_note=f"the dead letters cannot be read: {error}")

    def _receive_letters(self) -> None:
        with stack.refusals():
            queue = DeadLetters(self._clients, self._outputs)
            count = queue.count()
            letters = self.view.dead_letters
            if count != self.view.dead_letter_count:  # receiving them hides them from others for a moment
                found = queue.show(_MOST_LETTERS) if count else []
                letters = tuple(
                    DeadLetterLine(text=one.line, source=one.source.rpartition(":")[2]) for one in found
                )
        self._change(dead_letters=letters, dead_letter_count=count)

    def _read_alarms(self) -> None:
        try:
            with stack.refusals():
                answer = self._clients("cloudwatch").describe_alarms(
                    AlarmNamePrefix=f"{self._stack_name}-", AlarmTypes=["MetricAlarm"], MaxRecords=100
                )
        except FedgrassError as error:  # such as credentials that may not read alarms: the rest continues
            self._change(alarms=(), alarms_note=f"the alarms cannot be read: {error}")
            return
        alarms = tuple(
            AlarmLine(
                name=alarm["AlarmName"].removeprefix(f"{self._stack_name}-"),
                state=_STATES.get(alarm["StateValue"], "unknown"),
                reason=alarm.get("AlarmDescription", ""),
                at=round(alarm["StateUpdatedTimestamp"].timestamp() * 1000)
                if "StateUpdatedTimestamp" in alarm
                else 0,
            )
            for alarm in answer["MetricAlarms"]
        )
        note = "" if alarms else "the stack has no alarms in CloudWatch"
        self._change(alarms=tuple(sorted(alarms, key=_by_urgency)), alarms_note=note)

    def _change(self, **values: Any) -> None:
        self.view = replace(self.view, **values)


def _by_urgency(alarm: AlarmLine) -> tuple[int, str]:
    return ({"alarm": 0, "unknown": 1}.get(alarm.state, 2), alarm.name)
