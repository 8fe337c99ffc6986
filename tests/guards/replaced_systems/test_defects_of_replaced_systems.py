"""One test or more for each defect of the systems that fedgrass replaces.

    defect                                                      shown
    pickle from devices and to devices                          here; in_code: imports and loaders
    a mutex with no lease                                       here: a_crash_of_the_averager...
    check-then-lock races                                       here: two_averagers_at_once...
    one dead device stops everything                            here; on_the_device: the deadline
    a comparison of floats hangs                                here: a_fraction_without_an_exact_float...
    the old model deleted first, the last one never saved       here
    all models in memory, weighting by repeated addition        here
    no round or attempt in replies                              here; on_the_device
    failed uploads acknowledged                                 here; on_the_device
    commands lost at QoS 0                                      here; on_the_device
    errors of devices never reported                            here; on_the_device
    no time-out on any wait, polling loops                      in_code: waits, processes, clients, loops
    identity by hostname, separators, a new id at each start    here; in_code; on_the_device
    clocks of devices subtracted from the cloud's               here; in_code; on_the_device
    full-access roles, open endpoints                           in_template
    static keys, verify=False                                   in_code
    every device receives every device's commands               here; in_template: policy; on_the_device
    batches counted as examples, loss summed, training mode     here; on_the_device
    names of buckets and regions fixed, scans of one page       in_template; in_code
    discovery late and capped at 10                             here
    set-up of an hour by hand                                   e2e/test_demo_command.py: one command
    no clean-up of streams and files                            in_template: expiry; on_the_device
    no tests                                                    in_code

``here`` is this file, ``in_code``, ``in_template`` and ``on_the_device`` are the files test_defects_*.py.
"""

import ast
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_functions.aggregation.reader_threads import SMALLEST_BUFFERS
from cloud_functions.rounds import hellos
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.messages import Announcement
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import decode
from tests.fakes.memory_cloud import Crash, MemoryBucket
from tests.fakes.small_average import SmallAverage
from tests.fakes.small_fleet import RUN, SmallFleet, update_full_of
from tests.guards.cloud_files import PROJECT


class Bomb:
    exploded = False

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"from {__name__} import Bomb; Bomb.exploded = True",)


def test_pickle_from_a_device_runs_no_code() -> None:
    bomb = pickle.dumps(Bomb())
    with pytest.raises(UpdateRefused):
        decode(bomb)
    fleet = SmallFleet(devices=1, on_abandoned="fail")
    fleet.start()
    fleet.say(
        "thing-0",
        Kind.COMPLETE,
        fleet.completion(fleet.newest(), fleet.upload("thing-0", fleet.newest(), bomb)),
    )
    assert fleet.newest().refused == 1
    assert not Bomb.exploded


def test_no_module_that_runs_in_the_cloud_imports_pickle_or_torch() -> None:
    for folder in ("fedgrass/federation", "cloud_functions"):
        for path in (PROJECT / folder).rglob("*.py"):
            assert not imported(path) & {
                "pickle",
                "cloudpickle",
                "dill",
                "joblib",
                "marshal",
                "shelve",
                "torch",
            }


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_a_crash_of_the_averager_locks_nothing_permanently() -> None:
    fleet = SmallFleet(devices=1, rounds=1)
    fleet.start()
    payload = fleet.completion(fleet.newest(), fleet.upload("thing-0", fleet.newest(), update_full_of(1)))
    fleet.counter.plan_crash(name="create")
    with pytest.raises(Crash):
        fleet.say("thing-0", Kind.COMPLETE, payload)
    fleet.now += 61_000
    fleet.say("thing-0", Kind.COMPLETE, payload)
    assert fleet.run().state is RunState.SUCCEEDED


def test_two_averagers_at_once_average_a_round_once() -> None:
    fleet = SmallFleet(devices=2, rounds=1)
    fleet.start()
    opened = fleet.newest()
    fleet.reply("thing-0")
    taken: list[bool] = []
    fleet.counter.plan(lambda: taken.append(fleet.reply("thing-0", opened)), name="move", call=2)
    fleet.reply("thing-1")
    assert taken == [False]
    assert fleet.counter.calls.count("create") == 1  # one model
    assert fleet.run().state is RunState.SUCCEEDED


def test_one_dead_device_does_not_stop_everything() -> None:
    fleet = SmallFleet(devices=3, rounds=1)
    fleet.start()
    fleet.reply("thing-0")
    fleet.reply("thing-1")
    fleet.now = fleet.newest().deadline_at
    fleet.ring()
    assert fleet.run().state is RunState.SUCCEEDED


