"""Processes the messages of devices about a round.

A completion is counted once, or refused with a reason that is published on the run's topic and to the device.
A status moves the device's participation. Messages that change nothing count against the device's limit.
"""

from typing import NamedTuple

import msgspec
from msgspec import Struct

from cloud_functions.buffers import buffer_replies
from cloud_functions.device_limits import Reaction
from cloud_functions.monitoring import Metric
from cloud_functions.services import Services
from fedgrass.federation import messages, round_metrics
from fedgrass.federation.errors import LateReply, LostRace, MessageError, NotYet, ReplyRefused
from fedgrass.federation.messages import Completion, Status, message_fields
from fedgrass.federation.rounds import Participant, Participation, Round, State, Work, announced_at, before
from fedgrass.federation.topics import Kind

_FINAL = {"declined": Participation.DECLINED, "failed": Participation.FAILED}


class DeviceMessage(Struct, frozen=True):
    """A message as the reply rule delivers it: payload, sender and time. Only the payload is the device's."""

    kind: Kind
    device: str  # the thing name in the topic; a sender named in the payload is ignored
    client: str  # the MQTT client id
    received_at: int  # milliseconds since the epoch, by the cloud's clock
    payload: bytes


class Affected(NamedTuple):
    """What may continue because of a message: a run, or one of its open rounds."""

    run: str
    number: int = 0  # of a round of a ServerApp's messages; 0: the run as a whole


def process(services: Services, message: DeviceMessage) -> Affected | None:
    """Process one message of a device; return what may continue because of it, if anything.

    A refusal is not an error of the cloud: it is published on the run's topic and sent to the device.

    Raises:
        NotYet: the round is being averaged. It may be opened again, and then the message counts.
    """
    if services.useless_messages.ignores(message.device, services.now()):
        services.log.measure(Metric.MESSAGES_IGNORED, 1)
        return None
    try:
        decoded = decode_message(message)
    except (MessageError, ReplyRefused) as error:
        _refuse_unassigned(services, message.device, f"{message.kind} refused: {error}")
        _measure_refusal(services, message, error)
        return None
    round_ = services.rounds.round(decoded.run, decoded.round, decoded.attempt)
    if round_ is None:
        named = messages.round_id(decoded.run, decoded.round, decoded.attempt)
        _refuse_unassigned(services, message.device, f"{message.kind} refused: there is no round {named}")
        return None
    try:
        if isinstance(decoded, Completion):
            _count(services, round_, message, decoded)
        else:
            _note(services, round_, message.device, decoded)
    except ReplyRefused as error:
        services.report(round_, f"{message.kind} refused: {error}", device=message.device)
        _measure_refusal(services, message, error)
        if isinstance(decoded, Completion):
            services.send_verdict(round_, message.device, str(error))
        _count_useless(services, round_, message.device)
    # Accepting work moves no round; any other message may be the one that the round waits for.
    return None if is_acceptance(decoded) else affected_by_reply(round_)


def is_acceptance(decoded: Completion | Status) -> bool:
    """Return whether a message only states that a device has taken its work."""
    return isinstance(decoded, Status) and decoded.state not in _FINAL


def affected_by_reply(round_: Round) -> Affected:
    """Return what may continue because of a final message of a device to a round."""
    return Affected(round_.run, round_.number if round_.work is Work.MESSAGE else 0)


def _measure_refusal(services: Services, message: DeviceMessage, error: Exception) -> None:
    """Count a completion that was refused; a late one has been counted as late."""
    if message.kind is Kind.COMPLETE and not isinstance(error, LateReply):
        services.log.measure(Metric.UPDATES_REFUSED, 1)


def decode_message(message: DeviceMessage) -> Completion | Status:
    """Return the content of a device's message. Raises MessageError, or ReplyRefused for another's topic."""
    # The classic nucleus opens further connections as needed: thing, thing#2, thing#3, ...
    if message.client.split("#")[0] != message.device:
        reason = f"client {message.client!r} published on the topic of {message.device!r}"
        raise ReplyRefused(reason)
    if message.kind is Kind.COMPLETE:
        return messages.decode(message.payload, Completion)
    return messages.decode(message.payload, Status)


def _participant(services: Services, round_: Round, device: str) -> Participant:
    participant = services.rounds.participant(round_, device)
    if participant is None:
        reason = f"{device!r} was not asked in this round"
        raise ReplyRefused(reason)
    return participant


