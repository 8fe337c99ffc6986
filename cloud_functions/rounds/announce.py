"""Announce a round to its cohort, and to replacements for devices that it lost."""

import contextlib
from collections.abc import Callable, Iterable, Sequence

from msgspec import UNSET

from cloud_functions.buffers import flight
from cloud_functions.rounds import reminders
from cloud_functions.selection import cohorts
from cloud_functions.server_apps import message_list
from cloud_functions.services import Services
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.errors import LostRace, NotYet, SettingsError
from fedgrass.federation.messages import Announcement
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.messages.message_fields import shorten
from fedgrass.federation.messages.message_types import Encoding
from fedgrass.federation.rounds import Participant, Participation, Round, State, Work, announced_at
from fedgrass.federation.runs import Run
from fedgrass.federation.selection.filters import knows_messages
from fedgrass.federation.task_messages.round_messages import RoundMessages

_Announcer = Callable[[str, int, int], bytes]

# Short, so that little time is lost after a crash. It is extended while half of it or less is left.
_LEASE_SECONDS = 30
_MOST_BY_INITIATOR = 100  # devices
_PER_LOOK_AT_LEASE = 250  # announcements, which take half a second on AWS


def announce_all(
    services: Services, run: Run, open_round: Round, listed: RoundMessages | None = None
) -> None:
    """Announce a round to the devices of all batches that were not announced yet, then note that.

    Announcing a large cohort takes seconds, in which its first devices reply. So the announcement is leased:
    the workers that process these replies leave it, and the steps after it, to the one that holds the lease.
    If that worker crashes, whichever looks at the round after the lease's end announces it again.

    ``listed`` are the messages of a ServerApp's round, if the caller has read them.

    Raises:
        SettingsError: the list of a ServerApp's messages cannot be read.
        LostRace: another worker announces the round, or has announced it.
    """
    leased = services.rounds.lease_announcement(open_round, _lease_end(services))
    try:
        for batch, participants in _unannounced(services, leased).items():
            if leased.in_flight and not participants:
                continue
            leased = _announce_batch(services, run, leased, participants, listed)
            remind_of_unaccepted(services, run, leased, batch=batch, turn=1)
        services.rounds.mark_announced(leased, services.now())
    except Exception:
        with contextlib.suppress(LostRace):
            services.rounds.lease_announcement(leased, 0)
        raise


def is_left_to_another(services: Services, round_: Round, alarm: Alarm | None) -> bool:
    """Return whether another worker announces a round, and so will take its next steps.

    It holds the lease; or it is an averager that is sent a reminder, since the initiator has one minute,
    within which it does not announce to a large cohort.

    Raises:
        NotYet: it does, and the caller has an alarm, which must not be lost if that worker crashes.
    """
    if not round_.is_being_announced(services.now()):
        is_large = max(round_.asked, round_.in_flight) > _MOST_BY_INITIATOR
        if is_large and not services.can_average:
            reminders.look_now(services, round_.run)
            return True
        return False
    if alarm:
        named = messages.round_id(round_.run, round_.number, round_.attempt)
        message = f"round {named} is being announced"
        raise NotYet(message)
    return True


def _lease_end(services: Services) -> int:
    return services.now() + int(min(services.lease_seconds, _LEASE_SECONDS) * 1000)


def _unannounced(services: Services, open_round: Round) -> dict[int, list[Participant]]:
    """Return the devices that were not announced to yet and have not replied, by batch."""
    found: dict[int, list[Participant]] = {
        batch: [] for batch in range(open_round.announced_batches + 1, open_round.batches + 1)
    }
    for participant in services.rounds.participants(open_round):
        if participant.state is Participation.ASKED and participant.batch in found:
            found[participant.batch].append(participant)
    return found


def _announce_batch(
    services: Services,
    run: Run,
    leased: Round,
    participants: Sequence[Participant],
    listed: RoundMessages | None,
) -> Round:
    """Announce a round to a batch, and extend the lease in time; return the round with its lease.

    Raises:
        LostRace: the lease ended too early, and another worker has taken it; or the round has ended.
    """
    announcement = _announcer(services, run, leased, listed)
    for start in range(0, len(participants), _PER_LOOK_AT_LEASE):
        if leased.announcing_until - services.now() < _LEASE_SECONDS * 1000 // 2:
            leased = services.rounds.lease_announcement(leased, _lease_end(services))
        _publish(services, leased, participants[start : start + _PER_LOOK_AT_LEASE], announcement)
    return leased


def announce(services: Services, run: Run, open_round: Round, participants: Iterable[Participant]) -> None:
    """Publish the announcement of a round to some of its devices, to each with the time of its batch.

    Raises:
        SettingsError: the list of a ServerApp's messages cannot be read.
    """
    _publish(services, open_round, participants, _announcer(services, run, open_round))


