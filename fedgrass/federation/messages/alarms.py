"""Messages that the cloud sends to itself for later: alarms at a set time, and reminders after a delay."""

from typing import Literal

from msgspec import Struct


class Alarm(Struct, frozen=True, kw_only=True):
    """An alarm of one attempt at a round, at ``at`` (milliseconds since the epoch, by the cloud's clock).

    ``deadline`` fires when the round is overdue, ``open`` when it is time to open it.
    """

    run: str
    round: int
    attempt: int
    at: int
    kind: Literal["deadline", "open"]


class Reminder(Struct, frozen=True, kw_only=True):
    """A request to check on a run again; with a round, on devices that have not accepted its announcement.

    ``turn`` counts: on the first turn the announcement is repeated, on the second it is given to another
    device. ``batch`` is the batch in which the devices were asked; each batch has its own reminders. ``at``
    is the time that a waiting run has stored for its next check: of duplicates only one takes effect.
    """

    run: str
    round: int = 0
    attempt: int = 0
    turn: int = 0
    batch: int = 0
    at: int = 0


LONGEST_REMINDER = 900  # seconds: the longest delay of an SQS message
