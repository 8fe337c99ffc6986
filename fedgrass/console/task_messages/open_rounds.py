"""The rounds in which messages are outstanding, as the rounds table has them: what became of each device."""

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from fedgrass.console.task_messages.exchange_ports import FleetRun, Observer
from fedgrass.console.task_messages.message_outcomes import Failure, Outcome, failure_of, read_reply
from fedgrass.console.task_messages.message_queue import Letter
from fedgrass.federation.rounds import ENDED, Participant, Participation, Round

_PARTICIPANTS_SHARE = 5.0  # participants are read again after this many times the seconds that it takes
_READERS = 6  # replies that are read at the same time
_GRACE = 60.0  # seconds after a message's time to live in which the cloud ends its round


class _OpenRound:
    """A round in which messages are outstanding."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.letters: dict[str, Letter] = {}  # outstanding, by device
        self.replied: dict[str, Participant] = {}  # of these, the ones whose reply can be read
        self.row: Round | None = None
        self.read_at = 0.0  # when its participants were read
        self.read_seconds = 0.0
        self.counted = -1  # final messages that its row counted when they were read


class OpenRounds:
    """The rounds of one run in which a ``MessageExchange`` has messages.

    Args:
        fleet: the operator's access to the fleet.
        run: name of the run.
        observer: receives the rounds that are read.
        clock: returns the seconds since the epoch.
        end: is called with the round, the message and the reason of each one that gets no reply.
    """

    def __init__(
        self,
        fleet: FleetRun,
        run: str,
        observer: Observer,
        clock: Callable[[], float],
        end: Callable[[int, Letter, Failure], None],
    ) -> None:
        self._fleet, self._run, self._observer, self._clock, self._end = fleet, run, observer, clock, end
        self._open: dict[int, _OpenRound] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, number: int, letters: Sequence[Letter]) -> None:
        """Note that messages are outstanding in a round."""
        open_round = self._open.setdefault(number, _OpenRound(number))
        open_round.counted = -1
        open_round.letters |= {letter.device: letter for letter in letters}

    def devices(self) -> set[str]:
        """Return the devices with an outstanding message."""
        return {device for open_round in self._open.values() for device in open_round.letters}

    def progress(self) -> tuple[int, ...]:
        """Return numbers that change when anything has happened."""
        rows = [open_round.row for open_round in self._open.values()]
        return len(self._open), *(_counted(row) + row.accepted for row in rows if row)

    def look(self) -> None:
        """Read the rounds, and sort their devices into those that replied, failed or are outstanding."""
        for open_round in self._open.values():
            row = self._fleet.round(self._run, open_round.number)
            if row is None:
                self._end_expired(open_round, f"the row of round {open_round.number} is lost")
                continue
            open_round.row = row
            self._observer.seen(row)
            if self._is_worth_reading(open_round, row):
                self._read_participants(open_round, row)
            self._end_expired(open_round, "its round did not end in time")

    def replies(self, ids: Collection[str]) -> Iterator[tuple[int, Letter, Outcome]]:
        """Read and yield the replies that have arrived to some messages; each is yielded once.

        Several are read at the same time: a request to S3 takes 20 to 50 ms, whatever its size.
        """
        arrived = [
            (open_round, open_round.row, open_round.replied[device])
            for open_round in self._open.values()
            for device, letter in open_round.letters.items()
            if open_round.row and device in open_round.replied and letter.id in ids
        ]
        bucket = self._fleet.bucket

        def read(reply: tuple[_OpenRound, Round, Participant]) -> Outcome:
            return read_reply(bucket, *reply[1:])

        with ThreadPoolExecutor(_READERS, thread_name_prefix="replies") as pool:
            is_many = sum(not part.answer for _, _, part in arrived) > 1
            outcomes = pool.map(read, arrived) if is_many else map(read, arrived)
            for (open_round, _, part), outcome in zip(arrived, outcomes, strict=True):
                letter = open_round.letters.pop(part.device)
                del open_round.replied[part.device]
                yield open_round.number, letter, outcome

    def forget_ended(self) -> None:
        """Forget the rounds in which no message is outstanding."""
        for number in [number for number, each in self._open.items() if not each.letters]:
            del self._open[number]

    def _is_worth_reading(self, open_round: _OpenRound, row: Round) -> bool:
        """Return whether a participant may have changed, and the last read of them is some time ago."""
        if row.state in ENDED:
            return bool(open_round.letters.keys() - open_round.replied.keys())
        rested = self._clock() - open_round.read_at >= _PARTICIPANTS_SHARE * open_round.read_seconds
        return rested and _counted(row) != open_round.counted

    def _read_participants(self, open_round: _OpenRound, row: Round) -> None:
        began = self._clock()
        parts = {part.device: part for part in self._fleet.participants(row)}
        open_round.read_at = self._clock()
        open_round.read_seconds = open_round.read_at - began
        open_round.counted = _counted(row)
        for device, letter in list(open_round.letters.items()):
            part = parts.get(device)
            if part and part.state is Participation.REPLIED:
                open_round.replied[device] = part
            elif failure := failure_of(row, part):
                del open_round.letters[device]
                self._end(open_round.number, letter, failure)

    def _end_expired(self, open_round: _OpenRound, reason: str) -> None:
        """End the messages whose time is over although the table has no outcome of theirs."""
        for device, letter in list(open_round.letters.items()):
            if device not in open_round.replied and self._clock() > letter.expires_at + _GRACE:
                del open_round.letters[device]
                self._end(open_round.number, letter, Failure("expired", reason))


def _counted(row: Round) -> int:
    """Return the number of final messages that a round has counted."""
    return row.replied + row.refused + row.gone + row.late
