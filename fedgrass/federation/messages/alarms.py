"""What is to be done later: alarms at a time, and reminders after a while. Both come back as messages."""

from typing import Literal

from msgspec import Struct


class Alarm(Struct, frozen=True, kw_only=True):
    """An alarm of one attempt at a round, at ``at`` (milliseconds since the epoch, cloud).

    ``deadline`` rings when the round is overdue, ``open`` when it is time to open it.
    """

    run: str
    round: int
    attempt: int
    at: int
    kind: Literal["deadline", "open"]


class Reminder(Struct, frozen=True, kw_only=True):
    """Look after a run again; with a round, at the devices that have not accepted its announcement.

    ``turn`` counts: at the first the announcement is repeated, at the second it is given to another device.
    ``batch`` says with which batch of the round's devices they were asked: each has reminders of its own.
    ``at`` is the time that a run which waits has noted of its next look: of copies only the first goes on.
    """

    run: str
    round: int = 0
    attempt: int = 0
    turn: int = 0
    batch: int = 0
    at: int = 0


LONGEST_REMINDER = 900  # seconds: what SQS can delay a message
