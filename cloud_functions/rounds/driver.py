"""The driver: advances a run from any state to the next that has to wait for something else.

``advance`` may be called by anyone, at any time, any number of times, also concurrently: each step is a
conditional write, and what follows a write is repeated until the next one, so that the next call repairs
  a
crash between two steps.
"""

import contextlib

from cloud_functions.aggregation import guarded_strategy, partial_sums
from cloud_functions.recovery import manifests
from cloud_functions.rounds import aggregate_round, close_round, open_round, reminders, replacements
from cloud_functions.rounds.initial_models import read_initial, write_for_download
from cloud_functions.rounds.reminders import LOOK_AGAIN_SECONDS
from cloud_functions.selection import candidate_search
from cloud_functions.services import Services
from fedgrass.federation import encodings
from fedgrass.federation.errors import DraftLost, LostRace, NotYet, RunBehind, SettingsError
from fedgrass.federation.messages import message_fields
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.rounds import Event, Round, State, explain, next_event
from fedgrass.federation.runs import LIVING, End, Open, Run, RunState, Wait, next_step, skipped
from fedgrass.federation.settings import RunSettings, check_training
from fedgrass.federation.weights.auxiliary_state import layout_with


def start(services: Services, name: str, settings: RunSettings, continued_from: str = "") -> Run:
    """Start a run whose initial model lies in the bucket, and open its first round.

    Starting the same run with the same settings again changes nothing.

    Raises:
        SettingsError: there is no initial model, no device for the task, or another run of that name.
        UpdateRefused: the initial model is no file of finite weights.
    """
    model = read_initial(services, name)
    strategy = guarded_strategy.load(settings)  # one's own may not be there
    needs = guarded_strategy.needs_of(settings, strategy)
    check_training(settings, needs)
    updates = layout_with(model.layout, strategy.carried)
    encodings.file_layout(updates, settings.upload)  # refuses what cannot be uploaded
    if services.rounds.run(name) is None:
        _check_candidates(services, settings)
    download = write_for_download(services, name, settings, model)
    run = Run(
        name=name,
        state=RunState.RUNNING,
        settings=settings,
        started_at=services.now(),
        initial_sha256=model.sha256,
        initial_bytes=model.bytes,
        initial_download_sha256=download.sha256,
        initial_download_bytes=download.bytes,
        carries=strategy.carried,
        needs=needs,
        continued_from=continued_from,
    )
    manifests.check_not_lost(services, name)
    services.alarms.remind(Reminder(run=name), LOOK_AGAIN_SECONDS)  # whoever starts it may die half-way
    try:
        services.rounds.create_run(run)
    except LostRace as error:
        stored = services.rounds.run(name)
        if stored is None or stored.settings != settings:
            message = f"there is a run {name!r} with other settings already: choose another name"
            raise SettingsError(message) from error
    with contextlib.suppress(NotYet):  # of a run that was started before and is at work: nothing to do
        advance(services, name)
    return services.rounds.run(name) or run


def _check_candidates(services: Services, settings: RunSettings) -> None:
    found = candidate_search.look(services, settings)
    if not found.count:
        raise SettingsError(candidate_search.nobody(services, settings))
    candidate_search.check_held_out(services, settings)
    candidate_search.check_metric(settings, found)
    cohort = settings.cohort(found.count)
    for field in ("threshold_count", "minimum_replies"):
        value = getattr(settings, field)
        if value is not None and value > cohort:
            message = (
                f"the run's {field} is {value}, but a round would ask {cohort} of the "
                f"{found.count} devices that can do {settings.task!r}: lower it, or connect more devices"
            )
            raise SettingsError(message)


def advance(services: Services, name: str, alarm: Alarm | None = None) -> None:
    """Drive a run as far as it goes without anybody else.

    Args:
        services: the ports.
        name: the run.
        alarm: the alarm that has rung, if that is why this is called.

    Raises:
        NotYet: another worker is averaging; call again when its lease may have expired.
    """
    going = True
    while going:
        run = services.rounds.run(name)
        if run is None:
            if manifests.is_kept(services, name):
                services.log(f"{name}: the run's row is lost; `fedgrass repair {name}` rebuilds it", "ERROR")
            return
        newest = services.rounds.round(name, run.round, run.attempt) if run.round else None
        if run.round and newest is None:  # to open round 1 again would spoil the models that are there
            lost = f"the row of round {run.round} is lost; `fedgrass repair {name}` rebuilds it"
            services.log(f"{name}: {lost}", "ERROR")
            return
        try:
            going = _step(services, run, newest, alarm)
        except LostRace:
            going = True  # somebody else took the step: look where the run stands now
        except RunBehind as error:
            going = _stop(services, run, newest, str(error))


def look_after(services: Services, reminder: Reminder) -> None:
    """Look after a run that a reminder names, and at its devices that have not accepted their work."""
    reminders.has_come(services, reminder)
    run = services.rounds.run(reminder.run)
    while run and run.state in LIVING and reminder.round:
        with contextlib.suppress(LostRace):  # a device spoke at that moment: look who is silent now
            replacements.repeat_unaccepted(services, run, reminder)
            break
    advance(services, reminder.run)


