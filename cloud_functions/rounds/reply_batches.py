"""Counts the messages of many devices about a round at once, which SQS delivers as a batch.

One by one, each message takes a transaction and two to four reads; ten in a batch take one transaction and
three reads together. It also spares the round's row, which every transaction changes, and which DynamoDB
writes a thousand times a second at most.

Only what is expected of a round is counted together: devices that were asked accept their work or complete
it while the round is OPEN. Everything else, and the whole batch if one of its rows has been changed since, is
left to ``replies``, which processes messages one by one.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeGuard

from cloud_functions.rounds import replies
from cloud_functions.rounds.replies import Affected, DeviceMessage
from cloud_functions.services import Services
from fedgrass.federation import round_metrics
from fedgrass.federation.errors import LostRace, MessageError, ReplyRefused
from fedgrass.federation.messages import Completion, Status
from fedgrass.federation.rounds import Move, Participant, Participation, Round, State, announced_at, before

_FEWEST = 2  # messages about a round; a single one is processed as fast by itself


class _Entry(NamedTuple):
    """A message of a batch: its position there, the message, and its content."""

    position: int
    message: DeviceMessage
    decoded: Completion | Status


class _Counted(NamedTuple):
    """A reply to be counted: the participant, the reply without impossible metrics, and what was left out."""

    part: Participant
    reply: Completion
    left_out: list[str]
    received_at: int


def process_together(services: Services, batch: Mapping[int, DeviceMessage]) -> dict[int, Affected | None]:
    """Count the messages of a batch that can be counted at once.

    Returns:
        By the position of each message that was processed, what may continue because of it.
    """
    rounds: dict[tuple[str, int, int], list[_Entry]] = {}
    for position, message in batch.items():
        if services.useless_messages.ignores(message.device, services.now()):
            continue
        try:
            decoded = replies.decode_message(message)
        except (MessageError, ReplyRefused):
            continue
        entry = _Entry(position, message, decoded)
        rounds.setdefault((decoded.run, decoded.round, decoded.attempt), []).append(entry)
    done: dict[int, Affected | None] = {}
    for (run, number, attempt), entries in rounds.items():
        if len(entries) < _FEWEST:
            continue
        devices = tuple(sorted({entry.message.device for entry in entries}))
        round_, parts = services.rounds.round_with(run, number, attempt, devices)
        if round_ and round_.state is State.OPEN and not round_.in_flight:
            with services.log.about(run, number):
                done |= _count(services, round_, parts, entries)
    return done


def _count(
    services: Services, open_round: Round, parts: Mapping[str, Participant], entries: list[_Entry]
) -> dict[int, Affected | None]:
    """Count the messages about one round in one write."""
    counted: dict[str, _Counted] = {}
    done: dict[int, Affected | None] = {}
    for position, message, decoded in entries:
        part = parts.get(message.device)
        if part and message.device not in counted and _answers(decoded, open_round, part):
            kept, left_out = replies.without_impossible(decoded)
            counted[message.device] = _Counted(part, kept, left_out, message.received_at)
            done[position] = replies.affected_by_reply(open_round)
    accepting: dict[str, Participant] = {}
    for position, message, decoded in entries:
        part = parts.get(message.device)
        if part and replies.is_acceptance(decoded) and part.state in before(Participation.ACCEPTED):
            accepting[message.device] = part
            done[position] = None
    accepted = [part for device, part in accepting.items() if device not in counted]  # a reply implies it
    if len(done) < _FEWEST or not _written(services, open_round, list(counted.values()), accepted):
        return {}
    _report(services, open_round, list(counted.values()), [e for e in entries if e.position in done])
    return done


def _report(
    services: Services, open_round: Round, counted: Sequence[_Counted], done: Sequence[_Entry]
) -> None:
    """Log the messages that were counted, and send the devices that replied their verdict."""
    for _, message, _ in done:
        with services.log.about(open_round.run, open_round.number, message.device):
            services.log(f"{message.kind} of {len(message.payload)} bytes, in a batch")
    for part, reply, left_out, received_at in counted:
        replies.report_counted(services, open_round, part, reply, left_out, received_at)
    if counted:
        services.send_counted(open_round, [each.part.device for each in counted])


def _answers(decoded: Completion | Status, open_round: Round, part: Participant) -> TypeGuard[Completion]:
    """Return whether a message is the reply that a participant has yet to send."""
    return (
        isinstance(decoded, Completion)
        and part.state in before(Participation.REPLIED)
        and decoded.announced_at == announced_at(open_round, part)
    )


def _written(
    services: Services, open_round: Round, counted: Sequence[_Counted], accepted: Sequence[Participant]
) -> bool:
    """Move the participants and the round's counters; return False if a row has been changed since."""
    moves = [Move(part, Participation.ACCEPTED, {"reason": ""}) for part in accepted]
    for place, found in enumerate(counted):
        values = round_metrics.reply_fields(found.reply, found.received_at)
        if open_round.group_size:
            values["group"] = (open_round.replied + place) // open_round.group_size + 1
        moves.append(Move(found.part, Participation.REPLIED, values))
    try:
        services.rounds.move_together(open_round, moves)
    except LostRace:
        return False
    return True
