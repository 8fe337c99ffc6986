"""The sweep: every few minutes each living run is looked at, in case that all that should have come is lost.

A run that has ended is looked at once more, for what it may have left open.

A deadline's alarm, a reminder, the message of a reply: each is sent once, and what happens next in a run
hangs on it. The sweep hangs on none of them: EventBridge Scheduler sends it again and again, whatever became
of the ones before.
"""

from collections.abc import Iterator

from cloud_functions.recovery import repair
from cloud_functions.services import Services
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages.alarms import Reminder
from fedgrass.federation.rounds import Round, State, next_event
from fedgrass.federation.runs import LIVING, End, Open, Run, RunState, next_step, skipped

_ROUNDS_LOOKED_AT = 100  # of a run that has ended, once


def sweep(services: Services) -> None:
    """Wake each run that stands still. What is read grows with the living runs, and with the list of all."""
    for name in services.rounds.living():
        found = _found(services, name)
        if found and found[0].state in LIVING and stands_still(*found, services.now()):
            services.log(f"{name} stands still at round {found[0].round}: it is driven on")
            wake(services, found[0])
    for name in services.rounds.unsettled():
        _settle(services, name)


def _found(services: Services, name: str) -> tuple[Run, Round | None] | None:
    """Return a run that is listed and its newest round; None, with a line in the log, if rows are lost."""
    run = services.rounds.run(name)
    newest = services.rounds.round(name, run.round, run.attempt) if run and run.round else None
    if run is None or (run.round and newest is None):
        services.log(f"{name}: rows of the run are lost; `fedgrass repair {name}` rebuilds them", "ERROR")
        return None
    return run, newest


def _settle(services: Services, name: str) -> None:
    """Look once at a run that has ended: nothing of it may be left open.

    Whoever ended it may have died before it dealt with the open round; and of a table that was restored from
    a backup at that moment, the rows may be of different times.
    """
    found = _found(services, name)
    if found is None or found[0].state in LIVING:  # set going again at this moment
        return
    if is_settled(*found):
        if left := list(_left_open(services, found[0])):
            services.log(
                f"{name} has ended, and {', '.join(left)} is still going on: it is repaired", "WARNING"
            )
            try:
                repair.act(services, {"run": name})
            except FedgrassError as error:
                services.log(f"{name}: it cannot be repaired: {error}", "ERROR")
                return
        services.rounds.settle(name)
        return
    services.log(f"{name} has ended, and its round {found[0].round} has not been dealt with: it is driven on")
    wake(services, found[0])


def _left_open(services: Services, run: Run) -> Iterator[str]:
    """Yield the rounds before a run's newest one, among the last ones, that have not ended."""
    for number in range(max(1, run.round - _ROUNDS_LOOKED_AT), run.round + 1):
        attempt = 1
        while found := services.rounds.round(run.name, number, attempt):
            if found.state in {State.OPEN, State.AGGREGATING}:
                yield f"round {number} attempt {attempt}"
            attempt += 1


def is_settled(run: Run, newest: Round | None) -> bool:
    """Return whether a run that has ended left nothing undone."""
    if newest is None or newest.state is State.ABANDONED:
        return True
    if newest.state is State.CLOSED:  # a run that FAILED then says that this model is lost
        return run.published >= newest.number or run.state is RunState.FAILED
    return False


def wake(services: Services, run: Run) -> None:
    """Have a run driven on by a message of its own, so that one that fails costs no other.

    As the reminder that the run waits for: there is one look per wait.
    """
    services.alarms.remind(Reminder(run=run.name, at=run.look_at), 0)


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
    if run.state is RunState.PAUSED and run.reason:  # it was stopped, and waits for the operator
        return False
    if newest and run.published < newest.number and (newest.state is State.CLOSED or skipped(run, newest)):
        return True
    match next_step(run, newest, now):
        case Open():
            return not (run.waiting_since and now < run.look_at)  # for a device; its next look is under way
        case End():
            return True
    return False
