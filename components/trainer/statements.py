"""What a device says of a work, put together from what it knows."""

from typing import Literal

from fedgrass.federation.message_fields import shorten
from fedgrass.federation.messages import Announcement, Status


def status(
    work: Announcement,
    state: Literal["accepted", "declined", "progress", "failed"],
    reason: str = "",
    progress: float = 0.0,
) -> Status:
    """Return the status of a work; a reason that is too long for a message is cut."""
    return Status(
        version=work.version,
        run=work.run,
        round=work.round,
        attempt=work.attempt,
        state=state,
        reason=shorten(reason),
        progress=progress,
    )
