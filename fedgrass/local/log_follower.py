"""Shows what is written to the log files of a core, as it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

POLL_SECONDS: Final = 0.2
_PIECE_BYTES: Final = 1 << 20


class LogFollower:
    """Passes each new line of each log file of a folder on, with the file's stem before it."""

    def __init__(self, folder: Path, show: Callable[[str], None]) -> None:
        """Begin behind what is in the files now."""
        self._folder = folder
        self._show = show
        self._positions = {file: file.stat().st_size for file in folder.glob("*.log")}
        self._rests: dict[Path, bytes] = {}

    async def follow(self) -> None:
        """Go on until canceled."""
        while True:
            self.catch_up()
            await asyncio.sleep(POLL_SECONDS)

    def catch_up(self) -> None:
        """Show what has been written since the last time."""
        for file in sorted(self._folder.glob("*.log")):
            position = self._positions.get(file, 0)
            if file.stat().st_size < position:
                position = 0  # it was made shorter: begin again
            with file.open("rb") as log:
                log.seek(position)
                new = log.read(_PIECE_BYTES)
            self._positions[file] = position + len(new)
            *lines, rest = (self._rests.get(file, b"") + new).split(b"\n")
            self._rests[file] = rest
            for line in lines:
                self._show(f"{file.stem} | {line.decode(errors='replace')}")
