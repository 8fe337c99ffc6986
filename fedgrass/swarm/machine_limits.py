"""Whether this machine can carry a swarm: file descriptors, memory, processors; checked before anything."""

import resource
from collections.abc import Callable

import psutil

from fedgrass.swarm.swarm_errors import SwarmOptionError

# Measured by benchmarks/swarm.py: a session with its TLS context takes 0.3 MB in the process of the devices,
# and its counterpart 0.3 MB in the embedded cloud.
_DEVICE_BYTES = 1_000_000
_CLOUD_BYTES = 700_000_000  # the embedded cloud with its functions
_OTHER_FILES = 300  # descriptors in addition to those of the sessions: S3, queues, libraries


def check_machine(  # noqa: PLR0913 - the last two let tests replace the machine
    devices: int,
    processes: int,
    *,
    embedded: bool,
    megabytes: float,
    limits: Callable[[], tuple[int, int]] = lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
    available: Callable[[], int] = lambda: psutil.virtual_memory().available,
) -> int:
    """Return the file descriptors that a process of the swarm needs.

    Args:
        devices: of the whole swarm.
        processes: that share them.
        embedded: whether this machine runs the cloud, too.
        megabytes: of an update; the embedded cloud keeps the updates of a round in memory.
        limits: returns the soft and the hard limit of file descriptors.
        available: returns the bytes of free memory.

    Raises:
        SwarmOptionError: the machine cannot carry it; the message has the way out.
    """
    # All sessions end in the one process of the embedded cloud.
    needed = (devices if embedded else -(-devices // processes)) + _OTHER_FILES
    _, hard = limits()
    if hard not in {resource.RLIM_INFINITY, -1} and needed > hard:
        message = (
            f"{devices} devices need {needed} file descriptors in a process, and the limit is {hard}:"
            f" raise it by `ulimit -Hn {needed}` as root or in /etc/security/limits.conf, or choose --devices"
            f" {max(0, hard - _OTHER_FILES)} or fewer"
        )
        raise SwarmOptionError(message)
    memory = devices * _DEVICE_BYTES + (_CLOUD_BYTES + round(2e6 * megabytes * devices) if embedded else 0)
    if memory > (free := available()):
        message = (
            f"{devices} devices need about {memory / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free:"
            " choose fewer --devices, smaller --megabytes, or a larger machine"
        )
        raise SwarmOptionError(message)
    return needed


def allow_files(needed: int) -> None:
    """Raise the soft limit of file descriptors of this process and its children, if it is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in {resource.RLIM_INFINITY, -1} and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
