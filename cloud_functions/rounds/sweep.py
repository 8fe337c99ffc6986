"""The sweep: on a schedule, look at all living runs and wake those whose messages were lost."""

from collections.abc import Iterator

from cloud_functions.recovery import repair
from cloud_functions.rounds.reminders import wake
from cloud_functions.server_apps import message_rounds
from cloud_functions.services import Services
from cloud_functions.statistics.statistics_files import forget_answers
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.rounds import Round, State, next_event
from fedgrass.federation.runs import LIVING, End, Open, Run, RunState, next_step, skipped

_ROUNDS_CHECKED = 100  # the last ones of a run that has ended
_ROUNDS_FORGOTTEN = 200  # in one sweep


def sweep(services: Services) -> None:
    """Wake each run that could continue by itself but does not, and settle each run that has ended.

    Reads the living runs and the list of all runs.
    """
    for name in services.rounds.living():
        with services.log.about(name):
            found = _read(services, name)
            if found and found[0].state in LIVING and _is_stuck(services, *found):
                services.log(f"the run is stuck at round {found[0].round}: waking it")
                wake(services, found[0])
    for name in services.rounds.unsettled():
        with services.log.about(name):
            _settle(services, name)


def _is_stuck(services: Services, run: Run, newest: Round | None) -> bool:
    if run.settings.has_server_app:
        return message_rounds.is_stuck(run, list(services.unpublished(run)), services.now())
    return is_stuck(run, newest, services.now())


def _read(services: Services, name: str) -> tuple[Run, Round | None] | None:
    """Return a listed run and its newest round, or None (and log that) if a row of it is lost."""
    run = services.rounds.run(name)
    round_ = services.rounds.round(name, run.round, run.attempt) if run and run.round else None
    if run is None or (run.round and round_ is None):
        services.log(f"rows of the run are lost; `fedgrass run repair {name}` rebuilds them", "ERROR")
        return None
    return run, round_


def _settle(services: Services, name: str) -> None:
    """Check once that a run that has ended has left nothing open, and repair or wake it otherwise.

    The worker that ended it may have crashed before it abandoned the open round, and the rows of a table that
    was restored from a backup may be of different times.
    """
    found = _read(services, name)
    if found is None or found[0].state in LIVING:  # it was resumed at this moment
        return
    if not is_settled(*found):
        services.log(
            f"the run has ended, but its round {found[0].round} has not been published or abandoned:"
            " waking the run"
        )
        wake(services, found[0])
        return
    if left := list(_left_open(services, found[0])):
        services.log(
            f"the run has ended, but {', '.join(left)} is still in progress: repairing the run", "WARNING"
        )
        try:
            repair.act(services, {"run": name})
        except FedgrassError as error:
            services.log(f"the run cannot be repaired: {error}", "ERROR")
            return
    if _forget_replies(services, found[0]):
        services.rounds.settle(name)


def _forget_replies(services: Services, run: Run) -> bool:
    """Remove small replies of single devices from the table once their ServerApp has ended.

    Uploaded ones expire. Those of a FAILED run stay, since its ServerApp may be resumed.

    Returns:
        Whether that is done; the next sweep continues it otherwise.
    """
    if not run.settings.has_server_app or run.state is RunState.FAILED:
        return True
    last = min(run.round, run.forgotten + _ROUNDS_FORGOTTEN)
    for round_ in services.rounds.rounds_from(run.name, run.forgotten + 1, last):
        forget_answers(services, round_)
    services.rounds.change_run(run, forgotten=last)
    return last >= run.round


def _left_open(services: Services, run: Run) -> Iterator[str]:
    """Yield the attempts at a run's last rounds that have not ended."""
    for number in range(max(1, run.round - _ROUNDS_CHECKED), run.round + 1):
        attempt = 1
        while found := services.rounds.round(run.name, number, attempt):
            if found.state in {State.OPEN, State.AGGREGATING}:
                yield f"round {number} attempt {attempt}"
            attempt += 1


def is_settled(run: Run, round_: Round | None) -> bool:
    """Return whether a run that has ended left nothing undone in its newest round."""
    if run.settings.has_server_app:
        return run.published >= run.round
    if round_ is None or round_.state is State.ABANDONED:
        return True
    if round_.state is State.CLOSED:  # if the run FAILED in that state, the model of the round is lost
        return run.published >= round_.number or run.state is RunState.FAILED
    return False


def is_stuck(run: Run, round_: Round | None, now: int) -> bool:
    """Return whether a run could continue at ``now`` by itself, with no sign of a worker advancing it.

    Waking a run that a worker does advance has no effect, like any message that is delivered twice.
    """
    if round_ and round_.state is State.OPEN and run.has_given_up(round_):
        return True
    if round_ and round_.state is State.OPEN and not round_.announced:
        return not round_.is_being_announced(now)
    if round_ and round_.state in {State.OPEN, State.AGGREGATING}:
        return next_event(round_, now) is not None
    if round_ is None and run.round:
        return False  # its row is lost, which only `repair` can put right
    if run.state is RunState.PAUSED and run.reason:  # it was stopped, and waits for the operator
        return False
    if round_ and run.published < round_.number and (round_.state is State.CLOSED or skipped(run, round_)):
        return True
    match next_step(run, round_, now):
        case Open():  # unless it waits for a device, and its next reminder is on its way
            return not (run.waiting_since and now < run.look_at)
        case End():
            return True
    return False
