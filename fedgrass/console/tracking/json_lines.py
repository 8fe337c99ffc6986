"""A sink that appends to a file of JSON lines, which needs nothing installed."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import msgspec

from fedgrass.console.aws_clients import Clients
from fedgrass.console.tracking.tracked_run import (
    TrackedModel,
    TrackedRound,
    TrackedRun,
    chosen_settings,
)
from fedgrass.console.tracking.tracking_sink import Recorded
from fedgrass.federation.errors import SettingsError

_TYPES = frozenset({"run", "round", "model", "state"})


class JsonLines:
    """The sink ``jsonl:FILE``: a line per run, round, model and change of the run's state.

    Several runs may be in one file. The lines that are there decide what is added, so the file itself is the
    only memory. docs/tracking.md documents the fields.
    """

    def __init__(self, target: str, _clients: Clients) -> None:
        self.name = f"jsonl:{target}"
        self._path = Path(target)
        self._file: IO[bytes] | None = None
        self._id = ""
        self._state: tuple[str, int] | None = None  # state and end of the run, as last written

    def begin(self, tracked: TrackedRun) -> Recorded:
        """Open the file and return what it has of the run; see ``Sink``.

        Raises:
            SettingsError: the file is in use by another process, or has lines of something else.
        """
        self._id, self._state = tracked.id, None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{self._path} is being written by another process"
            raise SettingsError(message) from error
        lines = [line for line in self._read(self._file) if line.get("id") == tracked.id]
        if not lines:
            self._write(
                type="run",
                fleet=tracked.fleet,
                stack=tracked.stack,
                run=tracked.run.name,
                started_at=tracked.run.started_at,
                settings=chosen_settings(tracked.run.settings),
            )
        for line in lines:
            if line["type"] == "state":
                self._state = line["state"], line["ended_at"]
        return Recorded(
            attempts=frozenset((line["round"], line["attempt"]) for line in lines if line["type"] == "round"),
            models=frozenset(line["round"] for line in lines if line["type"] == "model"),
        )

    def add_round(self, found: TrackedRound) -> bool:
        """Append the figures of a round; see ``Sink``."""
        devices = {"devices"}  # 10,000 of them would be 5 MB in a line: history.json has them
        self._write(
            type="round",
            ended_at=found.ended_at,
            **{name: value for name, value in found.summary.items() if name not in devices},
        )
        return True

    def add_model(self, model: TrackedModel) -> bool:
        """Append a model; see ``Sink``."""
        fields = msgspec.to_builtins(model)
        self._write(type="model", round=fields.pop("number"), **fields)
        return True

    def update(self, tracked: TrackedRun) -> None:
        """Append the state of the run if it has changed, and flush to the disk; see ``Sink``."""
        state = (str(tracked.run.state), tracked.run.ended_at)
        if state != self._state:
            self._write(type="state", state=state[0], ended_at=state[1], reason=tracked.run.reason)
            self._state = state
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; see ``Sink``."""
        if self._file:
            self._file.close()
            self._file = None

    def _write(self, **fields: object) -> None:
        if self._file:
            self._file.write(msgspec.json.encode({"id": self._id, **fields}) + b"\n")

    def _read(self, file: IO[bytes]) -> list[Mapping[str, Any]]:
        """Return the lines, and cut off a last one that was written in part."""
        file.seek(0)
        lines: list[Mapping[str, Any]] = []
        complete = 0
        for number, line in enumerate(file, 1):
            parsed = _parsed(line)
            if parsed is None:
                if not line.endswith(b"\n") and (lines or b'{"id":"'.startswith(line[:7])):
                    file.truncate(complete)
                    break
                message = (
                    f"{self._path} line {number} was not written by `fedgrass run track`: name another file"
                )
                raise SettingsError(message)
            lines.append(parsed)
            complete += len(line)
        return lines


def _parsed(line: bytes) -> Mapping[str, Any] | None:
    """Return a line of such a file; None for anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    ours = isinstance(found, dict) and found.get("type") in _TYPES and isinstance(found.get("id"), str)
    return found if ours else None
