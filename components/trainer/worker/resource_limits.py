"""Resource limits of the worker process, applied by the main process: threads, niceness, memory.

The device has other work to do: the training yields to it, and if memory runs out nevertheless, the kernel
kills the worker first.
"""

import errno
import logging
import os
import resource
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LEAST_PRIORITY = 19  # the highest niceness
_OOM_SCORE = "500"  # added to the out-of-memory score (-1000 to 1000): the kernel kills the highest first
_MEGABYTE = 1_000_000
log = logging.getLogger(__name__)


class ResourceLimits(Struct, frozen=True, kw_only=True):
    """Limits of one worker process, fixed when it starts.

    Attributes:
        threads: of the numerical libraries.
        niceness: added to the trainer's own niceness.
        memory_megabytes: limit of the data segment, in units of 1,000,000 bytes; 0 is unlimited.
    """

    threads: int = 1
    niceness: int = 0
    memory_megabytes: int = 0

    def environment(self) -> Mapping[str, str]:
        """Return the environment variables that numerical libraries read when they are imported."""
        return dict.fromkeys(_THREADS, str(self.threads))

    def apply_to(self, process: int) -> None:
        """Limit a process that has just been started; a limit that cannot be set is logged as a warning.

        Args:
            process: its process id.
        """
        try:
            niceness = os.getpriority(os.PRIO_PROCESS, 0) + self.niceness
            os.setpriority(os.PRIO_PROCESS, process, min(niceness, LEAST_PRIORITY))
            Path(f"/proc/{process}/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
            if self.memory_megabytes:
                limit = self.memory_megabytes * _MEGABYTE
                # RLIMIT_DATA counts writable memory. RLIMIT_AS would count address space, of which torch
                # reserves gigabytes without using them.
                resource.prlimit(process, resource.RLIMIT_DATA, (limit, limit))
        except (OSError, ValueError) as error:
            log.warning("cannot apply the resource limits to the worker: %s", error)


def is_memory_error(error: BaseException | None) -> bool:
    """Return whether an exception, or one that caused it, came of too little memory.

    The dynamic linker reports it as an ImportError: "failed to map segment from shared object".
    """
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        if isinstance(error, ImportError) and "failed to map segment" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def describe_memory_error() -> str:
    """Return the reason to report for a MemoryError; called in the worker process itself."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if limit == resource.RLIM_INFINITY:
        return "the device has not enough memory for this work"
    return f"the work needs more memory than the device's memory_megabytes allows ({limit // _MEGABYTE} MB)"
