"""Measures the speed of the machine, and stretches the campaign's times if it is busy.

The times are short, so that many processes can crash within ten minutes. On a busy machine an averager would
hardly start within nine seconds, and the campaign would only test the deadline.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass

_LONGEST_STRETCH = 3.0
_PROBE_SECONDS = 60.0
# The work of a cold start of a function; two at once, like the two fleets.
_PROBE = (
    "import time",
    "import boto3, numpy",
    "boto3.client('s3', region_name='us-east-1')",
    "print(time.process_time())",
)


@dataclass(frozen=True)
class Pace:
    """The times that depend on the machine; ``stretch`` is 1 on an idle one."""

    stretch: float = 1.0

    @property
    def averager_seconds(self) -> int:
        """Return the time-out of an averager, out of what the template allows."""
        return next(seconds for seconds in (10, 20, 30) if seconds >= 9 * self.stretch)

    @property
    def very_slow_seconds(self) -> float:
        """Return the delay of a response that exceeds the averager's time-out."""
        return self.averager_seconds + 2.0

    @property
    def late_seconds(self) -> float:
        """Return the delay of a crashed averager's request, which arrives after the end of its lease."""
        return self.averager_seconds + 5.0

    @property
    def parameters(self) -> dict[str, str]:
        """Return the parameters of the template."""
        return {
            "AveragerTimeoutSeconds": str(self.averager_seconds),
            "QueueVisibility": "Once",  # a crashed averager's messages are delivered again soon
        }


def measured_pace() -> Pace:
    """Return the pace of this machine."""
    return Pace(min(_LONGEST_STRETCH, measured_stretch()))


def measured_stretch() -> float:
    """Return how many times longer two cold starts take than on an idle machine."""
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
    # Up to 1.5 times is within the variation of an idle machine's file reads.
    return max(1.0, round(lasted / max(worked) / 1.5, 1))