def _count(services: Services, round_: Round, message: DeviceMessage, reply: Completion) -> None:
    """Count a completion once.

    Two copies at once: both read ASKED, and both write "REPLIED if still ASKED, and replied + 1" in one
    transaction. One of the transactions fails; that copy reads again, and finds the completion counted.
    """
    if round_.in_flight:
        _count_in_buffer(services, round_, message, reply)
        return
    participant = _participant(services, round_, message.device)
    if participant.state is Participation.REPLIED and participant.checksum == reply.checksum:
        services.send_verdict(round_, message.device)
        _count_useless(services, round_, message.device)
        return
    if participant.state not in before(Participation.REPLIED) | {Participation.LATE}:
        reason = f"the device is already {participant.state} {participant.reason}".rstrip()
        raise ReplyRefused(reason)
    _check_not_averaging(round_)
    announced = announced_at(round_, participant)
    if reply.announced_at != announced:
        reason = f"it answers the announcement of {reply.announced_at}; the current one is of {announced}"
        raise ReplyRefused(reason)
    try:
        if round_.state is State.OPEN:
            kept, left_out = without_impossible(reply)
            services.rounds.count_reply(round_, participant, kept, message.received_at)
            report_counted(services, round_, participant, reply, left_out, message.received_at)
        elif participant.state is not Participation.LATE:
            services.rounds.count_late(round_, participant, message.received_at)
            services.log.measure(Metric.UPDATES_LATE, 1)
    except LostRace:
        _count(services, _read_again(services, round_), message, reply)
        return
    if round_.state is not State.OPEN:
        reason = f"late: this attempt is {round_.state}"
        raise LateReply(reason)
    services.send_verdict(round_, message.device)


def _count_in_buffer(services: Services, round_: Round, message: DeviceMessage, reply: Completion) -> None:
    """Count a completion that answers an announcement of a buffered run."""
    kept, left_out = without_impossible(reply)
    if not buffer_replies.count(services, round_, message.device, kept, message.received_at):
        _count_useless(services, round_, message.device)
    else:
        _report_remarks(services, round_, message.device, reply, left_out)


def report_counted(  # noqa: PLR0913, PLR0917 - what is known about one reply
    services: Services,
    round_: Round,
    participant: Participant,
    reply: Completion,
    left_out: list[str],
    received_at: int,
) -> None:
    """Report what is remarkable about a reply that was counted, and measure its turnaround."""
    _report_remarks(services, round_, participant.device, reply, left_out)
    turnaround = max(0, received_at - announced_at(round_, participant)) / 1000
    services.log.measure(Metric.TURNAROUND_SECONDS, turnaround)


def _report_remarks(
    services: Services, round_: Round, device: str, reply: Completion, left_out: list[str]
) -> None:
    """Report which metrics of a reply were left out, which its participant's row has too, and its note."""
    if left_out:
        services.report(round_, f"metrics left out: {'; '.join(left_out)}", device=device)
    if reply.note:
        services.report(round_, f"note: {reply.note}", device=device)


def without_impossible(reply: Completion) -> tuple[Completion, list[str]]:
    """Return a completion without impossible metrics, and what was left out; its update still counts."""
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


def _note(services: Services, round_: Round, device: str, status: Status) -> None:
    """Note that a device accepted the work, or that it will not reply and why."""
    target = _FINAL.get(status.state, Participation.ACCEPTED)
    if round_.in_flight:
        if not buffer_replies.note(services, round_, device, target, status.reason):
            _count_useless(services, round_, device)
        elif status.state in _FINAL:
            services.report(round_, f"{status.state}: {status.reason}", device=device)
        return
    participant = _participant(services, round_, device)
    if participant.state not in before(target):
        _count_useless(services, round_, device)  # a copy, or the reply itself arrived first
        return
    if status.state in _FINAL:
        _check_not_averaging(round_)
    if round_.state is not State.OPEN:
        return
    try:
        services.rounds.move_participant(round_, participant, target, status.reason)
    except LostRace:
        _note(services, _read_again(services, round_), device, status)
        return
    if status.state in _FINAL:
        services.report(round_, f"{status.state}: {status.reason}", device=device)


def _check_not_averaging(round_: Round) -> None:
    """Raise NotYet for a message that the round could still need, if many of its updates are refused."""
    if round_.state is State.AGGREGATING:
        message = f"round {messages.round_id(round_.run, round_.number, round_.attempt)} is being averaged"
        raise NotYet(message)


def _read_again(services: Services, round_: Round) -> Round:
    found = services.rounds.round(round_.run, round_.number, round_.attempt)
    if found is None:
        named = messages.round_id(round_.run, round_.number, round_.attempt)
        reason = f"round {named} is gone from the table"
        raise ReplyRefused(reason)
    return found


def _refuse_unassigned(services: Services, device: str, text: str) -> None:
    """Refuse a message that belongs to no known round.

    Only the first few within a minute, and the one that reaches the limit, are reported on runs' topics.
    """
    match services.useless_messages.count_useless(device, services.now()):
        case Reaction.REPORT:
            _report_to_runs(services, device, text)
        case Reaction.IGNORE:
            _report_to_runs(services, device, services.useless_messages.reason)
        case Reaction.LOG_ONLY:
            services.log(text)


def _count_useless(services: Services, round_: Round, device: str) -> None:
    """Count a message that changed nothing; report on the run's topic when the device reaches its limit."""
    if services.useless_messages.count_useless(device, services.now()) is Reaction.IGNORE:
        services.report(round_, services.useless_messages.reason, device=device)


def _report_to_runs(services: Services, device: str, text: str) -> None:
    """Report a refusal on the topic of each run whose open round asked the device, or only in the log."""
    reported = False
    for open_round in services.open_rounds():
        if services.rounds.participant(open_round, device):
            services.report(open_round, text, device=device)
            reported = True
    if not reported:
        services.log(text)