def _step(services: Services, run: Run, newest: Round | None, alarm: Alarm | None) -> bool:
    """Take one step; return whether there may be another."""
    if newest and run.published < newest.number:
        if (
            newest.state is State.CLOSED and not services.averages
        ):  # whoever may read drafts publishes the model
            return _send_for_averager(services, run)
        concluded = _conclude(services, run, newest)
        if concluded is None:
            return False
        run = concluded
    if run.state not in LIVING:
        return _wind_up(services, run, newest, alarm)
    if not run.round:
        manifests.keep_run(services, run)
    # An alarm that rings a moment early must not be lost: it is then as late as it says.
    now = max(services.now(), alarm.at) if alarm and alarm.kind == "open" else services.now()
    match next_step(run, newest, now):
        case Open() as step:
            return open_round.open_and_announce(services, run, newest, step)
        case Wait(number, until):
            if until is not None:
                next_open = Alarm(run=run.name, round=number, attempt=1, at=until, kind="open")
                reminders.for_the_schedule(services, run, next_open)
            return False
        case End(state, reason):
            _end(services, run, newest, state, reason)
            return False
    return newest is not None and _drive(services, run, newest, alarm)


def _stop(services: Services, run: Run, newest: Round | None, reason: str) -> bool:
    """Let a run that is still going wait for the operator, and say why. Return whether to look again."""
    services.log(f"{run.name}: {reason}", "ERROR")
    if run.state in LIVING and (run.state, run.reason) != (RunState.PAUSED, reason):
        try:
            services.rounds.change_run(run, state=RunState.PAUSED, reason=reason, waiting_since=0)
        except LostRace:
            return True
        if newest:
            services.tell(newest, f"run PAUSED: {reason}")
    return False


def _conclude(services: Services, run: Run, newest: Round) -> Run | None:
    """Deal once with the end of a round: publish its model, also of a run that was cancelled meanwhile.

    Return the run as it is then; None if there is no such model, with which the run has ended.
    """
    if newest.state is State.CLOSED:
        while True:
            try:
                close_round.conclude(services, run, newest)
            except DraftLost as lost:
                if not aggregate_round.make_again(services, run, newest):
                    return _end_without_model(services, run, newest, str(lost))
                continue  # once for each draft that is lost
            break
    elif run.state in LIVING and skipped(run, newest):
        services.tell(newest, f"evaluation of model {newest.base} skipped: {newest.reason}")
    else:
        return run
    # Not again with each message while the run waits.
    return services.rounds.change_run(run, published=newest.number)


def _end_without_model(services: Services, run: Run, closed: Round, lost: str) -> Run | None:
    """End a run whose newest model was lost before it was published, and cannot be made again.

    Return it if it had been cancelled: then nothing is left to do.
    """
    base = f"{run.name}/{closed.base}"
    reason = message_fields.shorten(
        f"model {closed.number} is lost: {lost}; its updates do not make the same model again. Continue from"
        f" the model before it: `fedgrass run start NAME --continue-from {base}`"
    )
    services.log(f"{run.name}: {reason}", "ERROR")
    if run.state is RunState.CANCELLED:  # it has ended, and goes nowhere from that model
        return services.rounds.change_run(run, published=closed.number)
    if run.state in LIVING:
        _end(services, run, closed, RunState.FAILED, reason)
    return None


def _wind_up(services: Services, run: Run, newest: Round | None, alarm: Alarm | None) -> bool:
    """Abandon what a run that was cancelled has left open; what is being averaged is brought to its end."""
    if newest and newest.state is State.AGGREGATING:
        return _drive(services, run, newest, alarm)
    if newest and newest.state is State.OPEN:
        abandon(services, newest, Event.GIVEN_UP)
    return False


def _drive(services: Services, run: Run, newest: Round, alarm: Alarm | None) -> bool:
    """Take one step within a round that is OPEN or AGGREGATING."""
    if newest.state is State.OPEN and run.has_given_up(newest):
        abandon(services, newest, Event.GIVEN_UP)
        return True
    if newest.state is State.OPEN and not newest.announced:
        open_round.announce_all(services, run, newest)
        return True
    rung = alarm == open_round.deadline_of(newest)
    event = next_event(newest, services.now(), overdue=rung)
    if _could_replace(newest, event) and replacements.replace_gone(services, run, newest):
        return True
    # Only averagers hand groups over: of a reply whose averager died, the message comes back to another.
    is_open = event is None and newest.state is State.OPEN
    if is_open and services.averages and partial_sums.begin_full(services, run, newest):
        return True
    if event is None:
        if newest.state is State.AGGREGATING:
            message = f"another averager holds the lease of round {newest.number} of run {run.name}"
            raise NotYet(message)
        return False
    if event in {Event.DEADLINE_TOO_FEW, Event.MINIMUM_OUT_OF_REACH}:
        abandon(services, newest, event)
        return True
    if not services.averages:
        return _send_for_averager(services, run)
    return aggregate_round.aggregate(services, run, newest, event, overdue=rung)


def _send_for_averager(services: Services, run: Run) -> bool:
    """Leave the run's next step to an averager: this worker may not take it, nor any other after it."""
    services.alarms.remind(Reminder(run=run.name), 0)
    return False


def _could_replace(newest: Round, event: Event | None) -> bool:
    """Return whether other devices could still help a round that has lost some."""
    in_time = event in {None, Event.MINIMUM_OUT_OF_REACH} or (
        event is Event.ENOUGH_REPLIES and newest.good < newest.needed
    )
    return newest.state is State.OPEN and in_time and newest.unreplaced > 0


def abandon(services: Services, newest: Round, event: Event) -> None:
    """Abandon a round, for the reason that ``event`` is. Raises LostRace if it has moved on."""
    reason = explain(newest, event)
    abandoned = services.rounds.move(newest, event, reason=reason, closed_at=services.now())
    services.alarms.cancel(open_round.deadline_of(abandoned))
    services.tell_end(abandoned, f"abandoned: {reason}")


def _end(services: Services, run: Run, newest: Round | None, state: RunState, reason: str) -> None:
    services.rounds.change_run(run, state=state, reason=reason, ended_at=services.now())
    services.log(f"{run.name} {state}: {reason}")
    if newest:
        services.tell(newest, f"run {state}: {reason}")
