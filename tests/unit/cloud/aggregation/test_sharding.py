"""Division of large rounds: partial sums while the round is open, shards of a large model."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from cloud_functions.aggregation import combiner
from cloud_functions.rounds import close_round
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation.sharding_plan import Scale
from fedgrass.federation.rounds import Participation, Round, State
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import Arrays, sha256
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet

pytestmark = pytest.mark.slow  # seconds of trainings, floods or sums: make test runs them

GROUPS = Scale(group=3, grouped_bytes=0)
SHARDS = Scale(sharded_bytes=2 * 4 * 4096)
DEVICES = 8
MODEL: dict[str, np.ndarray[Any, Any]] = {
    "body": np.linspace(-1, 1, 10_000, dtype=np.float32).reshape(100, 100),
    "head": np.ones(5_000, dtype=np.float32),
    "wide": np.ones(300, dtype=np.float64),
    "batches": np.array(7, dtype=np.int64),
}


def update_of(device: str, number: int = 1) -> Arrays:
    rng = np.random.default_rng([int(device.removeprefix("thing-")), number])
    return {
        name: array + 3
        if array.dtype.kind == "i"
        else (array + rng.standard_normal(array.shape)).astype(array.dtype)
        for name, array in MODEL.items()
    }


def examples_of(device: str) -> int:
    return 10 + 7 * int(device.removeprefix("thing-"))


def a_fleet(scale: Scale | None, devices: int = DEVICES, **settings: Any) -> SmallFleet:
    fleet = SmallFleet(devices, scale=scale, initial=MODEL, **{"rounds": 1, "examples_cap": 0, **settings})
    fleet.start()
    return fleet


def reply(fleet: SmallFleet, device: str, update: Arrays | bytes | None = None) -> bool:
    of = fleet.rounds.round(RUN, 1, 1)
    assert of is not None
    data = fleet.upload(device, of, update_of(device) if update is None else update)
    return fleet.say(device, Kind.COMPLETE, fleet.completion(of, data, examples=examples_of(device)))


def first(fleet: SmallFleet) -> Round:
    of = fleet.rounds.round(RUN, 1, 1)
    assert of is not None
    return of


def undivided(
    without: frozenset[str] = frozenset(), devices: int = DEVICES, **settings: Any
) -> Mapping[str, Any]:
    """Return the model that a single averager makes."""
    fleet = a_fleet(None, devices, **settings)
    for device in fleet.names:
        if device in without:
            fleet.status(device, "failed")
        else:
            reply(fleet, device)
    assert first(fleet).state is State.CLOSED
    return fleet.model(1)


def assert_same(model: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert model.keys() == expected.keys()
    for name, array in expected.items():
        assert model[name].dtype == array.dtype
        np.testing.assert_allclose(model[name], array, rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("aggregation", ["weighted_mean", "mean", "fedavgm", "fedadam"])
@pytest.mark.parametrize("clip", [None, 50.0])
def test_a_round_summed_in_groups_makes_the_same_model(aggregation: str, clip: float | None) -> None:
    settings: dict[str, Any] = {"aggregation": aggregation, "clip_norm": clip}
    fleet = a_fleet(GROUPS, **settings)
    for device in fleet.names:
        fleet.work()
        reply(fleet, device)
    assert first(fleet).groups == 2
    assert_same(fleet.model(1), undivided(**settings))


def test_every_third_reply_fills_a_group_and_no_reply_is_in_two() -> None:
    fleet = a_fleet(GROUPS)
    for device in fleet.names[:7]:
        reply(fleet, device)
    members = [part.group for part in fleet.rounds.participants(first(fleet))]
    assert sorted(members) == [0, 1, 1, 1, 2, 2, 2, 3]
    assert [job.number for job in fleet.alarms.jobs] == [1, 2]


def test_a_reply_counted_while_its_group_begins_is_in_the_model_once() -> None:
    """Two workers count at the same time: both read that there are two replies and count into group 1."""
    fleet = a_fleet(GROUPS)
    for device in fleet.names[:2]:
        reply(fleet, device)
    fleet.counter.plan(lambda: reply(fleet, "thing-5"), name="count_reply")
    reply(fleet, "thing-2")
    fleet.work()
    for device in ("thing-3", "thing-4", "thing-6", "thing-7"):
        reply(fleet, device)
        fleet.work()
    groups = [part.group for part in fleet.rounds.participants(first(fleet))]
    assert groups.count(1) == 4
    assert_same(fleet.model(1), undivided())


def test_a_group_keeps_the_size_set_when_the_round_opened() -> None:
    fleet = a_fleet(GROUPS)
    reply(fleet, "thing-0")
    fleet.cloud = dataclasses.replace(
        fleet.cloud, scale=Scale(group=2, grouped_bytes=0)
    )  # another deployment
    for device in fleet.names[1:]:
        reply(fleet, device)
        fleet.work()
    assert (first(fleet).group_size, first(fleet).groups) == (3, 2)
    assert_same(fleet.model(1), undivided())


def reads_of(devices: int) -> int:
    """Return how many participants all averagers together read while a cohort replies."""
    fleet = SmallFleet(devices, scale=Scale(grouped_bytes=0), rounds=1)
    fleet.start()
    opened = fleet.newest()
    for device in fleet.names:
        fleet.reply(device, opened)
        fleet.work()
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.groups) == (State.CLOSED, (devices - 1) // 64)
    return fleet.rounds.items_read


@pytest.mark.slow
def test_the_participants_read_grow_linearly_with_the_cohort() -> None:
    few, many = reads_of(500), reads_of(2000)
    assert many <= 4.2 * few
    assert many <= 5 * 2000  # announced, summed, averaged, written to the manifest


def spoil(fleet: SmallFleet, spoilt: str) -> None:
    """Damage the sum of group 1, or its manifest."""
    parts = f"drafts/{RUN}/1-1/parts/"
    manifest = parts + "group-1.json"
    key = json.loads(fleet.bucket.objects[manifest])["key"]
    data = bytearray(fleet.bucket.objects[key])
    match spoilt:
        case "a bit":
            data[-9] ^= 1
            fleet.bucket.objects[key] = bytes(data)
        case "not finite":
            data[-8:] = np.array(np.nan).tobytes()
            fleet.bucket.objects[key] = bytes(data)
        case "truncated":
            fleet.bucket.objects[key] = bytes(data[:-100])
        case "absent":
            del fleet.bucket.objects[key]
        case "another group's":
            other = json.loads(fleet.bucket.objects[parts + "group-2.json"])["key"]
            fleet.bucket.objects[key] = fleet.bucket.objects[other]
        case "manifest":
            fleet.bucket.objects[manifest] = b'{"devices": ["thing-0"'
        case _:
            del fleet.bucket.objects[manifest]


@pytest.mark.parametrize(
    "spoilt", ["a bit", "not finite", "truncated", "absent", "another group's", "manifest", "no manifest"]
)
@pytest.mark.parametrize("others", [1, 2])
def test_the_updates_of_a_damaged_sum_are_read_again_and_no_device_is_refused(
    spoilt: str, others: int
) -> None:
    """``others`` replies are in no group: with one there is a last group of two, with two there is none."""
    fleet = a_fleet(GROUPS, devices=6 + others)
    for device in fleet.names[:-1]:
        reply(fleet, device)
        fleet.work()
    spoil(fleet, spoilt)
    reply(fleet, fleet.names[-1])
    assert first(fleet).state is State.CLOSED
    assert set(fleet.parts(first(fleet)).values()) == {Participation.REPLIED}
    assert_same(fleet.model(1), undivided(devices=6 + others))


def test_a_round_with_only_damaged_sums_is_averaged_from_its_updates() -> None:
    fleet = a_fleet(GROUPS)
    for device in fleet.names[:-1]:
        reply(fleet, device)
    fleet.work()
    for key in [key for key in fleet.bucket.objects if "/parts/sum-" in key]:
        del fleet.bucket.objects[key]
    reply(fleet, fleet.names[-1])
    assert sum("cannot be used" in change.text for change in fleet.told()) == 2
    assert_same(fleet.model(1), undivided())


def test_the_averager_that_closes_a_round_reads_the_updates_of_unsummed_groups() -> None:
    fleet = a_fleet(GROUPS)
    for device in fleet.names:
        reply(fleet, device)  # without running the jobs
    assert first(fleet).state is State.CLOSED
    assert_same(fleet.model(1), undivided())
    assert fleet.work() == 2  # for a closed round: no effect
    assert_same(fleet.model(1), undivided())


def test_the_updates_of_a_finished_group_are_not_read_again() -> None:
    fleet = a_fleet(GROUPS)
    for device in fleet.names[:-1]:
        reply(fleet, device)
    fleet.work()
    for device in fleet.names[:6]:
        del fleet.bucket.objects[object_keys.update(device, RUN, 1, 1)]
    reply(fleet, fleet.names[-1])
    assert_same(fleet.model(1), undivided())


@pytest.mark.slow
def test_the_averager_of_a_group_may_die_at_every_call() -> None:
    expected, deaths = undivided(), 0
    while True:
        fleet = a_fleet(GROUPS)
        for device in fleet.names[:-1]:
            reply(fleet, device)
        fleet.counter.plan_crash(call=deaths + 1)
        try:
            fleet.work()
        except Crash:
            deaths += 1
        else:
            break
        fleet.counter.forget_plans()
        reply(fleet, fleet.names[-1])
        assert first(fleet).state is State.CLOSED
        assert_same(fleet.model(1), expected)
    assert deaths > 10


def test_the_worker_that_begins_a_group_may_die_at_every_call() -> None:
    expected, deaths = undivided(), 0
    while True:
        fleet = a_fleet(GROUPS)
        reply(fleet, "thing-0")
        reply(fleet, "thing-1")
        fleet.counter.plan_crash(call=deaths + 1)
        try:
            reply(fleet, "thing-2")
        except Crash:
            deaths += 1
        else:
            break
        fleet.counter.forget_plans()
        reply(fleet, "thing-2")
        for device in fleet.names[3:]:
            reply(fleet, device)
        fleet.work()
        assert_same(fleet.model(1), expected)
    assert deaths > 3


def test_two_averagers_of_one_group_make_one_sum() -> None:
    fleet = a_fleet(GROUPS)
    for device in fleet.names[:3]:
        reply(fleet, device)
    job = fleet.alarms.jobs[0]
    fleet.alarms.jobs += [job, job]
    fleet.work()
    sums = [key for key in fleet.bucket.objects if "/parts/sum-" in key]
    assert len(sums) == 1


def test_a_bad_update_in_a_group_is_refused_by_name_when_the_round_closes() -> None:
    fleet = a_fleet(GROUPS)
    bad = {**update_of("thing-1"), "head": np.full(5_000, np.nan, dtype=np.float32)}
    for device in fleet.names[:-1]:
        reply(fleet, device, bad if device == "thing-1" else None)
        fleet.work()
    reply(fleet, fleet.names[-1])
    part = fleet.rounds.participant(first(fleet), "thing-1")
    assert part is not None
    assert part.state is Participation.REFUSED
    assert "array 'head' has values that are not finite" in part.reason
    assert_same(fleet.model(1), undivided(frozenset({"thing-1"})))


@pytest.mark.parametrize("aggregation", ["median", "krum", "q_fedavg"])
def test_strategies_that_need_all_updates_at_once_have_no_groups(aggregation: str) -> None:
    fleet = a_fleet(GROUPS, aggregation=aggregation)
    for device in fleet.names:
        reply(fleet, device)
    assert (first(fleet).groups, fleet.alarms.jobs) == (0, [])
    assert first(fleet).state is State.CLOSED


@pytest.mark.parametrize("exact_bytes", [combiner.EXACT_BYTES, 0])
@pytest.mark.parametrize("aggregation", ["weighted_mean", "fedadam", "median", "trimmed_mean"])
def test_a_model_made_in_shards_is_bit_identical(
    aggregation: str, exact_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(combiner, "EXACT_BYTES", exact_bytes)
    fleet = a_fleet(SHARDS, aggregation=aggregation)
    for device in fleet.names:
        reply(fleet, device)
    assert first(fleet).state is State.AGGREGATING
    assert fleet.work() == 7  # 3 of body, 2 of head, wide, batches: a shard has arrays of one kind
    assert first(fleet).state is State.CLOSED
    expected = undivided(aggregation=aggregation)
    for name, array in fleet.model(1).items():
        np.testing.assert_array_equal(array, expected[name])
    assert first(fleet).model_sha256 == sha256(fleet.bucket.objects[object_keys.model(RUN, 1)])


def test_the_look_ups_of_shards_grow_linearly_with_their_number() -> None:
    fleet = a_fleet(Scale(sharded_bytes=4096), devices=2)
    for device in fleet.names:
        reply(fleet, device)
    shards = fleet.work()
    assert shards > 5
    assert first(fleet).state is State.CLOSED
    # All before they are handed over, its own and the last one by each averager, all by the last averager.
    # Six more for two rounds and a lease: whether the bucket already has the end of the round.
    assert fleet.counter.calls.count("exists") <= 4 * shards + 6


def test_the_state_of_a_sharded_model_is_used_in_the_next_round() -> None:
    models = []
    for scale in (None, SHARDS):
        fleet = a_fleet(scale, rounds=2, aggregation="fedavgm")
        for number in (1, 2):
            of = fleet.newest()
            for device in fleet.names:
                data = fleet.upload(device, of, update_of(device, number))
                fleet.say(device, Kind.COMPLETE, fleet.completion(of, data))
            fleet.work()
        models.append(fleet.model(2))
    for name in MODEL:
        np.testing.assert_array_equal(models[0][name], models[1][name])


@pytest.mark.slow
def test_the_averager_of_a_shard_may_die_at_every_call_and_the_redelivered_job_makes_the_shard() -> None:
    expected, deaths = undivided(), 0
    while True:
        fleet = a_fleet(SHARDS)
        for device in fleet.names:
            reply(fleet, device)
        jobs = list(fleet.alarms.jobs)
        fleet.counter.plan_crash(call=deaths + 1)
        try:
            fleet.work()
        except Crash:
            deaths += 1
        else:
            break
        fleet.counter.forget_plans()
        fleet.alarms.jobs = jobs  # jobs not deleted are delivered again, and even finished ones may be
        fleet.work()
        assert first(fleet).state is State.CLOSED
        for name, array in fleet.model(1).items():
            np.testing.assert_array_equal(array, expected[name])
    assert deaths > 100


def test_lost_shards_are_handed_over_again_when_the_lease_expires() -> None:
    fleet = a_fleet(SHARDS)
    for device in fleet.names:
        reply(fleet, device)
    lost, kept = fleet.alarms.jobs[:2], fleet.alarms.jobs[2:]
    fleet.alarms.jobs = kept
    fleet.work()
    assert first(fleet).state is State.AGGREGATING
    fleet.now += 61_000
    fleet.remind()
    assert [job.number for job in fleet.alarms.jobs] == [job.number for job in lost]
    fleet.work()
    assert first(fleet).state is State.CLOSED
    assert_same(fleet.model(1), undivided())


@pytest.mark.parametrize("array", ["body", "wide"])
def test_an_update_that_is_bad_in_one_shard_is_refused_for_all(array: str) -> None:
    fleet = a_fleet(SHARDS)
    bad = {**update_of("thing-3"), array: np.full_like(MODEL[array], np.inf)}
    for device in fleet.names:
        reply(fleet, device, bad if device == "thing-3" else None)
    fleet.work()
    part = fleet.rounds.participant(first(fleet), "thing-3")
    assert part is not None
    assert part.state is Participation.REFUSED
    assert first(fleet).state is State.CLOSED
    assert_same(fleet.model(1), undivided(frozenset({"thing-3"})))


def test_a_changed_byte_is_found_by_the_shard_that_reads_it() -> None:
    fleet = a_fleet(SHARDS)
    for device in fleet.names:
        reply(fleet, device)
    key = object_keys.update("thing-2", RUN, 1, 1)
    data = bytearray(fleet.bucket.objects[key])
    data[-2000] ^= 1
    fleet.bucket.objects[key] = bytes(data)
    fleet.work()
    assert fleet.parts(first(fleet))["thing-2"] is Participation.REFUSED
    assert_same(fleet.model(1), undivided(frozenset({"thing-2"})))


def test_a_sharded_round_with_too_many_bad_updates_is_reopened() -> None:
    fleet = a_fleet(SHARDS, threshold=0.5)
    bad = {**update_of("thing-0"), "body": np.full((100, 100), np.nan, dtype=np.float32)}
    for device in fleet.names[:4]:
        reply(fleet, device, bad if device == "thing-0" else None)
    fleet.work()
    assert (first(fleet).state, first(fleet).refused) == (State.OPEN, 1)
    reply(fleet, fleet.names[5])
    fleet.work()
    assert first(fleet).state is State.CLOSED


def test_a_small_round_is_not_divided() -> None:
    fleet = a_fleet(None)
    for device in fleet.names:
        reply(fleet, device)
    assert (first(fleet).groups, fleet.alarms.jobs, first(fleet).fence) == (0, [], 1)


def test_shards_that_were_never_joined_are_joined_when_the_lease_expires() -> None:
    fleet = a_fleet(SHARDS)
    for device in fleet.names:
        reply(fleet, device)
    *others, last = fleet.alarms.jobs
    fleet.alarms.jobs = others
    fleet.work()
    fleet.counter.plan_crash(name="move")
    fleet.alarms.jobs = [last]
    with pytest.raises(Crash):  # after the last shard is made, before they are joined
        fleet.work()
    fleet.alarms.jobs = []
    fleet.now += 61_000
    fleet.remind()
    assert fleet.work() == 1
    assert first(fleet).state is State.CLOSED
    assert_same(fleet.model(1), undivided())


def test_shards_of_an_update_refused_during_the_join_are_not_joined() -> None:
    fleet = a_fleet(SHARDS)
    for device in fleet.names:
        reply(fleet, device)

    def refuse() -> None:
        close_round.refuse(fleet.cloud, first(fleet), "thing-4", "found bad by another averager")

    fleet.counter.plan(refuse, name="move")
    fleet.work()
    assert fleet.parts(first(fleet))["thing-4"] is Participation.REFUSED
    fleet.now += 61_000
    fleet.remind()
    fleet.work()
    assert first(fleet).state is State.CLOSED
    assert_same(fleet.model(1), undivided(frozenset({"thing-4"})))


def test_averagers_that_died_before_a_round_was_reopened_do_not_count() -> None:
    fleet = a_fleet(None, threshold=0.25)
    for device in fleet.names[:6]:
        of = first(fleet)
        if of.state is not State.OPEN:
            break
        fleet.counter.plan_crash(name="create")
        bad = {**update_of(device), "head": np.full(5_000, np.nan, dtype=np.float32)}
        with contextlib.suppress(Crash):
            reply(fleet, device, bad)
        fleet.counter.forget_plans()
        fleet.now += 61_000
        fleet.deliver({"reminder": {"run": RUN}})
    assert first(fleet).expired <= 1
    assert first(fleet).state is not State.ABANDONED
