"""Devices start a few at a time; too many for the machine's memory are refused before anything is started."""

import asyncio
from functools import partial

import pytest

from fedgrass.local.fleet_start import (
    averagers_for,
    check_memory,
    connect_patiently,
    progress_of,
    seconds_for,
    start_in_waves,
)
from fedgrass.local.local_errors import FleetTooLargeError
from fedgrass.local.testbed import TestbedError, thing_names
from greengrass_emulator.emulator_errors import IotConnectionError

GIGABYTE = 1024**3


class Devices:
    """Devices whose start takes a few turns of the event loop; counts those that start at the same time."""

    def __init__(self, failing: frozenset[int] = frozenset()) -> None:
        self.failing = failing
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.most_at_once = 0

    async def start(self, number: int) -> None:
        self.begun.append(number)
        self.most_at_once = max(self.most_at_once, len(self.begun) - len(self.ended))
        for _ in range(1 + number % 3):
            await asyncio.sleep(0)
        self.ended.append(number)
        if number in self.failing:
            message = f"device {number} cannot connect"
            raise ConnectionError(message)


def start(devices: Devices, count: int, at_once: int) -> list[int]:
    """Start a number of devices; return the numbers reported as started."""
    reported: list[int] = []
    starts = (partial(devices.start, number) for number in range(count))
    asyncio.run(start_in_waves(starts, reported.append, at_once=at_once))
    return reported


@pytest.mark.parametrize(("count", "at_once", "most"), [(128, 4, 4), (3, 8, 3), (1, 1, 1), (0, 4, 0)])
def test_no_more_devices_start_at_once_than_allowed(count: int, at_once: int, most: int) -> None:
    devices = Devices()
    assert start(devices, count, at_once) == list(range(1, count + 1))
    assert devices.most_at_once == most
    assert sorted(devices.ended) == list(range(count))


def test_after_an_error_no_further_device_starts_and_the_others_have_ended() -> None:
    devices = Devices(failing=frozenset({5, 6}))
    with pytest.raises(ConnectionError, match=r"device [56] cannot connect"):
        start(devices, 100, 4)
    assert len(devices.begun) < 12
    assert sorted(devices.begun) == sorted(devices.ended)


@pytest.mark.parametrize(("failures", "connects"), [(0, True), (3, True), (4, False)])
def test_a_device_that_gets_no_answer_connects_again(failures: int, connects: bool) -> None:  # noqa: FBT001 - the expected result
    results = iter([False] * failures + [True])

    async def connect() -> None:
        await asyncio.sleep(0)
        if not next(results):
            message = "cannot connect to IoT Core: no answer"
            raise IotConnectionError(message)

    if connects:
        asyncio.run(connect_patiently(connect, seconds=0))
        return
    with pytest.raises(IotConnectionError, match="no answer"):
        asyncio.run(connect_patiently(connect, seconds=0))


def test_an_interrupted_start_ends_with_the_devices_that_were_being_started() -> None:
    async def interrupted() -> None:
        async def wait() -> None:
            await asyncio.Event().wait()

        starts = asyncio.get_running_loop().create_task(start_in_waves((wait for _ in range(9)), at_once=3))
        await asyncio.sleep(0)
        starts.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starts
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(interrupted())


@pytest.mark.parametrize(
    ("cores", "plain", "gigabytes"), [(6, 0, 2), (128, 0, 16), (0, 128, 12), (64, 64, 16), (1, 0, 1)]
)
def test_devices_that_fit_into_memory_are_started(cores: int, plain: int, gigabytes: int) -> None:
    check_memory(cores, plain, gigabytes * GIGABYTE)


def test_too_many_devices_are_refused_with_what_they_need_what_is_free_and_how_many_fit() -> None:
    with pytest.raises(FleetTooLargeError) as refused:
        check_memory(128, 0, 2 * GIGABYTE)
    text = str(refused.value)
    assert "128 devices need about" in text
    assert "2,048 MB are free" in text
    fitting = int(text.partition("at most ")[2].split(",")[0])
    check_memory(fitting, 0, 2 * GIGABYTE)
    with pytest.raises(FleetTooLargeError):
        check_memory(fitting + 1, 0, 2 * GIGABYTE)


def test_a_machine_without_memory_for_the_cloud_is_told_to_end_other_programs() -> None:
    with pytest.raises(FleetTooLargeError, match="are free: end other programs"):
        check_memory(1, 0, 100 * 1024**2)


def test_the_number_that_fits_is_of_both_kinds_together() -> None:
    with pytest.raises(FleetTooLargeError) as refused:
        check_memory(100, 100, 4 * GIGABYTE)
    fitting = int(str(refused.value).partition("at most ")[2].split(",")[0])
    check_memory(fitting, 0, 4 * GIGABYTE)


def test_each_quarter_of_a_large_fleet_is_reported_and_a_small_one_is_not() -> None:
    lines: list[str] = []
    started = progress_of(lines.append, 100, "Greengrass cores")
    for count in range(1, 101):
        started(count)
    assert lines == [f"{count} of 100 Greengrass cores have started" for count in (25, 50, 75)]
    progress_of(lines.append, 6, "Greengrass cores")(3)
    assert len(lines) == 3


@pytest.mark.parametrize(("devices", "averagers"), [(1, 2), (6, 2), (32, 3), (128, 6), (512, 6)])
def test_a_large_fleet_has_more_averagers(devices: int, averagers: int) -> None:
    assert averagers_for(devices) == averagers


def test_more_devices_get_more_time() -> None:
    assert seconds_for(256) == 2 * seconds_for(128) > 0


def test_512_devices_may_be_asked_for_and_no_more() -> None:
    assert thing_names(512)[-1] == "device-512"
    with pytest.raises(TestbedError, match="513 devices cannot run on one machine: choose 1 to 512"):
        thing_names(513)
