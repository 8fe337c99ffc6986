"""How fast the machine is just now, and the campaign's times, which are stretched where it is busy.

The times are short so that many things can die in ten minutes. On a machine that others work at too, an
averager that has nine seconds would hardly start in them: nothing would be tested but the deadline.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass

_LONGEST_STRETCH = 3.0
_PROBE_SECONDS = 60.0
# What a cold start of a function does; two at once, as two fleets start theirs.
_PROBE = (
    "import time",
    "import boto3, numpy",
    "boto3.client('s3', region_name='us-east-1')",
    "print(time.process_time())",
)


@dataclass(frozen=True)
class Pace:
    """The times that depend on the machine; ``stretch`` is 1 on one that has nothing else to do."""

    stretch: float = 1.0

    @property
    def averager_seconds(self) -> int:
        """Return what an averager may take, of what the template allows."""
        return next(seconds for seconds in (10, 20, 30) if seconds >= 9 * self.stretch)

    @property
    def very_slow_seconds(self) -> float:
        """Return how long an answer takes for which no averager has the time."""
        return self.averager_seconds + 2.0

    @property
    def late_seconds(self) -> float:
        """Return how late a dead averager's request arrives: after the end of its lease."""
        return self.averager_seconds + 5.0

    @property
    def parameters(self) -> dict[str, str]:
        """Return what the template is deployed with."""
        return {
            "AveragerTimeoutSeconds": str(self.averager_seconds),
            "QueueVisibility": "Once",  # a dead averager's messages come back soon, so that many can die
        }


def measured_pace() -> Pace:
    """Return the pace of this machine."""
    return Pace(min(_LONGEST_STRETCH, measured_stretch()))


def measured_stretch() -> float:
    """Return how much longer two cold starts take just now than on a machine that has nothing else to do."""
    command = [sys.executable, "-c", "; ".join(_PROBE)]
    started = time.monotonic()
    probes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(min(2, os.cpu_count() or 1))
    ]
    try:
        worked = [float(probe.communicate(timeout=_PROBE_SECONDS)[0]) for probe in probes]
    finally:
        for probe in probes:
            probe.kill()
            probe.wait()
    lasted = time.monotonic() - started
    # Up to half as long again is a quiet machine's reading of files.
    return max(1.0, round(lasted / max(worked) / 1.5, 1))
