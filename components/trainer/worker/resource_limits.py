"""What the training may take of the machine, set upon the worker process from outside.

Processor threads, niceness, memory. The machine has its own work to do: the training yields to it, and if
memory runs out all the same, the kernel takes the training first.
"""

import logging
import os
import resource
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LEAST_PRIORITY = 19  # niceness
FIRST_TO_GO = "500"  # of at most 1000, when the kernel looks for a process to end for want of memory
MEGABYTE = 1_000_000
log = logging.getLogger(__name__)


class ResourceLimits(Struct, frozen=True, kw_only=True):
    """The bounds of one worker process; they are fixed when it starts."""

    threads: int = 1
    niceness: int = 0  # above the trainer's own
    memory_megabytes: int = 0  # 0: no limit

    def environment(self) -> Mapping[str, str]:
        """Return the usual variables of the numerical libraries, which read them as they are imported."""
        return dict.fromkeys(THREADS, str(self.threads))

    def set_upon(self, process: int) -> None:
        """Bound a process that has just been started; what cannot be set is a warning."""
        try:
            niceness = os.getpriority(os.PRIO_PROCESS, 0) + self.niceness
            os.setpriority(os.PRIO_PROCESS, process, min(niceness, LEAST_PRIORITY))
            Path(f"/proc/{process}/oom_score_adj").write_text(FIRST_TO_GO, encoding="ascii")
            if self.memory_megabytes:
                limit = self.memory_megabytes * MEGABYTE
                # RLIMIT_DATA counts what is written to. RLIMIT_AS counts addresses too, of which torch
                # reserves gigabytes that it never uses.
                resource.prlimit(process, resource.RLIMIT_DATA, (limit, limit))
        except (OSError, ValueError) as error:
            log.warning("the training cannot be bounded as it should be: %s", error)


def out_of_memory() -> str:
    """Return what a work is told that had too little memory; called in the worker itself."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if limit == resource.RLIM_INFINITY:
        return "the device has not enough memory for this work"
    return f"the work needs more memory than the device's memory_megabytes allows ({limit // MEGABYTE} MB)"
