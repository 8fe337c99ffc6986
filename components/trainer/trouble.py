"""What keeps the work in hand from going on: a service of the device, or AWS, that does not answer now."""

from collections.abc import Callable

from fedgrass.federation.message_fields import shorten, shorten_to_bytes

LONGEST_REASON = 200  # characters, as a heartbeat takes


class WorkTrouble:
    """The reason why the work in hand waits, for heartbeats and for the work's own end.

    Args:
        look_again: called when there is trouble; finds services again that have moved.
    """

    def __init__(self, look_again: Callable[[], None] = lambda: None) -> None:
        self.reason = ""  # empty: the work goes on, or there is none
        self._look_again = look_again

    def note(self, reason: str) -> None:
        """Take note that the work waits, and why."""
        self.reason = shorten_to_bytes(shorten(reason, LONGEST_REASON), LONGEST_REASON + 40)
        self._look_again()

    def over(self) -> None:
        """Take note that the work goes on, or has ended."""
        self.reason = ""
