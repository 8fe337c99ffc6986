"""How often the process may end itself, so that the nucleus does not give the component up.

A nucleus starts a component that failed again after a second, and leaves it failed for good (BROKEN) after
the third failure within an hour. An exit is the right cure for a lost connection, and for subscriptions that
died without a word; but where it does not help, as in an outage, a third one would be the device's last.

The times are those of the system's start and not of the day: a device without a clock battery wakes up in
1970, and a nucleus that was started anew has forgotten the failures too.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

WINDOW = 3600.0 + 60.0  # seconds; a little more than the nucleus counts over
MOST = 2  # exits in a window: the nucleus gives up at the third
SPACING = 25 * 60.0  # seconds between two exits that are only tries: what one did not cure needs time
log = logging.getLogger(__name__)
# Made before any thread can: see fedgrass/federation/messages.py.
TIMES = msgspec.json.Decoder(list[float])


def since_start() -> float:
    """Return the seconds since the system was started, asleep or not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ExitBudget:
    """The exits of this component's processes, in a file of its work folder."""

    def __init__(self, folder: Path, now: Callable[[], float] = since_start) -> None:
        self._path = folder / "exits.json"
        self._now = now

    def seconds_to_wait(self, spacing: float = 0.0) -> float:
        """Return the seconds until an exit is safe, at least ``spacing`` after the last one; 0: it is now."""
        now, exits = self._now(), self._exits()
        until = [exits[-MOST] + WINDOW] if len(exits) >= MOST else []
        until += [exits[-1] + spacing] if exits else []
        return max(0.0, *(moment - now for moment in until)) if until else 0.0

    def take(self) -> None:
        """Write down that the process ends now."""
        exits = [*self._exits(), self._now()][-MOST:]
        unfinished = self._path.with_suffix(".unfinished")
        try:
            unfinished.write_bytes(msgspec.json.encode(exits))
            unfinished.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)

    def _exits(self) -> list[float]:
        """Return the exits that still count, the newest last."""
        try:
            exits = TIMES.decode(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read: %s", self._path, error)
            return []
        now = self._now()
        # What lies in the future was before the system's last start.
        return [moment for moment in sorted(exits) if now - WINDOW < moment <= now]