def _publish(
    services: Services, open_round: Round, participants: Iterable[Participant], announcement: _Announcer
) -> None:
    pairs = []
    for participant in participants:
        device = participant.device
        topic = topics.of_device(services.fleet, device, topics.Kind.ANNOUNCE)
        at, version = announced_at(open_round, participant), services.version_for(device)
        pairs.append((topic, announcement(device, at, version)))
    services.publisher.publish(pairs)


def announce_again(services: Services, run: Run, open_round: Round, again: Sequence[Participant]) -> bool:
    """Publish the announcement of a round to some of its devices again; return whether that was possible.

    If the list of a ServerApp's messages is lost, that is logged, and the round continues without them.
    """
    try:
        announce(services, run, open_round, again)
    except SettingsError as error:
        services.log(f"not announced again to {len(again)} devices: {error}", "ERROR")
        return False
    return True


def remind_of_unaccepted(services: Services, run: Run, open_round: Round, *, batch: int, turn: int) -> None:
    """Send the reminder to look for devices of a batch that have not accepted the announcement just sent."""
    if run.settings.accept_seconds:
        reminder = Reminder(
            run=run.name, round=open_round.number, attempt=open_round.attempt, turn=turn, batch=batch
        )
        services.alarms.remind(reminder, run.settings.accept_seconds)


def _announcer(
    services: Services, run: Run, open_round: Round, listed: RoundMessages | None = None
) -> _Announcer:
    """Return a function of a device, a time and a version that makes the announcement of a round."""
    if open_round.work is Work.MESSAGE:
        return message_list.announcer(services, run, open_round, listed)
    payloads: dict[tuple[int, int], bytes] = {}

    def announcement(_device: str, at: int, version: int) -> bytes:
        if (at, version) not in payloads:
            payloads[at, version] = _announcement(services, run, open_round, at, version)
        return payloads[at, version]

    return announcement


def _announcement(services: Services, run: Run, open_round: Round, at: int, version: int) -> bytes:
    """Return the announcement of a round in one version of the messages; ``at`` is the time of the batch."""
    asks = open_round.work is Work.STATISTICS
    download, key = Encoding(), (object_keys.query if asks else object_keys.model)(run.name, open_round.base)
    if open_round.base_download_sha256:  # a round that was rebuilt has none: devices download the model
        download = run.settings.download
        key = object_keys.encoded_model(run.name, open_round.base, download.kind)
    return messages.encode(
        Announcement(
            version=version,
            run=run.name,
            round=open_round.number,
            attempt=open_round.attempt,
            work=open_round.work.value,
            task=run.settings.task,
            announced_at=at,
            deadline_seconds=max(0.0, (_deadline_at(run, open_round, at) - services.now()) / 1000),
            bucket=services.bucket.name,
            model_key=key,
            model_sha256=open_round.base_download_sha256 or open_round.base_sha256,
            model_bytes=open_round.bytes_to_download,
            settings=run.settings.training_of(open_round.number, run.needs),
            download=download,
            upload=run.settings.upload,
            allow_partial=run.settings.allow_partial,
            carried=open_round.base_carried if open_round.work is Work.TRAIN else {},
            shared=run.settings.shared or UNSET,
            frozen_sha256=run.settings.frozen_sha256 or UNSET,
            frozen=run.frozen or UNSET,
            continues=object_keys.run_of_model(run.continued_from) or UNSET,
            trace=services.trace_of(run, open_round),
        )
    )


def _deadline_at(run: Run, open_round: Round, at: int) -> int:
    """Return when the work announced at ``at`` is overdue: in a buffered run each device has its own time."""
    return at + run.settings.deadline_seconds * 1000 if open_round.in_flight else open_round.deadline_at


_MOST_REPLACED = 49  # in one write: a transaction of DynamoDB has 100 items


def replace_gone(services: Services, run: Run, open_round: Round) -> bool:
    """Ask other devices in place of those that declined or failed, at most as many as fit into one write.

    The next step announces the round to them. If too few other devices are left, all losses are noted as
    replaced, so that no later step searches for them again.

    Returns:
        Whether there was anything to replace.
    """
    missing = open_round.unreplaced
    if not missing:
        return False
    count = min(missing, _MOST_REPLACED)
    known = {participant.device for participant in services.rounds.participants(open_round)}
    chosen = cohorts.choose_others(services, run, open_round, known, count)
    replaced = len(chosen) if len(chosen) == count else missing
    services.rounds.replace(open_round, [], chosen, replaced=replaced, at=services.now())
    _report(services, open_round, chosen, replaced)
    return True


