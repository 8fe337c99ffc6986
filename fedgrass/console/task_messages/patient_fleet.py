"""The operator's access to a fleet for a long time: a lost connection is waited for instead of raised."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from fedgrass.console import stack
from fedgrass.console.runs.streamed_bucket import StreamedObjects
from fedgrass.console.task_messages.exchange_ports import FleetRun
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.runs import Run

_SECONDS = 900.0  # for which AWS may be out of reach
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0

Answer = TypeVar("Answer")


class PatientFleet:
    """A ``FleetRun`` that repeats requests until AWS answers. All of them may be repeated.

    Args:
        fleet: the access to the fleet.
        say: prints a line, once per interruption.
        pause: waits for a number of seconds; returns whether to give up.
        clock: returns the seconds of a clock that never goes back.
    """

    def __init__(
        self,
        fleet: FleetRun,
        say: Callable[[str], None],
        pause: Callable[[float], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet, self._say, self._pause, self._clock = fleet, say, pause, clock

    @property
    def bucket(self) -> StreamedObjects:
        """The fleet's bucket."""
        return _PatientBucket(self, self._fleet.bucket)

    def run(self, name: str) -> Run:
        """Return a run; see ``FleetRun``."""
        return self.repeat(lambda: self._fleet.run(name))

    def message_devices(self, name: str) -> list[str]:
        """Return the devices of a run; see ``FleetRun``."""
        return self.repeat(lambda: self._fleet.message_devices(name))

    def send_messages(self, name: str, number: int, list_sha256: str) -> None:
        """Open a round; see ``FleetRun``."""
        self.repeat(lambda: self._fleet.send_messages(name, number, list_sha256))

    def round(self, name: str, number: int, attempt: int = 1) -> Round | None:
        """Return an attempt at a round; see ``FleetRun``."""
        return self.repeat(lambda: self._fleet.round(name, number, attempt))

    def participants(self, round_: Round) -> Sequence[Participant]:
        """Return the participants of a round; see ``FleetRun``."""
        return self.repeat(lambda: self._fleet.participants(round_))

    def repeat(self, call: Callable[[], Answer]) -> Answer:
        """Return the answer to a request, which is repeated while AWS is out of reach."""
        end, pause = self._clock() + _SECONDS, _FIRST_PAUSE
        is_shown = False
        while True:
            try:
                return call()
            except Exception as error:
                if not stack.is_passing(error) or self._clock() + pause > end:
                    raise
                if not is_shown:
                    self._say(f"AWS does not answer, trying again: {error}")
                is_shown = True
                if self._pause(pause):
                    raise
                pause = min(2 * pause, _LONGEST_PAUSE)


class _PatientBucket:
    """A bucket whose requests are repeated."""

    def __init__(self, fleet: PatientFleet, bucket: StreamedObjects) -> None:
        self._repeat, self._bucket = fleet.repeat, bucket

    def exists(self, key: str) -> bool:
        return self._repeat(lambda: self._bucket.exists(key))

    def read(self, key: str, largest: int) -> bytes:
        return self._repeat(lambda: self._bucket.read(key, largest))

    def write_once(self, key: str, data: bytes) -> bytes:
        return self._repeat(lambda: self._bucket.write_once(key, data))

    def write_pieces(self, key: str, pieces: Sequence[memoryview]) -> None:
        self._repeat(lambda: self._bucket.write_pieces(key, pieces))

    def write_pieces_over(self, key: str, pieces: Sequence[memoryview], version: str | None) -> str | None:
        return self._repeat(lambda: self._bucket.write_pieces_over(key, pieces, version))

    def stream(self, key: str) -> tuple[int, Callable[[int], bytes], str]:
        size, read, version = self._repeat(lambda: self._bucket.stream(key))
        return size, lambda count: self._repeat(lambda: read(count)), version
