"""Reminders: look again later at a run that waits, or that a crash may have left half-way.

A run that waits for its schedule or for a device has a chain of reminders, each of which sends the next, at
most one a minute. The run's row stores the time of the next one (``look_at``), so there is a single chain
however often the run is advanced; if the chain breaks, any other event of the run starts it again.
"""

import contextlib

from cloud_functions.selection import candidate_search, cohorts
from cloud_functions.selection.cohorts import Cohort
from cloud_functions.services import Services
from fedgrass.federation.errors import LostRace
from fedgrass.federation.messages import RoundChange
from fedgrass.federation.messages.alarms import LONGEST_REMINDER, Alarm, Reminder
from fedgrass.federation.messages.message_fields import shorten
from fedgrass.federation.runs import LIVING, Open, Run

_LOOK_AGAIN_SECONDS = 60
_ROUNDING = 1000  # milliseconds: delays are whole seconds


def look_again_later(services: Services, name: str) -> None:
    """Send a reminder that arrives in a minute, before a run is changed: the caller may crash after that."""
    services.alarms.remind(Reminder(run=name), _LOOK_AGAIN_SECONDS)


def look_now(services: Services, name: str) -> None:
    """Have an averager advance a run now."""
    services.alarms.remind(Reminder(run=name), 0)


def wake(services: Services, run: Run) -> None:
    """Have a run advanced now by a separate message, so that an error in one run does not affect others.

    The message takes the place of the next reminder of the run's chain, so the run is looked at once.
    """
    services.alarms.remind(Reminder(run=run.name, at=run.look_at), 0)


def mark_received(services: Services, reminder: Reminder) -> None:
    """Note that a reminder of a run's chain has arrived, so that the next can be sent; a copy has no effect.

    The clock is not checked: a reminder may arrive a moment early, or when the run no longer waits.
    """
    while reminder.at:
        run = services.rounds.run(reminder.run)
        if run is None or run.state not in LIVING or run.look_at != reminder.at:
            return
        with contextlib.suppress(LostRace):  # the run moved on at that moment: read it again
            services.rounds.change_run(run, look_at=0)


def wait_for_schedule(services: Services, run: Run, alarm: Alarm) -> None:
    """Set the alarm that opens a round, and a reminder for a minute after it, in case the alarm is lost."""
    services.alarms.set(alarm)
    seconds = -((services.now() - alarm.at) // 1000) + _LOOK_AGAIN_SECONDS
    _continue_chain(services, run, min(max(seconds, _LOOK_AGAIN_SECONDS), LONGEST_REMINDER))


def wait_for_devices(services: Services, run: Run, step: Open) -> Cohort | None:
    """Wait for a device to ask, at most for the duration of a round.

    If one worker gives up while another finds a device, the second follows what the first has written.

    Returns:
        None while the run waits; after that an empty cohort, with which the attempt is abandoned.

    Raises:
        LostRace: another worker has moved the run.
    """
    limit = run.settings.deadline_seconds
    if not run.waiting_since:
        run = services.rounds.change_run(run, waiting_since=services.now())
        reason = candidate_search.why_none(services, run.settings, step.work)
        _report_waiting(services, run, step, f"waits up to {limit} s: {reason}")
    elif services.now() >= run.waiting_since + limit * 1000:
        return cohorts.none_once(services, run, step)
    _continue_chain(services, run, _LOOK_AGAIN_SECONDS)
    return None


def _continue_chain(services: Services, run: Run, seconds: int) -> None:
    """Send the next reminder of the run's chain, unless one is on its way that arrives no later.

    If a worker crashes after sending it and before noting it, the next worker sends another one.
    """
    now = services.now()
    at = now + seconds * 1000
    if now < run.look_at < at + _ROUNDING:
        return
    services.alarms.remind(Reminder(run=run.name, at=at), seconds)
    services.rounds.change_run(run, look_at=at)


def _report_waiting(services: Services, run: Run, step: Open, text: str) -> None:
    """Report once what a run waits for, under the number of the round that is not stored yet."""
    change = RoundChange(
        run=run.name, round=step.number, attempt=step.attempt, state="WAITING", text=shorten(text)
    )
    services.publish_change(change)