def repeat_unaccepted(services: Services, run: Run, reminder: Reminder) -> None:
    """Announce a round again to the devices of a batch that have not accepted it.

    From the second reminder on, other devices are asked in their place; the announcement is repeated only to
    those that cannot be replaced. The messages of a ServerApp are for these devices alone: they are given up
    as silent.
    """
    if run.settings.is_buffered and _repeat_in_flight(services, run, reminder):
        return
    open_round = _read_open(services, reminder)
    if open_round is None:
        return
    participants = list(services.rounds.participants(open_round))
    silent = [p for p in participants if p.state is Participation.ASKED and p.batch == reminder.batch]
    if open_round.work is Work.MESSAGE:
        if reminder.turn > 1:
            _give_up_silent(services, reminder, silent)
            return
        silent = _without_outdated(services, open_round, silent)
    if reminder.turn > 1 and silent:
        known = {participant.device for participant in participants}
        chosen = cohorts.choose_others(services, run, open_round, known, len(silent))
        for start in range(0, len(chosen), _MOST_REPLACED):
            _replace_silent(services, open_round, silent[start:], chosen[start : start + _MOST_REPLACED])
            open_round = _read_open(services, reminder)
            if open_round is None:
                return
        silent = silent[len(chosen) :]
    if silent:
        if announce_again(services, run, open_round, silent):
            services.report(open_round, f"announced again to {len(silent)} devices that have not accepted")
        remind_of_unaccepted(services, run, open_round, batch=reminder.batch, turn=reminder.turn + 1)


def _without_outdated(services: Services, open_round: Round, silent: list[Participant]) -> list[Participant]:
    """Return those of some devices whose trainer component knows messages; decline for the others.

    An older component drops such an announcement. A device's row is only read once it has not accepted.
    """
    remaining = []
    for part in silent:
        found = services.devices.find(part.device)
        if found is None or knows_messages(found):
            remaining.append(part)
            continue
        reason = (
            f"its trainer component {found.attributes.get('version', '')} does not know messages of"
            " ServerApps: deploy com.fedgrass.Trainer of this release"
        )
        services.rounds.move_participant(open_round, part, Participation.DECLINED, shorten(reason))
        services.report(open_round, f"declined: {reason}", device=part.device)
    return remaining


def _give_up_silent(services: Services, reminder: Reminder, silent: list[Participant]) -> None:
    """Give up devices that have not accepted a ServerApp's message, which no other device can take."""
    for start in range(0, len(silent), _MOST_REPLACED):
        open_round = _read_open(services, reminder)
        if open_round is None:
            return
        some = silent[start : start + _MOST_REPLACED]
        services.rounds.replace(open_round, some, [], replaced=0, at=services.now())
        names = ", ".join(part.device for part in some)
        services.report(open_round, f"{len(some)} devices have not accepted and are given up: {names}")


def _repeat_in_flight(services: Services, run: Run, reminder: Reminder) -> bool:
    """Announce the work again to devices of a buffered run that have not accepted it.

    From the second reminder on, devices for which there is another are given up: the next step of the run
    asks others in the vacant places. Return False if the round of the reminder is not a buffer.
    """
    announced = services.rounds.round(reminder.run, reminder.round, reminder.attempt)
    if announced is None or not announced.in_flight:
        return False
    silent = flight.unaccepted(services, run, announced, reminder.batch)
    newest = services.rounds.round(run.name, run.round, run.attempt)
    if reminder.turn > 1 and silent and newest and newest.state is State.OPEN and newest.in_flight:
        silent = flight.give_up_silent(services, run, newest, silent)
    if silent:
        announce(services, run, announced, [each.part for each in silent])
        services.report(announced, f"announced again to {len(silent)} devices that have not accepted")
        remind_of_unaccepted(services, run, announced, batch=reminder.batch, turn=reminder.turn + 1)
    return True


def _read_open(services: Services, reminder: Reminder) -> Round | None:
    """Return the round of a reminder, or None if it is not OPEN or its deadline has passed."""
    round_ = services.rounds.round(reminder.run, reminder.round, reminder.attempt)
    in_time = round_ and round_.state is State.OPEN and services.now() < round_.deadline_at
    return round_ if in_time else None


def _replace_silent(
    services: Services, open_round: Round, silent: list[Participant], chosen: list[str]
) -> None:
    """Give up one silent device for each of the devices chosen in their place."""
    services.rounds.replace(open_round, silent[: len(chosen)], chosen, replaced=0, at=services.now())
    _report(services, open_round, chosen, len(chosen))


def _report(services: Services, open_round: Round, chosen: list[str], replaced: int) -> None:
    if chosen:
        names = ", ".join(chosen)
        services.report(open_round, f"{len(chosen)} other devices asked in place of {replaced}: {names}")
