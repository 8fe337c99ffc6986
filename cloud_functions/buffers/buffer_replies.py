"""Processes the messages of devices of a buffered run, whose round may have closed since it was announced.

A message names the round of its announcement. The device's row in that round, or in the buffer that it was
carried over to, decides what happens:

- it is still training: the message is counted in the buffer that is open now;
- no buffer is open, because one is being averaged or the run is paused: a reply is HELD in the row, and
  counted when the next buffer opens; the device has no verdict until then;
- it was given up, its model is too old, or the run has ended: the reply is refused with that reason.
"""

from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from cloud_functions.buffers import flight
from cloud_functions.buffers.flight import Assigned
from cloud_functions.monitoring import Metric
from cloud_functions.services import Services
from fedgrass.federation import messages, round_metrics
from fedgrass.federation.errors import LateReply, LostRace, NotYet, ReplyRefused
from fedgrass.federation.messages import Completion
from fedgrass.federation.messages.message_fields import shorten
from fedgrass.federation.rounds import Participant, Participation, Round, State, Work, announced_at, before
from fedgrass.federation.runs import LIVING, Run

_TRIES = 20  # while other workers change the rows
_GIVEN_UP = frozenset({Participation.OVERDUE, Participation.STALE, Participation.LATE})


class _Situation(NamedTuple):
    """A device's row, the round that has it, and the newest round of the run."""

    home: Round
    part: Participant
    run: Run
    newest: Round

    @property
    def who(self) -> Assigned:
        """The participant with the round and the attempt that have its row."""
        return Assigned((self.home.number, self.home.attempt), self.part)

    @property
    def why_over(self) -> str:
        """Why no further reply of the run counts; empty if the next buffer may count it."""
        if self.run.state not in LIVING:
            return f"the run is {self.run.state}"
        if self.newest.work is Work.EVALUATE:
            return "the run has made its last model"
        return ""

    def is_given_up(self, services: Services) -> bool:
        """Return whether the device was given up for good: a silent one has time until its deadline."""
        silent = self.part.state is Participation.SILENT
        return self.part.state in _GIVEN_UP or (silent and flight.is_overdue(services, self.run, self.part))


def count(services: Services, announced: Round, device: str, reply: Completion, received_at: int) -> bool:
    """Count a completion once, hold it until the next buffer opens, or refuse it.

    Args:
        services: the ports.
        announced: the round that the completion names.
        device: its sender.
        reply: the completion, with plausible metrics.
        received_at: when it arrived, by the cloud's clock.

    Returns:
        Whether the message changed anything; a copy does not.

    Raises:
        ReplyRefused: it does not count; a LateReply, if the device was too late or too far behind.
    """
    for _ in range(_TRIES):
        now = _read(services, announced, device)
        _check(now.home, now.part, reply)
        if now.part.state is Participation.REPLIED:
            services.send_verdict(announced, device)
            return False
        values = round_metrics.reply_fields(reply, received_at)
        try:
            if now.is_given_up(services) or now.why_over:
                _refuse_late(services, now, received_at)
            if now.newest.state is State.OPEN:
                _count_in(services, now, values)
                services.send_verdict(announced, device)
                return True
            if now.part.state is Participation.HELD:
                return False
            services.rounds.move_later(now.home, now.part, Participation.HELD, values)
            services.report(now.newest, "replied: held until the next buffer opens", device=device)
            # A buffer may have opened since: it would not look for this reply.
        except LostRace:
            continue
    raise _disturbed(announced, device)


def _disturbed(announced: Round, device: str) -> NotYet:
    """Return the error that other workers kept changing the rows of a device."""
    named = messages.round_id(announced.run, announced.number, announced.attempt)
    return NotYet(f"other workers keep changing the rows of {device} in round {named}")


def _check(home: Round, part: Participant, reply: Completion) -> None:
    """Check that a completion answers the announcement of a row. Raises ReplyRefused."""
    answered = part.state in {Participation.REPLIED, Participation.HELD}
    if answered and part.checksum == reply.checksum:
        return
    if part.state not in before(Participation.REPLIED) | _GIVEN_UP or answered:
        reason = f"the device is already {part.state} {part.reason}".rstrip()
        raise ReplyRefused(reason)
    expected = announced_at(home, part)
    if reply.announced_at != expected:
        reason = f"it answers the announcement of {reply.announced_at}; the current one is of {expected}"
        raise ReplyRefused(reason)


