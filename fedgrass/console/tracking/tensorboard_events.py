"""A sink that writes TensorBoard's event files, by tensorboardX: 90 kB, where ``tensorboard`` has 6 MB.

A file of events is a series of records: length, its checksum, the event in protobuf, its checksum.
"""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedgrass.console.aws_clients import Clients
from fedgrass.console.tracking.tracked_run import (
    Key,
    TrackedModel,
    TrackedRound,
    TrackedRun,
    chosen_settings,
)
from fedgrass.console.tracking.tracking_sink import Recorded

_PREFIX = struct.Struct("<QI")  # length of the event and the checksum of that
_CHECKSUM = 4  # bytes after the event
_LARGEST_EVENT = 2**26  # bytes; more is a damaged file
_MARK = "round/attempt"


class TensorBoardEvents:
    """The sink ``tensorboard:FOLDER``: the figures of the closed rounds below ``FOLDER/<fleet>/<run>``.

    Each command writes another file; the files that are there decide what is added.
    """

    def __init__(self, target: str, _clients: Clients) -> None:
        self.name = f"tensorboard:{target}"
        self._folder = Path(target)
        self._writer: Any = None

    def begin(self, tracked: TrackedRun) -> Recorded:
        """Open a new file and return what the earlier ones have; see ``Sink``."""
        from tensorboardX import SummaryWriter  # noqa: PLC0415 - takes two seconds

        folder = self._folder / tracked.fleet / tracked.run.name
        # A later run of the same name, such as a demo's, has another suffix.
        suffix = f".fedgrass-{tracked.run.started_at}"
        files = sorted(folder.glob(f"events.out.tfevents.*{suffix}-*"))
        recorded = frozenset(key for file in files for key in _attempts(file))
        self._writer = SummaryWriter(
            logdir=str(folder), filename_suffix=f"{suffix}-{time.time_ns()}", flush_secs=3600
        )
        if not files:
            settings = json.dumps(chosen_settings(tracked.run.settings), indent=1)
            self._writer.add_text("settings", f"```\n{settings}\n```", 0, tracked.run.started_at / 1000)
        return Recorded(attempts=recorded)

    def add_round(self, found: TrackedRound) -> bool:
        """Write the figures of a closed round, each at the step with the round's number; see ``Sink``."""
        if not found.is_closed:
            return False
        # The mark comes last: a process that dies before it leaves a round that is written again.
        figures = found.figures
        figures[_MARK] = figures.pop(_MARK)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, found.record.round.number, walltime=found.ended_at / 1000)
        return True

    def add_model(self, _: TrackedModel) -> bool:
        """Ignore the model: there is no registry; see ``Sink``."""
        return False

    def update(self, _: TrackedRun) -> None:
        """Write all events to the file; see ``Sink``."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file; see ``Sink``."""
        if self._writer:
            self._writer.close()
            self._writer = None


def _attempts(file: Path) -> Iterator[Key]:
    """Yield round and attempt of the closed rounds in a file of events."""
    from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415 - as above

    for data in _records(file):
        event = Event.FromString(data)
        for value in event.summary.value:
            if value.tag == _MARK:
                yield event.step, round(value.simple_value)


def _records(file: Path) -> Iterator[bytes]:
    """Yield the records of a file, up to the first that is incomplete: its writer was killed."""
    with file.open("rb") as opened:
        while len(prefix := opened.read(_PREFIX.size)) == _PREFIX.size:
            length, _ = _PREFIX.unpack(prefix)
            if length > _LARGEST_EVENT:
                return
            data = opened.read(length)
            if len(data) < length or len(opened.read(_CHECKSUM)) < _CHECKSUM:
                return
            yield data
