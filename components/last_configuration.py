"""The configuration that a component accepted last, in a file of its work folder.

Greengrass Nucleus Lite restarts a component whose configuration changes, and rolls nothing back: a value that
cannot be used stays. The next process works by this file instead, and reports why.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fedgrass.federation.errors import FedgrassError

FILE = "last-configuration.json"
log = logging.getLogger(__name__)
Parsed = TypeVar("Parsed")


class LastConfiguration:
    """Values by their keys, as the component's own parser takes them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def keep(self, values: Mapping[str, Any]) -> None:
        """Replace the file as a whole; one that cannot be written is logged."""
        unfinished = self._path.with_suffix(".unfinished")
        try:
            with unfinished.open("wb") as file:
                file.write(msgspec.json.encode(values))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)

    def usable(self, parse: Callable[[Mapping[str, Any]], Parsed]) -> Parsed | None:
        """Return what ``parse`` makes of the values; None if there are none that can be used."""
        try:
            values = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Any])
            return parse(values)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, FedgrassError) as error:
            log.warning("%s cannot be used: %s", self._path, error)
            return None