@pytest.mark.parametrize("asked", range(1, 101))
def test_a_fraction_without_an_exact_float_makes_no_round_wait_indefinitely(asked: int) -> None:
    for hundredths in range(1, 101):
        needed = RunSettings(task="t", threshold=hundredths / 100).replies_needed(asked)
        assert 1 <= needed <= asked
        assert needed == -(-hundredths * asked // 100)


def test_the_old_global_model_stays_and_the_last_one_is_kept() -> None:
    fleet = SmallFleet(devices=1, rounds=3)
    fleet.start()
    initial = fleet.bucket.objects[object_keys.model(RUN, 0)]
    for value in (1.0, 2.0, 3.0):
        fleet.reply("thing-0", value=value)
    assert fleet.bucket.objects[object_keys.model(RUN, 0)] == initial
    assert all(fleet.holds(number, float(number)) for number in (1, 2, 3))


def test_a_device_of_many_examples_costs_no_more_than_one_of_few() -> None:
    """The replaced systems weighted by adding a model repeatedly, once per example."""
    fleet = SmallFleet(devices=2, rounds=1)
    fleet.start()
    fleet.reply("thing-0", value=1.0, examples=2**40)
    fleet.reply("thing-1", value=3.0, examples=2**40)
    assert decode(fleet.bucket.objects[object_keys.model(RUN, 1)])["weight"].tolist() == [[2.0] * 3] * 2


def test_a_stale_reply_is_not_averaged_into_another_round() -> None:
    fleet = SmallFleet(devices=2, threshold=0.5)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0", value=1.0)
    second = fleet.newest()
    fleet.reply("thing-1", first, value=1000.0)
    assert (second.number, fleet.newest()) == (2, second)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert closed.late == 1
    fleet.reply("thing-0", second, value=7.0)
    assert fleet.holds(2, 7.0)


def test_a_failed_upload_is_not_acknowledged_as_done() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    fleet.say("thing-0", Kind.COMPLETE, fleet.completion(fleet.newest(), b"was never uploaded"))
    fleet.reply("thing-1")
    first = fleet.rounds.round(RUN, 1, 1)
    assert first is not None
    assert (first.state, first.good) == (State.CLOSED, 1)


def test_an_error_of_a_device_is_reported() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    fleet.status("thing-1", "failed", reason="CUDA out of memory")
    assert fleet.told_of("thing-1") == ["failed: CUDA out of memory"]


def test_a_command_that_a_device_missed_is_repeated_when_it_comes_back() -> None:
    fleet = SmallFleet(devices=1)
    fleet.start()
    fleet.publisher.published.clear()
    hellos.answer_hello(fleet.cloud, "thing-0")
    assert [type(message) for message in fleet.heard("thing-0")] == [Announcement]


@pytest.mark.parametrize("name", ["a;b", "a b", "host/name", "", "x" * 129])
def test_no_name_of_a_device_can_be_taken_apart_at_a_separator(name: str) -> None:
    with pytest.raises(SettingsError, match="cannot name a thing"):
        checked_name("thing", name)


def test_a_device_is_identified_by_the_cloud_and_not_by_itself() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    opened = fleet.newest()
    data = fleet.upload("thing-0", opened, update_full_of(1))
    fleet.say("thing-0", Kind.COMPLETE, fleet.completion(opened, data, device="thing-1", client="thing-1"))
    states = {part.device: part.state for part in fleet.rounds.participants(opened)}
    assert states == {"thing-0": Participation.REPLIED, "thing-1": Participation.ASKED}


def test_a_turnaround_is_between_two_times_of_the_cloud_whatever_a_device_believes() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    opened = fleet.newest()
    fleet.now += 12_000
    fleet.reply("thing-0", received_at=5, train_seconds=9e9)
    part = fleet.rounds.participant(opened, "thing-0")
    assert part is not None
    assert part.turnaround_seconds == 12.0


def test_each_device_receives_only_its_own_commands() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    fleet.status("thing-1", "declined", reason="busy")
    announced = {topic for topic, _payload in fleet.publisher.published if topic.endswith("/announce")}
    assert announced == {f"fedgrass/garden/clients/{name}/announce" for name in fleet.names}


def test_batches_are_not_counted_as_examples() -> None:
    """Without a cap in the run's settings, the weight is exactly the device's number of examples."""
    fleet = SmallFleet(devices=2, rounds=1, examples_cap=0)
    fleet.start()
    fleet.reply("thing-0", value=0.0, examples=64)
    fleet.reply("thing-1", value=65.0, examples=1)
    mean = decode(fleet.bucket.objects[object_keys.model(RUN, 1)])["bias"]
    np.testing.assert_array_equal(mean, [1.0] * 3)


def test_more_devices_than_ten_are_found_and_at_once() -> None:
    fleet = SmallFleet(devices=500)
    fleet.start()
    assert fleet.newest().asked == 500


def test_a_device_is_a_candidate_from_its_first_heartbeat_to_the_end_of_the_window() -> None:
    fleet = SmallFleet(devices=1, seen_within_seconds=300)
    fleet.devices.heartbeat("came-just-now", fleet.now)
    fleet.devices.heartbeat("at-the-edge", fleet.now - 300_000)
    fleet.devices.heartbeat("gone", fleet.now - 300_001)
    fleet.start()
    assert set(fleet.parts()) == {"thing-0", "came-just-now", "at-the-edge"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "few"),
    # Krum compares each update with each other: half of the devices, a quarter of the time.
    [("weighted_mean", 32), ("fedadam", 32), ("median", 32), ("krum", 16), ("q_fedavg", 32)],
)
def test_the_memory_of_an_average_does_not_grow_with_the_devices(strategy: str, few: int) -> None:
    """The replaced systems held every model of a round in memory at once."""
    model = {"weight": np.zeros(1_000_000, dtype=np.float32)}
    # Threads may or may not convert at the same moment, so that one number of devices gives several peaks. If
    # models were held in memory, twice the devices would take nearly twice the memory in any case.
    kept = [
        [_traced_memory_of_an_average(model, devices, strategy) for _ in range(3)]
        for devices in (few, 2 * few)
    ]
    assert min(kept[1]) < max(kept[0]) * 1.1
    assert max(kept[1]) < SMALLEST_BUFFERS + 6 * model["weight"].nbytes


def _traced_memory_of_an_average(model: dict[str, Any], devices: int, strategy: str) -> int:
    bucket = MemoryBucket()
    bucket.range_bytes = 2 * 1024**2  # as for S3
    run = SmallAverage(model, bucket=bucket, aggregation=strategy)
    run.upload([run.encode(model)] * devices)  # a single object for all devices
    tracemalloc.start()
    try:
        run.make(devices, metrics=[{"loss": 1.0}] * devices)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
