"""Drives the open rounds of a run with a ServerApp, of which several may be open at the same time.

A round ends when each of its devices has replied, declined or failed, or was given up as silent, and at the
latest at its deadline. It is closed with the replies, or abandoned if there are none; nothing is retried.
``run.published`` is the number up to which all rounds have ended: what follows a device's message reads the
run and one round, however many are open.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from cloud_functions.recovery import manifests
from cloud_functions.rounds import aggregate_round, announce, close_round, publish, reminders
from cloud_functions.rounds.open_round import deadline_of
from cloud_functions.services import Services
from fedgrass.federation.errors import NotYet, SettingsError
from fedgrass.federation.messages.alarms import Alarm
from fedgrass.federation.rounds import ENDED, Event, Round, State, next_event
from fedgrass.federation.runs import LIVING, Run


def step(services: Services, run: Run, number: int = 0, alarm: Alarm | None = None) -> bool:
    """Take a step in each round of a run that has not ended, and note how far its rounds have ended.

    Args:
        services: the ports.
        run: the run.
        number: of the only round to look at; 0 for all.
        alarm: the alarm that triggered this call, if any: it names the round to look at.

    Returns:
        Whether there may be another step.

    Raises:
        NotYet: another worker is closing a round; call again when its lease may have expired.
    """
    if not run.round:
        manifests.keep_run(services, run)
        return False
    found = list(_read(services, run, alarm.round if alarm else number))
    held: NotYet | None = None
    changed = False
    for round_ in found:
        try:
            changed = _drive(services, run, round_, alarm) or changed
        except NotYet as error:  # the other rounds do not wait for this one
            held = error
    if changed:
        return True
    if found and found[0].number == run.published + 1 and found[0].state in ENDED:
        _note_ended(services, run)
    if held:
        raise held
    return False


def _read(services: Services, run: Run, number: int) -> Iterator[Round]:
    """Yield one round of a run, or all that may not have ended; log rows that are lost."""
    numbers = range(number, number + 1) if number else range(run.published + 1, run.round + 1)
    if number:
        one = services.rounds.round(run.name, number, 1)
        found = {number: one} if one else {}
    else:
        found = {round_.number: round_ for round_ in services.unpublished(run)}
    for each in numbers:
        if each in found:
            yield found[each]
        else:
            services.log(
                f"the row of round {each} is lost; `fedgrass run repair {run.name}` rebuilds it", "ERROR"
            )


def _drive(services: Services, run: Run, round_: Round, alarm: Alarm | None) -> bool:
    """Take one step in a round; return whether it was changed."""
    if round_.state in ENDED:
        return False
    if round_.state is State.OPEN and run.state not in LIVING:
        close_round.abandon(services, round_, Event.GIVEN_UP, f"the run is {run.state}: {run.reason}")
        return True
    if round_.state is State.OPEN and not round_.announced:
        if announce.is_left_to_another(services, round_, alarm):
            return False
        _announce(services, run, round_)
        return True
    overdue = alarm == deadline_of(round_)
    event = next_event(round_, services.now(), overdue=overdue)
    if event is None:
        if round_.state is State.AGGREGATING:
            message = f"another averager is closing round {round_.number} of run {run.name}"
            raise NotYet(message)
        return False
    if event in {Event.DEADLINE_TOO_FEW, Event.MINIMUM_OUT_OF_REACH}:
        close_round.abandon(services, round_, event)
        return True
    if not services.can_average:  # the record of a closed round is drafted where averagers may write
        reminders.look_now(services, run.name)
        return False
    aggregate_round.aggregate(services, run, round_, event, overdue=overdue)
    if round_.number > run.published + 1:  # the first one is published when that is noted in the run's row
        _publish(services, run, round_.number)
    return True


def _announce(services: Services, run: Run, round_: Round) -> None:
    """Announce a round; abandon it if the list of its messages is lost."""
    try:
        announce.announce_all(services, run, round_)
    except SettingsError as error:
        close_round.abandon(services, round_, Event.GIVEN_UP, str(error))


def _publish(services: Services, run: Run, number: int) -> None:
    ended = services.rounds.round(run.name, number, 1)
    if ended and ended.state is State.CLOSED:
        publish.publish_round(services, run, ended)


def _note_ended(services: Services, run: Run) -> None:
    """Note in the run's row up to which number all rounds have ended, and publish these.

    The worker that closes a later round does not note it. So the first round that is still open is read
    again afterwards: it may have ended between this worker's read and its write.

    Raises:
        LostRace: the run's row has changed.
    """
    while True:
        ended = list(takewhile(lambda round_: round_.state in ENDED, _in_sequence(services, run)))
        if not ended:
            return
        for round_ in ended:
            if round_.state is State.CLOSED:
                if not services.can_average:
                    reminders.look_now(services, run.name)
                    return
                publish.publish_round(services, run, round_)
        run = services.rounds.change_run(run, published=ended[-1].number)
        following = (
            services.rounds.round(run.name, run.published + 1, 1) if run.published < run.round else None
        )
        if following is None or following.state not in ENDED:
            return


def _in_sequence(services: Services, run: Run) -> Iterator[Round]:
    """Yield the rounds after the last one that is noted as ended, up to one whose row is lost."""
    expected = run.published + 1
    for round_ in services.unpublished(run):
        if round_.number != expected:
            return
        yield round_
        expected += 1


def is_stuck(run: Run, unpublished: Sequence[Round], now: int) -> bool:
    """Return whether a run could continue at ``now`` by itself, with no sign of a worker advancing it.

    Args:
        run: the run.
        unpublished: its rounds after the last one that is noted as ended.
        now: in milliseconds since the epoch, by the cloud's clock.
    """
    if unpublished and unpublished[0].number == run.published + 1 and unpublished[0].state in ENDED:
        return True
    return any(
        next_event(round_, now) is not None
        or (round_.state is State.OPEN and not round_.announced and not round_.is_being_announced(now))
        for round_ in unpublished
    )
