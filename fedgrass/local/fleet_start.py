"""Starts many devices on one machine: a few at a time, with the memory that they need and time in proportion.

A hundred devices that start at once share the cores of the machine: each gets so little processor time that
its connection to the embedded cloud times out.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable

from components.trainer.session.eligibility import read_free_memory
from fedgrass.local.local_errors import FleetTooLargeError
from greengrass_emulator.emulator_errors import IotConnectionError

MOST_DEVICES = 512  # each has one or two processes, and the embedded cloud has one process for all
AT_ONCE = max(4, 2 * (os.cpu_count() or 1))  # devices
_CONNECTIONS = 4  # of half a minute each, until a device is given up
_SECONDS_PER_DEVICE = 4.0  # to start or to stop it, on a slow or busy machine

_FEWEST_AVERAGERS, _MOST_AVERAGERS, _DEVICES_PER_AVERAGER = 2, 6, 32

_MEGABYTE = 1024**2
_CLOUD_MEGABYTES = 900  # the embedded cloud with its functions, and the demo itself
_CORE_MEGABYTES, _PLAIN_MEGABYTES = 60, 50  # measured while training `noise`: its three processes
_LEAST_SHOWN = 16  # devices: the start of fewer takes seconds, and needs no progress


def seconds_for(devices: int) -> float:
    """Return how many seconds more than one device a number of devices may take to start or to stop."""
    return _SECONDS_PER_DEVICE * devices


def averagers_for(devices: int) -> int:
    """Return how many averagers count replies at the same time (the stack's ReplyConcurrency).

    Each is a process. A small fleet has no use for more than the stack's own two.
    """
    return min(_MOST_AVERAGERS, _FEWEST_AVERAGERS + devices // _DEVICES_PER_AVERAGER)


def check_memory(cores: int, plain: int, available: int | None = None) -> None:
    """Check that the machine has the memory for a number of devices that train without PyTorch.

    Args:
        cores: Greengrass cores.
        plain: devices without Greengrass.
        available: bytes of memory that are free; by default as Linux estimates them, elsewhere unknown.

    Raises:
        FleetTooLargeError: it has too little.
    """
    free = read_free_memory() if available is None else available
    needed = _CLOUD_MEGABYTES + cores * _CORE_MEGABYTES + plain * _PLAIN_MEGABYTES
    if free is None or needed * _MEGABYTE <= free:
        return
    fitting = max(0, free // _MEGABYTE - _CLOUD_MEGABYTES) // (_CORE_MEGABYTES if cores else _PLAIN_MEGABYTES)
    way_out = f"choose at most {fitting}, or end other programs" if fitting else "end other programs"
    message = (
        f"{cores + plain} devices need about {needed:,} MB of memory, more with PyTorch, and"
        f" {free // _MEGABYTE:,} MB are free: {way_out}"
    )
    raise FleetTooLargeError(message)


def progress_of(report: Callable[[str], None], devices: int, what: str) -> Callable[[int], None]:
    """Return a function of the number of devices that have started, which reports each further quarter."""
    quarter = max(1, -(-devices // 4))

    def started(count: int) -> None:
        if devices >= _LEAST_SHOWN and count < devices and count % quarter == 0:
            report(f"{count} of {devices} {what} have started")

    return started


async def connect_patiently(connect: Callable[[], Awaitable[None]], *, seconds: float = 1.0) -> None:
    """Call ``connect`` up to four times, with ``seconds`` in between, as a core connects again and again.

    Raises:
        IotConnectionError: the last of them failed too.
    """
    for _ in range(_CONNECTIONS - 1):
        try:
            return await connect()
        except IotConnectionError:
            await asyncio.sleep(seconds)
    return await connect()


async def start_in_waves(
    starts: Iterable[Callable[[], Awaitable[None]]],
    started: Callable[[int], None] = lambda _: None,
    *,
    at_once: int = AT_ONCE,
) -> None:
    """Start devices, at most ``at_once`` at a time.

    Args:
        starts: starts one device, and returns when it is connected.
        started: called with the number of devices that have started so far.
        at_once: devices that start at the same time.

    Raises:
        Exception: the first error of a start; no further device is started then, and those that are being
            started have ended.
    """
    remaining = iter(starts)
    count = 0
    errors: list[BaseException] = []

    async def start_some() -> None:
        nonlocal count
        for start in remaining:
            try:
                await start()
            except Exception as error:  # noqa: BLE001 - raised once the others have ended
                errors.append(error)
            if errors:
                return
            count += 1
            started(count)

    await asyncio.gather(*(start_some() for _ in range(at_once)))
    if errors:
        raise errors[0]
