"""The driver: advances a run until it has to wait for a device, a timer or another worker.

``advance`` repeats a single step while there is something to do; ``look_after`` does so for a reminder. A
step first does 1, if it applies, and then the first of the others that applies:

1. A round has closed: publish its model (publish.py).
2. The run has ended: abandon the round that it left open.
3. No round is in progress: open the next (open_round.py), wait for its time or for a device
   (reminders.py), or end the run. ``runs.next_step`` decides which.
4. The operator gave the open attempt up: abandon it.
5. Devices of the round were not notified yet: announce it to them (announce.py). While another worker does
   so, leave the round to it.
6. Devices declined or failed: ask others in their place (announce.py). In a buffered run, places in flight
   are vacant: ask devices to fill them (buffers/flight.py).
7. Enough replies for a partial sum have arrived: hand it over (aggregation/partial_sums.py).
8. The round cannot succeed any more: abandon it.
9. The round has enough replies, or is overdue: aggregate and close it (aggregate_round.py).

In a run with a ServerApp, several rounds may be open: server_apps/message_rounds.py takes their steps.

Any worker may call ``advance`` at any time, any number of times, also concurrently. Each step takes effect by
a conditional write; whatever else it does can be repeated. So the next call completes what a crash left
undone.
"""

import contextlib

from cloud_functions.aggregation import partial_sums
from cloud_functions.buffers import flight
from cloud_functions.recovery import manifests
from cloud_functions.rounds import aggregate_round, announce, close_round, open_round, publish, reminders
from cloud_functions.server_apps import message_rounds
from cloud_functions.services import Services
from fedgrass.federation.errors import LostRace, NotYet, RunBehind
from fedgrass.federation.messages import message_fields
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.rounds import Event, Round, State, Work, next_event
from fedgrass.federation.runs import LIVING, End, Open, Run, RunState, Wait, next_step, skipped


def advance(services: Services, name: str, alarm: Alarm | None = None, number: int = 0) -> None:
    """Drive a run until it has to wait.

    Args:
        services: the ports.
        name: the run.
        alarm: the alarm that triggered this call, if any.
        number: of a run with a ServerApp, the only round to look at; 0 for all.

    Raises:
        NotYet: another worker is averaging; call again when its lease may have expired.
    """
    more = True
    while more:
        run = services.rounds.run(name)
        if run is None:
            if manifests.is_kept(services, name):
                services.log(f"the run's row is lost; `fedgrass run repair {name}` rebuilds it", "ERROR")
            return
        if run.settings.has_server_app:
            more = _step_of_server_app(services, run, number, alarm)
            continue
        round_ = services.rounds.round(name, run.round, run.attempt) if run.round else None
        if run.round and round_ is None:  # opening round 1 again would damage the models that exist
            lost = f"the row of round {run.round} is lost; `fedgrass run repair {name}` rebuilds it"
            services.log(lost, "ERROR")
            return
        try:
            more = _step(services, run, round_, alarm)
        except LostRace:
            more = True  # another worker took the step: read the run again
        except RunBehind as error:
            more = _pause(services, run, round_, str(error))


def look_after(services: Services, reminder: Reminder) -> None:
    """Advance the run that a reminder names, after looking for devices that have not accepted their work."""
    reminders.mark_received(services, reminder)
    run = services.rounds.run(reminder.run)
    while run and run.state in LIVING and reminder.round:
        with contextlib.suppress(LostRace):  # a device replied at that moment: read the participants again
            announce.repeat_unaccepted(services, run, reminder)
            break
    advance(services, reminder.run, number=reminder.round)


def _step_of_server_app(services: Services, run: Run, number: int, alarm: Alarm | None) -> bool:
    """Take a step in the rounds of a run with a ServerApp; return whether there may be another."""
    try:
        return message_rounds.step(services, run, number, alarm)
    except LostRace:
        return True
    except RunBehind as error:
        return _pause(services, run, None, str(error))


def _step(services: Services, run: Run, round_: Round | None, alarm: Alarm | None) -> bool:
    """Take one step; return whether there may be another."""
    if round_ and run.published < round_.number:
        if (
            round_.state is State.CLOSED and not services.can_average
        ):  # publishing requires access to the drafts
            return _leave_to_averager(services, run)
        published = _publish(services, run, round_)
        if published is None:
            return False
        run = published
    if run.state not in LIVING:
        return _wind_up(services, run, round_, alarm)
    if not run.round:
        manifests.keep_run(services, run)
    # An alarm may fire a moment early. It is then taken to be as late as it states, or it would be lost.
    now = max(services.now(), alarm.at) if alarm and alarm.kind == "open" else services.now()
    match next_step(run, round_, now):
        case Open() as step:
            return open_round.open_next(services, run, round_, step)
        case Wait(number, until):
            if until is not None:
                next_open = Alarm(run=run.name, round=number, attempt=1, at=until, kind="open")
                reminders.wait_for_schedule(services, run, next_open)
            return False
        case End(state, reason):
            _end(services, run, round_, state, reason)
            return False
    return round_ is not None and _drive(services, run, round_, alarm)


