"""Reminders: look again later at a run that waits for its schedule or for a device to ask.

Each reminder sends the next until the run goes on. The run's row has the time of the next, so that there
is one chain however often the run is driven meanwhile; a broken chain is begun again by any event of the
run. Never more often than once a minute.
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

LOOK_AGAIN_SECONDS = 60
_ROUNDING = 1000  # milliseconds: delays are whole seconds


def has_come(services: Services, reminder: Reminder) -> None:
    """Note that the reminder of a run's chain has come, so that the next may be sent; a copy finds that done.

    Whatever the clock says: it may come a moment early, and to a run that does not wait just now.
    """
    while reminder.at:
        run = services.rounds.run(reminder.run)
        if run is None or run.state not in LIVING or run.look_at != reminder.at:
            return
        with contextlib.suppress(LostRace):  # the run moved on at that moment: look again
            services.rounds.change_run(run, look_at=0)


def for_the_schedule(services: Services, run: Run, alarm: Alarm) -> None:
    """Set the alarm that opens a round, and look after the run in case that this one is lost."""
    services.alarms.set(alarm)
    seconds = (
        -((services.now() - alarm.at) // 1000) + LOOK_AGAIN_SECONDS
    )  # a minute after it should have rung
    _look_again(services, run, min(max(seconds, LOOK_AGAIN_SECONDS), LONGEST_REMINDER))


def for_devices(services: Services, run: Run, step: Open) -> Cohort | None:
    """Wait as long as a round may take for a device to ask; return None meanwhile.

    Then the cohort is that of an attempt that was given up: nobody. Of a worker that gives up and one that
    finds a device at that moment, the second does as the first wrote.

    Raises:
        LostRace: somebody else drove the run on.
    """
    patience = run.settings.deadline_seconds
    if not run.waiting_since:
        run = services.rounds.change_run(run, waiting_since=services.now())
        _tell(
            services,
            run,
            step,
            f"waits up to {patience} s: {candidate_search.nobody(services, run.settings, step.work)}",
        )
    elif services.now() >= run.waiting_since + patience * 1000:
        return cohorts.none_once(services, run, step)
    _look_again(services, run, LOOK_AGAIN_SECONDS)
    return None


def _look_again(services: Services, run: Run, seconds: int) -> None:
    """Send the next reminder of the run's chain, unless one is under way that comes as soon.

    A worker that dies before it has noted it leaves a reminder behind that finds the old one overdue.
    """
    now = services.now()
    at = now + seconds * 1000
    if now < run.look_at < at + _ROUNDING:
        return
    services.alarms.remind(Reminder(run=run.name, at=at), seconds)
    services.rounds.change_run(run, look_at=at)


def _tell(services: Services, run: Run, step: Open, text: str) -> None:
    """Say once what a run waits for; there is no round yet of which it could be said."""
    change = RoundChange(
        run=run.name, round=step.number, attempt=step.attempt, state="WAITING", text=shorten(text)
    )
    services.say(change)
