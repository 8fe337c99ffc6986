"""The devices in flight of a buffered run: those that train, whichever round announced the work to them.

``fill`` is called when a buffer opens, and again when enough places are vacant. It reads the participants of
the rounds that may still have devices in flight in a single range of rows, whose length does not depend on
how long the run has lasted: devices whose model is older than ``max_staleness`` are given up.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cloud_functions.monitoring import Metric
from cloud_functions.selection import cohorts
from cloud_functions.selection.cohorts import Cohort
from cloud_functions.services import Services
from fedgrass.federation.messages.message_fields import shorten
from fedgrass.federation.rounds import (
    AT_WORK,
    IN_FLIGHT,
    Participant,
    Participation,
    Round,
    staleness_of,
)
from fedgrass.federation.runs import Open, Run

_MOST_ASKED = 90  # in one write: a transaction of DynamoDB has 100 items


class Assigned(NamedTuple):
    """A participant, with the round and the attempt that have its row."""

    origin: tuple[int, int]
    part: Participant

    @property
    def answers(self) -> tuple[int, int]:
        """Round and attempt of the announcement that the device answers."""
        return (self.part.from_round, self.part.from_attempt) if self.part.from_round else self.origin

    def is_at_work(self, services: Services, run: Run) -> bool:
        """Return whether the device may still be training, also if it was given up as silent."""
        if self.part.state is Participation.SILENT:
            return not is_overdue(services, run, self.part)
        return self.part.state in IN_FLIGHT


def assigned(services: Services, run: Run, number: int) -> Iterator[Assigned]:
    """Yield the participants of all rounds that may have devices in flight in round ``number``."""
    first = max(1, number - run.settings.max_staleness - 1)
    for found, attempt, part in services.rounds.participants_from(run.name, first, number):
        yield Assigned((found, attempt), part)


def in_flight(services: Services, run: Run, number: int) -> list[Assigned]:
    """Return the devices in flight when round ``number`` opens."""
    return [each for each in assigned(services, run, number) if each.part.state in IN_FLIGHT]


def begin_once(services: Services, run: Run, step: Open, training: Sequence[Assigned]) -> Cohort | None:
    """Return the cohort of a buffer about to be opened, which aims at its size but names no device.

    Args:
        services: the ports.
        run: the run.
        step: which round and attempt to open.
        training: the devices in flight; those that are overdue are given up once the buffer is open.

    Returns:
        The cohort; one that wants no device if another worker gave the attempt up; None if no device trains
        and none can be asked.
    """
    may_reply = any(
        each.part.state is Participation.HELD or not is_overdue(services, run, each.part) for each in training
    )
    if not may_reply and not cohorts.choose_in_flight(services, run, set(), 1, (step.number, step.attempt)):
        return None
    return cohorts.store_once(services, run, step, Cohort([], run.settings.buffer, step.work))


def fill(services: Services, run: Run, buffer: Round) -> bool:
    """Count held replies, give up devices, and ask others in all vacant places.

    The next step announces the round to the devices that were asked. If too few devices are left, that is
    noted, so that no step searches for them again before more places are vacant.

    Returns:
        Whether the buffer has changed.

    Raises:
        LostRace: another worker has changed it, or a device has replied.
    """
    known, changed = set(), False
    found = list(assigned(services, run, buffer.number))
    # A device has one row in a buffer. After a restore of the table it may be in flight twice: the work that
    # has no place in this buffer waits for the next one.
    taken = {each.part.device for each in found if each.origin == (buffer.number, buffer.attempt)}
    for each in found:
        has_place = each.origin == (buffer.number, buffer.attempt) or each.part.device not in taken
        if has_place and each.part.state in IN_FLIGHT and _end_if_over(services, run, buffer, each):
            changed = True
            taken.add(each.part.device)
        elif each.is_at_work(services, run) or each.origin == (buffer.number, buffer.attempt):
            known.add(each.part.device)
    if changed:  # the counters have moved: read them again
        return True
    return _ask(services, run, buffer, known)


def _ask(services: Services, run: Run, buffer: Round, known: set[str]) -> bool:
    """Ask devices that are not ``known`` in all vacant places; return whether any place was vacant."""
    if not buffer.vacant:
        return False
    wanted = min(buffer.vacant, _MOST_ASKED)
    occasion = (buffer.number, buffer.attempt, buffer.batches)
    chosen = cohorts.choose_in_flight(services, run, known, wanted, occasion)
    unfilled = buffer.unfilled + (buffer.vacant - len(chosen) if len(chosen) < wanted else 0)
    at = max(services.now(), buffer.opened_at)
    services.rounds.fill(buffer, chosen, unfilled=unfilled, at=at)
    if chosen and buffer.announced_batches:
        services.report(buffer, f"{len(chosen)} devices asked in vacant places: {', '.join(chosen)}")
    return True


def _end_if_over(services: Services, run: Run, buffer: Round, who: Assigned) -> bool:
    """Count a held reply, or give a device up that cannot contribute any more; return whether it was done."""
    held, device = who.part.state is Participation.HELD, who.part.device
    if reason := too_stale(run, buffer, who.part):
        end(services, buffer, who, Participation.STALE, reason=shorten(reason))
        services.report(buffer, f"given up: {reason}", device=device)
        services.log.measure(Metric.UPDATES_STALE, 1)
        if held:
            services.send_verdict(buffer, device, reason, answers=who.answers)
    elif held:
        end(services, buffer, who, Participation.REPLIED)
        services.send_verdict(buffer, device, answers=who.answers)
    elif is_overdue(services, run, who.part):
        reason = f"its deadline passed after {run.settings.deadline_seconds} s"
        end(services, buffer, who, Participation.OVERDUE, reason=reason)
        services.report(buffer, f"given up: {reason}", device=device)
    else:
        return False
    return True


def work_of(services: Services, run: Run, newest: Round, device: str) -> Iterator[tuple[Round, Participant]]:
    """Yield the unfinished work of a device whose deadline has not passed, with the round that announced it.

    Reads the device's row in the newest round, and in those that had devices in flight when it opened.
    """
    origins = [tuple(map(int, origin.split("-"))) for origin in newest.origins]
    for number, attempt in {(newest.number, newest.attempt), *origins}:
        announced = services.rounds.round(run.name, number, attempt)
        part = services.rounds.participant(announced, device) if announced else None
        undone = part and not part.from_round and part.state in AT_WORK
        if announced and part and undone and not is_overdue(services, run, part):
            yield announced, part


def unaccepted(services: Services, run: Run, announced: Round, batch: int) -> list[Assigned]:
    """Return the devices of a batch of a round that have not accepted their work and still have time."""
    return [
        Assigned((announced.number, announced.attempt), part)
        for part in services.rounds.participants(announced)
        if part.state is Participation.ASKED and part.batch == batch and not is_overdue(services, run, part)
    ]


def give_up_silent(services: Services, run: Run, buffer: Round, silent: Sequence[Assigned]) -> list[Assigned]:
    """Give up silent devices, as many as there are others to ask; return the devices that remain.

    Their replies count nevertheless until their deadline.
    """
    known = {
        each.part.device
        for each in assigned(services, run, buffer.number)
        if each.is_at_work(services, run) or each.origin == (buffer.number, buffer.attempt)
    }
    occasion = (buffer.number, buffer.attempt, buffer.batches)
    others = cohorts.choose_in_flight(services, run, known, len(silent), occasion)
    for each in silent[: len(others)]:
        end(services, buffer, each, Participation.SILENT)
    return list(silent[len(others) :])


def is_overdue(services: Services, run: Run, part: Participant) -> bool:
    """Return whether the deadline of a device's announcement has passed."""
    return services.now() >= part.announced_at + run.settings.deadline_seconds * 1000


def too_stale(run: Run, buffer: Round, part: Participant) -> str:
    """Return why a device's model is too old for a buffer; empty if it is not."""
    age, limit = staleness_of(buffer, part), run.settings.max_staleness
    if age <= limit:
        return ""
    return (
        f"it started from model {part.base}, which is {age} models older than model {buffer.base};"
        f" {limit} is the most (max_staleness)"
    )


def end(services: Services, buffer: Round, who: Assigned, target: Participation, **values: object) -> None:
    """Move a participant to a final state and count it in the open buffer, both or neither.

    Raises:
        LostRace: the buffer is not OPEN any more, or the participant has moved on.
    """
    if who.origin == (buffer.number, buffer.attempt):
        services.rounds.move_later(buffer, who.part, target, values)
    else:
        services.rounds.carry(buffer, who.part, who.origin, target, values)
