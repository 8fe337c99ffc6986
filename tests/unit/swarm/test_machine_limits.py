"""A machine that cannot carry a swarm refuses it before anything is started."""

import resource

import pytest

from fedgrass.swarm.machine_limits import check_machine
from fedgrass.swarm.swarm_errors import SwarmOptionError


def _check(devices: int, hard: int = 1_000_000, free: int = 10**12, *, embedded: bool = True) -> int:
    return check_machine(
        devices,
        4,
        embedded=embedded,
        megabytes=0.1,
        limits=lambda: (1024, hard),
        available=lambda: free,
    )


def test_all_sessions_of_an_embedded_cloud_end_in_one_process() -> None:
    assert _check(1000) == 1300
    assert _check(1000, embedded=False) == 550


def test_too_few_file_descriptors_are_refused_with_the_way_out() -> None:
    with pytest.raises(SwarmOptionError, match=r"1000 devices need 1300 .* limit is 1024: .*--devices 724"):
        _check(1000, hard=1024)
    assert _check(1000, hard=resource.RLIM_INFINITY) == 1300


def test_too_little_memory_is_refused_with_the_way_out() -> None:
    with pytest.raises(SwarmOptionError, match=r"need about 1\.9 GB of memory, and 1\.0 GB are free: choose"):
        _check(1000, free=10**9)
    assert _check(800, free=10**9, embedded=False) == 500
