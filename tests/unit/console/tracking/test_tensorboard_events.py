"""TensorBoard's event files, read back record by record; make test-tracking reads them with TensorBoard."""

import struct
from collections import defaultdict
from pathlib import Path

import pytest

from fedgrass.console import stack
from tests.fakes.small_fleet import RUN
from tests.fakes.tracked_fleet import TrackedFleet

pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")

from fedgrass.console.tracking.tensorboard_events import TensorBoardEvents, _records
from tests.fakes.small_fleet import SmallFleet

Points = dict[str, list[tuple[int, float]]]


def read(folder: Path) -> Points:
    """Return the scalars in the files of a folder: step and value by tag."""
    from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415 - an extra

    found: Points = defaultdict(list)
    for file in sorted(folder.iterdir()):
        for data in _records(file):
            event = Event.FromString(data)
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found[value.tag].append((event.step, value.simple_value))
    return found


def folder_of(root: Path) -> Path:
    return root / "garden" / RUN


def fleet_of(rounds: int = 3) -> TrackedFleet:
    fleet = TrackedFleet(devices=2, rounds=rounds)
    fleet.start()
    return fleet


def test_each_closed_round_is_a_step_with_its_figures(tmp_path: Path) -> None:
    fleet = fleet_of()
    fleet.train(3)
    fleet.track(TensorBoardEvents(str(tmp_path), stack.client))
    points = read(folder_of(tmp_path))
    assert points["loss"] == [(1, 0.25), (2, 0.25), (3, 0.25)]
    assert points["round/replied"] == [(1, 2), (2, 2), (3, 2)]
    assert points["round/seconds"] == [(1, 1), (2, 1), (3, 1)]
    assert "round/staleness_mean" not in points  # of buffered runs


def test_commands_one_after_the_other_write_each_round_once(tmp_path: Path) -> None:
    fleet = fleet_of()
    for _ in range(3):
        fleet.train()
        for _ in range(2):
            fleet.track(TensorBoardEvents(str(tmp_path), stack.client))
    assert sorted(read(folder_of(tmp_path))["loss"]) == [(1, 0.25), (2, 0.25), (3, 0.25)]


def test_a_file_that_was_cut_off_in_a_round_gets_that_round_again(tmp_path: Path) -> None:
    fleet = fleet_of()
    fleet.train(3)
    fleet.track(TensorBoardEvents(str(tmp_path), stack.client))
    (file,) = folder_of(tmp_path).iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    report = fleet.track(TensorBoardEvents(str(tmp_path), stack.client))
    assert (report.sinks[0].rounds, report.sinks[0].recorded) == (1, 2)
    assert [step for step, _ in read(folder_of(tmp_path))["round/attempt"]] == [1, 2, 3]


def test_a_damaged_file_ends_where_it_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.write_bytes(struct.pack("<QI", 2**60, 0) + b"x" * 100)
    assert list(_records(file)) == []


def test_a_later_run_of_the_same_name_is_not_taken_for_the_earlier_one(tmp_path: Path) -> None:
    for started in (1_700_000_000_000, 1_800_000_000_000):
        fleet = TrackedFleet(devices=1, rounds=1)
        fleet.now = started
        fleet.heartbeats()
        SmallFleet.start(fleet)
        fleet.train()
        report = fleet.track(TensorBoardEvents(str(tmp_path), stack.client))
        assert report.sinks[0].rounds == 1


def test_an_abandoned_attempt_has_no_step(tmp_path: Path) -> None:
    fleet = TrackedFleet(devices=1, rounds=1, deadline_seconds=60, attempts=2)
    fleet.start()
    fleet.pass_time(61)
    fleet.ring()
    fleet.train()
    report = fleet.track(TensorBoardEvents(str(tmp_path), stack.client))
    assert report.sinks[0].rounds == 1
    assert read(folder_of(tmp_path))["round/attempt"] == [(1, 2)]
