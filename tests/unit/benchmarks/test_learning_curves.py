"""Learning curves of simulations: what a round adds, the way to a target, and the mean of seeds."""

from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.simulated.learning_curves import Curve, CurveRecorder, Point, in_words, mean_and_spread
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.simulation.simulation import START


def point(model: int, accuracy: float, seconds: float = 0.0) -> Point:
    return Point(model=model, seconds=seconds, updates=10 * model, bytes=100 * model, accuracy=accuracy)


def curve(*points: Point) -> Curve:
    return Curve(points=points, weights={}, wall_seconds=1.0)


def record(number: int, *, accepted: int = 2, asked: int = 3, **changes: Any) -> RoundRecord:
    values: Mapping[str, Any] = {
        "run": "r",
        "number": number,
        "attempt": 1,
        "state": State.CLOSED,
        "asked": asked,
        "needed": asked,
        "minimum": 1,
        "opened_at": START,
        "deadline_at": START + 90_000,
        "base_sha256": "",
        "base_bytes": 1000,
        "bytes_up": 300,
        "replied": accepted,
        "closed_at": START + number * 1500,
    }
    participants = [
        Participant(
            device=f"d{place}", state=Participation.ASKED, announced_at=START, accepted=place < accepted
        )
        for place in range(asked)
    ]
    return RoundRecord(Round(**{**values, **changes}), participants)


def test_a_round_adds_its_updates_and_all_bytes_that_travelled() -> None:
    recorder = CurveRecorder("run", 2)
    recorder.add(record(1), {"accuracy": 0.5})
    recorder.add(record(2, refused=1), {"accuracy": 0.6})
    assert recorder.points == [
        Point(model=1, seconds=1.5, updates=2, bytes=2300, accuracy=0.5),
        Point(model=2, seconds=3.0, updates=3, bytes=4600, accuracy=0.6),
    ]


def test_an_encoded_model_counts_with_the_bytes_that_were_downloaded() -> None:
    recorder = CurveRecorder("run", 1)
    recorder.add(record(1, base_download_bytes=250), {"accuracy": 0.5})
    assert recorder.points[0].bytes == 2 * 250 + 300


def test_a_device_that_did_not_accept_has_downloaded_nothing() -> None:
    recorder = CurveRecorder("run", 1)
    recorder.add(record(1, accepted=0, bytes_up=0), {"accuracy": 0.1})
    assert recorder.points[0].bytes == 0


def test_an_abandoned_round_makes_no_model_but_its_bytes_count() -> None:
    recorder = CurveRecorder("run", 1)
    recorder.add(record(1, state=State.ABANDONED, bytes_up=100, replied=0), {})
    recorder.add(record(1, attempt=2), {"accuracy": 0.5})
    assert [found.bytes for found in recorder.points] == [2100 + 2300]


def test_a_simulation_may_stop_at_its_target_and_not_without_one() -> None:
    aimed, whole = CurveRecorder("run", 2, until=0.9), CurveRecorder("run", 2)
    for recorder in (aimed, whole):
        recorder.add(record(1), {"accuracy": 0.9})
    assert aimed.is_done()
    assert not whole.is_done()


def test_the_first_model_at_the_target_is_found_although_later_ones_are_worse() -> None:
    found = curve(point(1, 0.5), point(2, 0.9), point(3, 0.8), point(4, 0.95))
    assert found.reached(0.9) == point(2, 0.9)
    assert found.reached(0.96) is None


def test_the_settled_accuracy_is_the_mean_of_the_last_models() -> None:
    found = curve(point(1, 0.1), point(2, 0.8), point(3, 0.9))
    assert found.settled(2) == pytest.approx(0.85)
    assert found.settled(9) == pytest.approx(0.6)


def test_the_model_at_a_time_is_the_latest_that_there_was() -> None:
    found = curve(point(1, 0.5, 10.0), point(2, 0.6, 20.0))
    assert found.at_seconds(9.0) is None
    assert found.at_seconds(10.0) == point(1, 0.5, 10.0)
    assert found.at_seconds(99.0) == point(2, 0.6, 20.0)


def test_the_spread_is_from_the_lowest_to_the_highest_seed() -> None:
    found = mean_and_spread([3.0, 1.0, 2.0])
    assert found == {"mean": 2.0, "lowest": 1.0, "highest": 3.0, "missed": 0}
    assert in_words(found, " s") == "2 s (1 to 3)"


def test_a_seed_that_missed_the_target_leaves_no_mean() -> None:
    found = mean_and_spread([3.0, None])
    assert found == {"mean": None, "lowest": 3.0, "highest": None, "missed": 1}
    assert in_words(found, " s") == "not reached by 1, the others from 3 s"
    assert in_words(mean_and_spread([None, None])) == "not reached by 2"
