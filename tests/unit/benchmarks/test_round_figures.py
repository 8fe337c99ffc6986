"""The figures of rounds: from the times between them, in words and in the JSON line."""

import runpy

import numpy as np
import pytest

from benchmarks.measuring.round_figures import Figures, Measurement, figures_of_rounds, times_as_fast
from benchmarks.peers.flower_engine import APP
from components.trainer.tasks.noise import Noise


def figures(*stamps: float, server: float | None = None) -> Figures:
    return figures_of_rounds(
        stamps, Measurement(2.0, 0.5), device_megabytes=100.04, server_megabytes=server, idle_megabytes=30.0
    )


def test_a_round_is_the_time_between_two_stamps() -> None:
    assert figures(10.0, 11.0, 14.0, 16.0).seconds == [1.0, 3.0, 2.0]


def test_a_single_stamp_is_no_round() -> None:
    with pytest.raises(ValueError, match="1 times do not make a round"):
        figures(10.0)


def test_what_was_used_is_per_device_and_round_since_the_first_measurement() -> None:
    used = Measurement(50.0, 21.0).since(Measurement(10.0, 1.0), 4 * 5)
    assert used == Measurement(2.0, 1.0)


def test_the_json_line_has_the_median_and_its_spread() -> None:
    assert figures(0.0, 1.0, 4.0, 6.0, server=50.0).as_json() == {
        "s": 2.0,
        "fastest_s": 1.0,
        "slowest_s": 3.0,
        "cpu_s": 2.0,
        "device_cpu_s": 0.5,
        "device_mb": 100.0,
        "idle_mb": 30.0,
        "server_mb": 50.0,
    }


def test_a_system_without_a_server_process_has_no_memory_of_one() -> None:
    assert figures(0.0, 1.0).as_json()["server_mb"] is None
    assert "no server" in figures(0.0, 1.0).in_words()


def test_each_system_is_compared_with_the_baseline_by_medians() -> None:
    found = {"flower": figures(0.0, 6.0, 12.0), "native": figures(0.0, 0.5), "fedgrass": figures(0.0, 1.0)}
    assert times_as_fast(found, "flower") == {"native": 12.0, "fedgrass": 6.0}


@pytest.mark.parametrize("megabytes", [0.1, 1.0])
def test_the_app_begins_with_the_model_that_it_has_as_a_task_of_fedgrass(megabytes: float) -> None:
    app = runpy.run_path(str(APP / "overhead" / "task.py"))
    own, given = app["initial_model"](megabytes), Noise(megabytes).initial_weights(seed=0)
    assert own.keys() == given.keys()
    assert all(np.array_equal(own[name], given[name]) for name in own)
