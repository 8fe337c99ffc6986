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
    ``asked`` is how many devices were asked by then: once others were, reminders of their own look at all.
    """

    run: str
    round: int = 0
    attempt: int = 0
    turn: int = 0
    asked: int = 0


LONGEST_REMINDER = 900  # seconds: what SQS can delay a message
