"""What every component's process is: a thing's, of some version, and ended by a signal."""

import logging
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.names import checked_name

LOST = 75  # exit code of a process that is to be started again: EX_TEMPFAIL of sysexits.h
WRONG_CONFIGURATION = 78  # EX_CONFIG
ENDING_SECONDS = 2
log = logging.getLogger(__name__)


class Loop(Protocol):
    """What the main thread of a component runs."""

    def post(self, call: Callable[[], None]) -> None:
        """Have ``call`` made soon; also from a signal handler."""

    def stop(self, exit_code: int) -> None:
        """End the loop."""


def end_on_signals(loop: Loop) -> None:
    """Stop the loop with exit code 0 when the process is asked to end."""

    def end(number: int, _: object) -> None:
        log.info("asked to end by %s", signal.Signals(number).name)
        loop.post(lambda: loop.stop(0))
        # A call to a nucleus that hangs, or making a task, would take longer; the alarm ends the process.
        signal.alarm(ENDING_SECONDS)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def thing_name() -> str:
    """Return which thing this device is. Raises SettingsError if the nucleus has not said so."""
    try:
        return checked_name("thing", os.environ["AWS_IOT_THING_NAME"])
    except KeyError as error:
        message = f"the nucleus has to say which thing this is, in the variable {error}"
        raise SettingsError(message) from error


def component_version() -> str:
    """Return the version of the component that this file belongs to; empty if it is run from elsewhere.

    The nucleus unpacks an artifact into ``.../<component>/<version>/<artifact>`` and tells the version in no
    other way.
    """
    folder = Path(__file__).resolve().parents[2].name
    return folder if re.fullmatch(r"\d+\.\d+\.\d+[\w.+-]*", folder) else ""
