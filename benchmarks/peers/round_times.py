"""The file in which a peer's server writes the times of its rounds, and its processes' logs."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from fedgrass.federation.errors import FedgrassError

_POLL_SECONDS = 0.05
_TAIL = 15  # lines of each log that an error shows


def wait_for_times(
    times: Path, count: int, seconds: float, trouble: Callable[[], str], folder: Path
) -> list[float]:
    """Return the times in a file once there are ``count`` of them, in seconds since the epoch.

    Args:
        times: the file, a JSON array, which is always written whole.
        count: how many.
        seconds: the longest time to wait.
        trouble: returns why there will be no more times; empty as long as there may be.
        folder: of the logs for the error.

    Raises:
        FedgrassError: there is trouble, or it takes longer.
    """
    deadline = time.monotonic() + seconds
    while True:
        stamps: list[float] = json.loads(times.read_text(encoding="utf-8")) if times.exists() else []
        if len(stamps) >= count:
            return stamps
        what = trouble()
        if not what and time.monotonic() > deadline:
            what = f"{count} rounds took more than {seconds:.0f} s"
        if what:
            message = f"{what}; {max(0, len(stamps) - 1)} rounds are done\n{last_lines(folder)}"
            raise FedgrassError(message)
        time.sleep(_POLL_SECONDS)


def last_lines(folder: Path) -> str:
    """Return the last lines of each log in a folder, with its name before each line."""
    return "\n".join(
        f"{log.stem}: {line}"
        for log in sorted(folder.glob("*.log"))
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
    )
