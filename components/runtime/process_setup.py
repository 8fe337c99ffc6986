"""A component's process: exit codes, signals, thing and version, and the last accepted configuration.

Greengrass Nucleus Lite restarts a component whose configuration changes, and never rolls back: a value
that cannot be used stays. The next process then uses the last accepted configuration, which it reads from a
file in its work folder, and reports why.
"""

import logging
import os
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from components.runtime.atomic_file import write_atomically
from components.runtime.event_loop import EventLoop
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.messages.message_fields import checked_name

LOST = 75  # exit code of a process that has to be restarted: EX_TEMPFAIL of sysexits.h
WRONG_CONFIGURATION = 78  # EX_CONFIG
_ENDING_SECONDS = 2
log = logging.getLogger(__name__)


def end_on_signals(loop: EventLoop) -> None:
    """Stop the loop with exit code 0 on SIGTERM and SIGINT."""

    def end(number: int, _: object) -> None:
        log.info("asked to end by %s", signal.Signals(number).name)
        loop.post(lambda: loop.stop(0))
        # The loop may be blocked by a hanging call to the nucleus, or by creating a task: SIGALRM ends it.
        signal.alarm(_ENDING_SECONDS)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def thing_name() -> str:
    """Return the name of this device's thing.

    Raises:
        SettingsError: the environment does not name it, or not validly.
    """
    try:
        return checked_name("thing", os.environ["AWS_IOT_THING_NAME"])
    except KeyError as error:
        message = f"the nucleus has to name this device's thing in the variable {error}"
        raise SettingsError(message) from error


def component_version() -> str:
    """Return the version of the component that this file belongs to; empty if it was not deployed.

    The nucleus unpacks an artifact into ``.../<component>/<version>/<artifact>`` and passes the version in no
    other way.
    """
    folder = Path(__file__).resolve().parents[3].name
    return folder if re.fullmatch(r"\d+\.\d+\.\d+[\w.+-]*", folder) else ""


FILE = "last-configuration.json"
Parsed = TypeVar("Parsed")


class LastConfiguration:
    """The last accepted configuration, in the form that the component's parser takes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def keep(self, values: Mapping[str, Any]) -> None:
        """Replace the file; if it cannot be written, log that."""
        try:
            write_atomically(self._path, msgspec.json.encode(values))
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)

    def usable(self, parse: Callable[[Mapping[str, Any]], Parsed]) -> Parsed | None:
        """Return the parsed configuration; None if there is none, or it cannot be used."""
        try:
            values = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Any])
            return parse(values)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, FedgrassError) as error:
            log.warning("%s cannot be used: %s", self._path, error)
            return None