def _drive(services: Services, run: Run, round_: Round, alarm: Alarm | None) -> bool:
    """Take one step within a round that is OPEN or AGGREGATING; return whether there may be another."""
    if round_.state is State.OPEN and run.has_given_up(round_):
        close_round.abandon(services, round_, Event.GIVEN_UP)
        return True
    if round_.state is State.OPEN and not round_.announced:
        return _announce(services, run, round_, alarm)
    overdue = alarm == open_round.deadline_of(round_)
    event = next_event(round_, services.now(), overdue=overdue)
    if _ask_more(services, run, round_, event):
        return True
    # Only averagers hand partial sums over. If the averager that counted the last reply of one has crashed,
    # the message of that reply is delivered again, to another averager.
    is_open = event is None and round_.state is State.OPEN
    if is_open and services.can_average and partial_sums.begin_full_group(services, run, round_):
        return True
    if event is None:
        if round_.state is State.AGGREGATING:
            message = f"another averager holds the lease of round {round_.number} of run {run.name}"
            raise NotYet(message)
        return False
    if event in {Event.DEADLINE_TOO_FEW, Event.MINIMUM_OUT_OF_REACH}:
        close_round.abandon(services, round_, event)
        return True
    if not services.can_average:
        return _leave_to_averager(services, run)
    return aggregate_round.aggregate(services, run, round_, event, overdue=overdue)


def _announce(services: Services, run: Run, round_: Round, alarm: Alarm | None) -> bool:
    """Announce a round, unless it is left to another worker; a new buffer is filled before that."""
    if announce.is_left_to_another(services, round_, alarm):
        return False
    is_new_buffer = round_.in_flight and not round_.announced_batches
    if not (is_new_buffer and flight.fill(services, run, round_)):
        announce.announce_all(services, run, round_)
    return True


def _ask_more(services: Services, run: Run, round_: Round, event: Event | None) -> bool:
    """Ask further devices if the round needs them and there may be some; return whether it was changed."""
    if round_.in_flight:
        return _could_fill(round_, event) and flight.fill(services, run, round_)
    return _could_replace(round_, event) and announce.replace_gone(services, run, round_)


def _could_replace(round_: Round, event: Event | None) -> bool:
    """Return whether other devices could still help a round that has lost some."""
    in_time = event in {None, Event.MINIMUM_OUT_OF_REACH} or (
        event is Event.ENOUGH_REPLIES and round_.good < round_.needed
    )
    return round_.state is State.OPEN and in_time and round_.unreplaced > 0


def _could_fill(buffer: Round, event: Event | None) -> bool:
    """Return whether devices should be asked in the vacant places of a buffer."""
    if buffer.state is not State.OPEN:
        return False
    if event is None:  # a buffer that was opened again has to count the replies held meanwhile
        return buffer.is_worth_filling or buffer.fence > 0
    lacking = event is Event.ENOUGH_REPLIES and buffer.good < buffer.needed
    return (lacking or event is Event.MINIMUM_OUT_OF_REACH) and buffer.vacant > 0


def _leave_to_averager(services: Services, run: Run) -> bool:
    """Leave the run's next step, which this worker may not take, to an averager; return False."""
    reminders.look_now(services, run.name)
    return False


def _publish(services: Services, run: Run, round_: Round) -> Run | None:
    """Publish a finished round exactly once, even if its run has been cancelled since.

    Return the run as it is then; None if the model is lost, which has ended the run.
    """
    if round_.state is State.CLOSED:
        while lost := publish.publish_round(services, run, round_):
            if not aggregate_round.make_again(services, run, round_):
                return _end_without_model(services, run, round_, lost)
    elif run.state in LIVING and skipped(run, round_):
        services.report(round_, f"evaluation of model {round_.base} skipped: {round_.reason}")
    else:
        return run
    # Noted in the run's row, or every message would publish it again while the run waits.
    return services.rounds.change_run(run, published=round_.number)


def _end_without_model(services: Services, run: Run, closed_round: Round, lost: str) -> Run | None:
    """End a run whose newest model was lost before it was published and cannot be made again.

    Return the run if it had been cancelled, since nothing is left to do then; otherwise None.
    """
    base = f"{run.name}/{closed_round.base}"
    reason = message_fields.shorten(
        f"the statistics of round {closed_round.number} are lost: {lost}; start them again in another run"
        if closed_round.work is Work.STATISTICS
        else f"model {closed_round.number} is lost: {lost}; its updates do not make the same model again."
        f" Continue from the model before it: `fedgrass run start NAME --continue-from {base}`"
    )
    services.log(reason, "ERROR")
    if run.state is RunState.CANCELLED:
        return services.rounds.change_run(run, published=closed_round.number)
    if run.state in LIVING:
        _end(services, run, closed_round, RunState.FAILED, reason)
    return None


def _wind_up(services: Services, run: Run, round_: Round | None, alarm: Alarm | None) -> bool:
    """Abandon the open round of a run that was cancelled; complete a round that is being averaged."""
    if round_ and round_.state is State.AGGREGATING:
        return _drive(services, run, round_, alarm)
    if round_ and round_.state is State.OPEN:
        close_round.abandon(services, round_, Event.GIVEN_UP)
    return False


def _pause(services: Services, run: Run, round_: Round | None, reason: str) -> bool:
    """Pause a run that only the operator can put right, and report why; return whether to read it again."""
    services.log(reason, "ERROR")
    if run.state in LIVING and (run.state, run.reason) != (RunState.PAUSED, reason):
        try:
            services.rounds.change_run(run, state=RunState.PAUSED, reason=reason, waiting_since=0)
        except LostRace:
            return True
        if round_:
            services.report(round_, f"run PAUSED: {reason}")
    return False


def _end(services: Services, run: Run, round_: Round | None, state: RunState, reason: str) -> None:
    services.rounds.change_run(run, state=state, reason=reason, ended_at=services.now())
    services.log(f"run {state}: {reason}")
    if round_:
        services.report(round_, f"run {state}: {reason}")