def _count_in(services: Services, now: _Situation, values: Mapping[str, object]) -> None:
    """Count a reply in the open buffer.

    Raises:
        LateReply: its model is too old, which is noted in the buffer.
        LostRace: the device, or the buffer, has moved on.
    """
    if reason := flight.too_stale(now.run, now.newest, now.part):
        received = {"received_at": values["received_at"], "reason": shorten(reason)}
        flight.end(services, now.newest, now.who, Participation.STALE, **received)
        services.log.measure(Metric.UPDATES_STALE, 1)
        raise LateReply(reason)
    flight.end(services, now.newest, now.who, Participation.REPLIED, **values)
    turnaround = max(0, int(str(values["received_at"])) - now.part.announced_at) / 1000
    services.log.measure(Metric.TURNAROUND_SECONDS, turnaround)


def _refuse_late(services: Services, now: _Situation, received_at: int) -> NoReturn:
    """Refuse the reply of a device that was given up, or whose run has ended, and count it once."""
    reason = now.part.reason
    if now.part.state is Participation.STALE:
        reason = flight.too_stale(now.run, now.newest, now.part) or reason
    elif now.part.state not in _GIVEN_UP:
        reason = f"late: {now.why_over or 'it was given up, and its deadline has passed'}"
    elif now.part.state is Participation.OVERDUE:
        reason = f"late: {reason}"
    if now.part.state is not Participation.LATE:
        late = {"received_at": received_at, "reason": shorten(reason)}
        services.rounds.move_later(now.home, now.part, Participation.LATE, late)
        services.log.measure(Metric.UPDATES_LATE, 1)
    raise LateReply(reason)


def note(services: Services, announced: Round, device: str, target: Participation, reason: str) -> bool:
    """Note that a device accepted the work, or that it will not reply and why.

    Returns:
        Whether the message changed anything.

    Raises:
        NotYet: the buffer is being averaged, and may be opened again.
    """
    for _ in range(_TRIES):
        now = _read(services, announced, device)
        held = now.part.state is Participation.HELD
        if now.part.state not in before(target) or held or now.is_given_up(services):
            return False
        try:
            if target is Participation.ACCEPTED:
                # A silent device has lost its place in flight to another one: only its reply counts.
                if now.part.state is Participation.ASKED:
                    services.rounds.move_later(now.home, now.part, target, {"reason": reason})
            elif now.newest.state is State.AGGREGATING:
                named = messages.round_id(now.newest.run, now.newest.number, now.newest.attempt)
                message = f"round {named} is being averaged"
                raise NotYet(message)
            elif now.newest.state is State.OPEN and now.newest.work is Work.TRAIN:
                flight.end(services, now.newest, now.who, target, reason=reason)
            else:
                services.rounds.move_later(now.home, now.part, target, {"reason": reason})
        except LostRace:
            continue
        return True
    raise _disturbed(announced, device)


def _read(services: Services, announced: Round, device: str) -> _Situation:
    """Read a device's row, following it to the buffer that counted it, and the run's newest round.

    Raises:
        ReplyRefused: the device was not asked in that round, or rows of the run are lost.
    """
    home, part = announced, services.rounds.participant(announced, device)
    if part is None or part.from_round:
        reason = f"{device!r} was not asked in this round"
        raise ReplyRefused(reason)
    while part.state is Participation.CARRIED:
        home, part = _follow(services, part, home)
    run = services.rounds.run(home.run)
    if run and (run.round, run.attempt) == (home.number, home.attempt):
        newest: Round | None = home
    else:
        newest = services.rounds.round(home.run, run.round, run.attempt) if run else None
    if run is None or newest is None:
        reason = f"rows of run {home.run} are gone from the table"
        raise ReplyRefused(reason)
    return _Situation(home, part, run, newest)


def _follow(services: Services, part: Participant, home: Round) -> tuple[Round, Participant]:
    """Return the buffer to which a device was carried over, with its row there. Raises ReplyRefused."""
    buffer = services.rounds.round(home.run, part.to_round, part.to_attempt)
    found = services.rounds.participant(buffer, part.device) if buffer else None
    if buffer is None or found is None:
        named = messages.round_id(home.run, part.to_round, part.to_attempt)
        reason = f"it was counted in round {named}, whose rows are gone from the table"
        raise ReplyRefused(reason)
    return buffer, found
