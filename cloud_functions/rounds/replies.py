"""Step two of a round: take what devices say. A reply is counted once, or refused by name."""

from typing import NoReturn

import msgspec
from msgspec import Struct

from cloud_functions.device_limits import Excess
from cloud_functions.monitoring import Metric
from cloud_functions.services import Services
from fedgrass.federation import messages, round_metrics, topics
from fedgrass.federation.errors import LateReply, LostRace, MessageError, NotYet, ReplyRefused
from fedgrass.federation.messages import Completion, Status, Verdict, message_fields
from fedgrass.federation.rounds import Participant, Participation, Round, State, announced_at, before
from fedgrass.federation.topics import Kind

_FINAL = {"declined": Participation.DECLINED, "failed": Participation.FAILED}


class DeviceMessage(Struct, frozen=True):
    """What the reply rule hands over: what a device said, and who and when by the cloud's own word."""

    kind: Kind
    device: str  # the topic's thing name; what the payload says of its sender counts for nothing
    client: str  # the MQTT client id
    received_at: int  # milliseconds, cloud
    payload: bytes


def take(services: Services, message: DeviceMessage) -> str | None:
    """Take one message of a device; return the run that may go on because of it.

    A refusal is told to the people who watch the run and to the device; it is no error of the cloud's.

    Raises:
        NotYet: the round is being averaged. It may be opened again, and then the message counts.
    """
    if services.useless_messages.ignores(message.device, services.now()):
        services.log.measure(Metric.MESSAGES_IGNORED, 1)
        return None
    try:
        said = _decode(message)
    except (MessageError, ReplyRefused) as error:
        _refuse_unplaced(services, message.device, f"{message.kind} refused: {error}")
        _measure_refusal(services, message, error)
        return None
    current = services.rounds.round(said.run, said.round, said.attempt)
    if current is None:
        named = messages.round_id(said.run, said.round, said.attempt)
        _refuse_unplaced(services, message.device, f"{message.kind} refused: there is no round {named}")
        return None
    try:
        if isinstance(said, Completion):
            _count(services, current, message, said)
        else:
            _note(services, current, message.device, said)
    except ReplyRefused as error:
        services.tell(current, f"{message.kind} refused: {error}", device=message.device)
        _measure_refusal(services, message, error)
        if isinstance(said, Completion):
            _answer(services, current, message.device, str(error))
        _count_useless(services, current, message.device)
    # That work was accepted moves nothing; everything else may be what the round waited for.
    return None if isinstance(said, Status) and said.state not in _FINAL else said.run


def _measure_refusal(services: Services, message: DeviceMessage, error: Exception) -> None:
    """Count a completion that was refused; one that is only late was counted as such."""
    if message.kind is Kind.COMPLETE and not isinstance(error, LateReply):
        services.log.measure(Metric.UPDATES_REFUSED, 1)


def _decode(message: DeviceMessage) -> Completion | Status:
    # The classic nucleus opens more connections as it needs them: thing, thing#2, thing#3, ...
    if message.client.split("#")[0] != message.device:
        reason = f"client {message.client!r} spoke on the topic of {message.device!r}"
        raise ReplyRefused(reason)
    if message.kind is Kind.COMPLETE:
        return messages.decode(message.payload, Completion)
    return messages.decode(message.payload, Status)


def _participant(services: Services, current: Round, device: str) -> Participant:
    participant = services.rounds.participant(current, device)
    if participant is None:
        reason = f"{device!r} was not asked in this round"
        raise ReplyRefused(reason)
    return participant


