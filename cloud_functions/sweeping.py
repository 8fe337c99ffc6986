"""The sweep: every few minutes each living run is looked at, in case that all that should have come is lost.

A deadline's alarm, a reminder, the message of a reply: each is sent once, and what happens next in a run
hangs on it. The sweep hangs on none of them: EventBridge Scheduler sends it again and again, whatever became
of the ones before.
"""

from cloud_functions.cloud import Cloud
from fedgrass.federation.alarms import Reminder
from fedgrass.federation.rounds import Round, State, next_event
from fedgrass.federation.runs import End, Open, Run, next_step, skipped


def sweep(cloud: Cloud) -> None:
    """Wake each living run that stands still. What is read grows with the living runs alone."""
    for run, newest in cloud.living_runs():
        if stands_still(run, newest, cloud.now()):
            cloud.log(f"{run.name} stands still at round {run.round}: it is driven on")
            wake(cloud, run)


def wake(cloud: Cloud, run: Run) -> None:
    """Have a run driven on by a message of its own, so that one that fails costs no other.

    As the reminder that the run waits for: there is one look per wait.
    """
    cloud.alarms.remind(Reminder(run=run.name, at=run.look_at), 0)


def stands_still(run: Run, newest: Round | None, now: int) -> bool:
    """Return whether a run could go on at ``now`` by itself, and nothing says that somebody is at it.

    A worker that is at it just now is disturbed as little as by any other message that comes twice.
    """
    if newest and newest.state is State.OPEN and run.has_given_up(newest):
        return True
    if newest and newest.state in {State.OPEN, State.AGGREGATING}:
        return next_event(newest, now) is not None
    if newest is None and run.round:
        return False  # its row is lost: that is for `repair`
    if newest and run.published < newest.number and (newest.state is State.CLOSED or skipped(run, newest)):
        return True
    match next_step(run, newest, now):
        case Open():
            return not (run.waiting_since and now < run.look_at)  # for a device; its next look is under way
        case End():
            return True
    return False
