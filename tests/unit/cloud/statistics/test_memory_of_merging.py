"""Merging holds a few answers at a time: its memory does not grow with the number of devices."""

import tracemalloc

import numpy as np

from cloud_functions.statistics import merge_round
from fedgrass.federation.statistics.data_summary import Batch
from tests.fakes.statistics_fleet import StatisticsFleet

QUERY = {"statistics": ["mean", "variance", "min", "max", "quantiles"], "sketch_k": 512}


def data(number: int) -> list[Batch]:
    return [{"x": np.random.default_rng(number).normal(size=5000)}]


def peak(devices: int) -> int:
    """Return the most bytes that merging the answers of a number of devices holds."""
    made = StatisticsFleet(data, devices, QUERY)
    made.start()
    answer = made.answer_of("thing-0")
    for device in made.names[:-1]:
        made.answers(device, answer)
    merge_round.merge_answers(made.cloud, made.newest())
    tracemalloc.start()
    merge_round.merge_answers(made.cloud, made.newest())
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held


def test_twenty_times_the_devices_take_no_more_memory() -> None:
    few, many = peak(10), peak(200)
    assert many < few + 64 * 1024, (few, many)