def _count(services: Services, current: Round, message: DeviceMessage, reply: Completion) -> None:
    """Count a completion once.

    Two copies at once: both read ASKED, both write "REPLIED if not yet REPLIED, and replied + 1" as one
    transaction; one of them loses, reads again and finds itself counted.
    """
    participant = _participant(services, current, message.device)
    if participant.state is Participation.REPLIED and participant.checksum == reply.checksum:
        _answer(services, current, message.device)
        _count_useless(services, current, message.device)
        return
    if participant.state not in before(Participation.REPLIED) | {Participation.LATE}:
        reason = f"the device's part is {participant.state} already {participant.reason}".rstrip()
        raise ReplyRefused(reason)
    _check_not_averaging(current)
    announced = announced_at(current, participant)
    if reply.announced_at != announced:
        reason = f"it answers an announcement of {reply.announced_at}; this one is of {announced}"
        raise ReplyRefused(reason)
    try:
        if current.state is State.OPEN:
            kept, left_out = _bounded(reply)
            services.rounds.count_reply(current, participant, kept, message.received_at)
            if left_out:  # they are in the row too
                services.tell(current, f"metrics left out: {'; '.join(left_out)}", device=message.device)
            turnaround = max(0, message.received_at - announced) / 1000
            services.log.measure(Metric.TURNAROUND_SECONDS, turnaround)
        elif participant.state is not Participation.LATE:
            services.rounds.count_late(current, participant, message.received_at)
            services.log.measure(Metric.UPDATES_LATE, 1)
    except LostRace:
        _count(services, _again(services, current), message, reply)
        return
    if current.state is not State.OPEN:
        reason = f"late: this attempt is {current.state}"
        raise LateReply(reason)
    _answer(services, current, message.device)


def _bounded(reply: Completion) -> tuple[Completion, list[str]]:
    """Return a completion without the metrics that cannot be true, and texts on these; its update counts."""
    metrics, train_metrics, left_out = round_metrics.bounded_reply(reply.metrics, reply.train_metrics)
    kept = msgspec.structs.replace(
        reply,
        metrics=metrics,
        train_metrics=train_metrics,
        unsent_metrics=message_fields.shorten(
            "; ".join(filter(None, [reply.unsent_metrics, *left_out])), message_fields.LONGEST_UNSENT
        ),
    )
    return kept, left_out


def _note(services: Services, current: Round, device: str, status: Status) -> None:
    """Note that a device accepted the work, or that it will not reply, and why."""
    participant = _participant(services, current, device)
    target = _FINAL.get(status.state, Participation.ACCEPTED)
    if participant.state not in before(target):
        _count_useless(services, current, device)  # a copy, or overtaken by the reply itself
        return
    if status.state in _FINAL:
        _check_not_averaging(current)
    if current.state is not State.OPEN:
        return
    try:
        services.rounds.move_participant(current, participant, target, status.reason)
    except LostRace:
        _note(services, _again(services, current), device, status)
        return
    if status.state in _FINAL:
        services.tell(current, f"{status.state}: {status.reason}", device=device)


def _check_not_averaging(current: Round) -> None:
    """Let a message come back that the round could still need, should so many updates be refused."""
    if current.state is State.AGGREGATING:
        message = f"round {messages.round_id(current.run, current.number, current.attempt)} is being averaged"
        raise NotYet(message)


def _again(services: Services, current: Round) -> Round:
    found = services.rounds.round(current.run, current.number, current.attempt)
    return found or _vanished(current)


def _vanished(current: Round) -> NoReturn:
    reason = f"round {messages.round_id(current.run, current.number, current.attempt)} is gone from the table"
    raise ReplyRefused(reason)


def _answer(services: Services, current: Round, device: str, refused: str = "") -> None:
    """Tell a device that its reply was counted or refused, so that it stops repeating it."""
    verdict = Verdict(
        version=services.version_for(device),
        run=current.run,
        round=current.number,
        attempt=current.attempt,
        counted=not refused,
        reason=message_fields.shorten(refused),
    )
    topic = topics.of_device(services.fleet, device, Kind.ANNOUNCE)
    services.publisher.publish([(topic, messages.encode(verdict))])


def _refuse_unplaced(services: Services, device: str, text: str) -> None:
    """Refuse a message that names no round; only the first few in a minute, and the last, cost reads."""
    match services.useless_messages.useless(device, services.now()):
        case Excess.FEW:
            _tell_runs_of(services, device, text)
        case Excess.REACHED:
            _tell_runs_of(services, device, services.useless_messages.reason)
        case Excess.NONE:
            services.log(f"{device}: {text}")


def _count_useless(services: Services, current: Round, device: str) -> None:
    """Count a message that changed nothing; say so on the run's topic when a device reaches its limit."""
    if services.useless_messages.useless(device, services.now()) is Excess.REACHED:
        services.tell(current, services.useless_messages.reason, device=device)


def _tell_runs_of(services: Services, device: str, text: str) -> None:
    """Tell a refusal that names no round to every running run that asked the device; at least to the log."""
    told = False
    for _, newest in services.open_rounds():
        if services.rounds.participant(newest, device):
            services.tell(newest, text, device=device)
            told = True
    if not told:
        services.log(f"{device}: {text}")
