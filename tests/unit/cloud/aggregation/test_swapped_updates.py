"""An update swapped between two passes: the sum has what was measured, or the update is refused."""

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray

from cloud_functions.aggregation import update_reader
from cloud_functions.rounds import shards
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation.sharding_plan import Scale
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import checksum, encode
from tests.fakes.small_fleet import RUN, SmallFleet

# The first bytes of the default secret of xxh3: 8-byte keys, one for each lane of a 64-byte stripe. The keys
# of the next stripe begin 8 bytes later.
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
)
LANE = 0  # whose key halves are small float32 values
HUGE = 0x70F8F2C5  # the bits of about 6e29 in float32
MODEL = {"w": np.zeros(128, np.float32)}


def collision() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return two arrays of 512 bytes with the same xxh3-128: an honest one, and one with a huge value.

    A lane of xxh3 multiplies the low half of (word ^ key) by its high half, and adds the word to its
    neighbour. Of a word whose low half is the key's the product is 0, whatever the high half is: so the high
    halves of two such words in one lane can be shifted against each other.
    """
    words = [list(struct.unpack("<2I", bytes(8))) for _ in range(64)]
    places = [LANE, 8 + LANE]  # in the first stripe and in the second
    for stripe, place in enumerate(places):
        start = 8 * (stripe + LANE)
        words[place][0] = int.from_bytes(SECRET[start : start + 4], "little")
    honest = struct.unpack("<I", struct.pack("<f", 0.5))[0]
    first = [pair.copy() for pair in words]
    second = [pair.copy() for pair in words]
    first[places[0]][1] = first[places[1]][1] = honest
    second[places[0]][1] = HUGE
    second[places[1]][1] = (2 * honest - HUGE) % 2**32
    made = [
        np.frombuffer(b"".join(struct.pack("<2I", *pair) for pair in file), "<f4") for file in (first, second)
    ]
    return made[0], made[1]


def test_the_two_arrays_differ_and_have_the_same_checksum() -> None:
    honest, hostile = collision()
    assert xxhash.xxh3_128_hexdigest(honest.tobytes()) == xxhash.xxh3_128_hexdigest(hostile.tobytes())
    assert np.isfinite(hostile).all()
    assert np.abs(honest).max() <= 0.5
    assert np.abs(hostile).max() > 1e29
    files = [encode({"w": values}) for values in (honest, hostile)]
    assert checksum(files[0]) == checksum(files[1])
    assert len(files[0]) == len(files[1])


def key_of(device: str) -> str:
    return object_keys.update(device, RUN, 1, 1)


def swapped_at(fleet: SmallFleet, swapped: str, swap: Callable[[], object], read: int) -> None:
    """Call a function just before the ``read``-th read of the object ``swapped``."""
    reads = 0
    plain = fleet.bucket.read_into

    def read_into(key: str, start: int, target: memoryview, version: str = "") -> str:
        nonlocal reads
        if key == swapped:
            reads += 1
            if reads == read:
                swap()
        return plain(key, start, target, version)

    fleet.bucket.read_into = read_into  # type: ignore[method-assign]


@pytest.mark.parametrize("read", [1, 2, 3])
@pytest.mark.parametrize("settings", [{"largest_norm": 10.0}, {"clip_norm": 1.0}, {}], ids=str)
def test_an_update_swapped_for_one_of_the_same_checksums_never_enters_the_model(
    settings: dict[str, Any], read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_reader, "_MOST_HELD", 0)
    honest, hostile = collision()
    fleet = SmallFleet(devices=3, initial=MODEL, rounds=1, threshold=1.0, minimum_replies=1, **settings)
    fleet.start()
    opened = fleet.newest()
    key = key_of("thing-1")
    swapped_at(fleet, key, lambda: fleet.bucket.write(key, encode({"w": hostile})), read)
    for device in fleet.names:
        data = fleet.upload(device, opened, {"w": honest})
        fleet.say(device, Kind.COMPLETE, fleet.completion(opened, data, device))
    assert fleet.parts(opened)["thing-1"] is expected(read, settings)
    if fleet.parts(opened)["thing-1"] is Participation.REFUSED:
        said = fleet.told_of("thing-1")[0]
        assert ("norm" if read == 1 else "was replaced while it was read") in said
        fleet.pass_time(10_000)  # at the deadline the other updates are enough
        fleet.ring()
    if settings or read > 1:
        assert np.abs(np.asarray(fleet.model(1)["w"], np.float64)).max() <= 1.0


def expected(read: int, settings: dict[str, Any]) -> Participation:
    """Swapped before the first read, it is an ordinary update with a long change."""
    if read == 1:
        return Participation.REFUSED if "largest_norm" in settings else Participation.REPLIED
    passes = 2 if settings else 1
    return Participation.REFUSED if read <= 1 + passes else Participation.REPLIED


def test_small_updates_are_read_with_one_request_each() -> None:
    """Nothing can be swapped between two reads of an update that is read once, even with two passes."""
    fleet = SmallFleet(devices=3, initial=MODEL, rounds=1, clip_norm=1.0)
    fleet.start()
    opened = fleet.newest()
    keys: list[str] = []
    plain = fleet.bucket.read_into

    def read_into(key: str, start: int, target: memoryview, version: str = "") -> str:
        keys.append(key)
        return plain(key, start, target, version)

    fleet.bucket.read_into = read_into  # type: ignore[method-assign]
    for device in fleet.names:
        data = fleet.upload(device, opened, {"w": collision()[0]})
        fleet.say(device, Kind.COMPLETE, fleet.completion(opened, data, device))
    assert sorted(key for key in keys if key.startswith("updates/")) == [key_of(name) for name in fleet.names]
    assert np.linalg.norm(np.asarray(fleet.model(1)["w"], np.float64)) == pytest.approx(
        np.linalg.norm(collision()[0].astype(np.float64)), rel=1e-6
    )


def test_all_shards_use_the_same_version_of_each_update() -> None:
    """Each shard is made by another averager, minutes apart."""
    initial = {"w": np.zeros(64 * 1024, np.float32)}
    scale = Scale(sharded_bytes=64 * 1024)
    fleet = SmallFleet(devices=3, initial=initial, rounds=1, minimum_replies=1, scale=scale)
    fleet.start()
    opened = fleet.newest()
    files = {}
    for device in fleet.names:
        files[device] = fleet.upload(device, opened, {"w": np.ones(64 * 1024, np.float32)})
        fleet.say(device, Kind.COMPLETE, fleet.completion(opened, files[device], device))
    jobs = list(fleet.alarms.jobs)
    assert len(jobs) > 2
    fleet.deliver({"job": _built(jobs[0])})
    # The same bytes in a new version: the averager cannot know that they equal what the first one read.
    fleet.bucket.write(key_of("thing-1"), files["thing-1"])
    fleet.deliver({"job": _built(jobs[1])})
    assert fleet.parts(opened)["thing-1"] is Participation.REFUSED
    assert "was replaced while it was read" in fleet.told_of("thing-1")[0]
    fleet.pass_time(10_000)
    fleet.ring()
    fleet.work()
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.good) == (State.CLOSED, 2)
    assert fleet.model(1)["w"].tolist() == [1.0] * (64 * 1024)


def _built(job: Any) -> dict[str, object]:
    return {name: getattr(job, name) for name in job.__struct_fields__}


def test_a_damaged_list_of_versions_abandons_the_round() -> None:
    initial = {"w": np.zeros(64 * 1024, np.float32)}
    fleet = SmallFleet(devices=2, initial=initial, scale=Scale(sharded_bytes=64 * 1024), on_abandoned="fail")
    fleet.start()
    for device in fleet.names:
        data = fleet.upload(device, fleet.newest(), {"w": np.ones(64 * 1024, np.float32)})
        fleet.say(device, Kind.COMPLETE, fleet.completion(fleet.newest(), data, device))
    replies = list(fleet.rounds.participants(fleet.newest()))
    fleet.bucket.write(shards._key(fleet.newest(), replies, "versions"), b"{")
    fleet.work()
    assert fleet.newest().state is State.ABANDONED
    assert "versions is damaged" in fleet.newest().reason


def test_two_averagers_of_a_group_that_read_different_versions_write_two_sums() -> None:
    """The manifest is written once, and the second averager does not overwrite the sum that it names."""
    fleet = SmallFleet(devices=4, scale=Scale(group=2, grouped_bytes=1), minimum_replies=1)
    fleet.start()
    opened = fleet.newest()
    for device in fleet.names[:2]:
        fleet.reply(device, opened)
    job = fleet.alarms.jobs[0]
    assert job.kind == "group"

    def second() -> None:
        fleet.bucket.write(key_of("thing-1"), fleet.bucket.objects[key_of("thing-1")])
        fleet.deliver({"job": _built(job)})

    fleet.counter.plan(second, name="write_once")
    fleet.deliver({"job": _built(job)})
    sums = [key for key in fleet.bucket.objects if "/sum-" in key]
    assert len(sums) == 2


def test_a_model_replaced_during_the_aggregation_abandons_the_round() -> None:
    """Changes are relative to that model, and no device is to blame."""
    fleet = SmallFleet(devices=2, largest_norm=10.0, on_abandoned="fail")
    fleet.start()
    opened, key = fleet.newest(), object_keys.model(RUN, 0)
    model = fleet.bucket.objects[key]
    swapped_at(fleet, key, lambda: fleet.bucket.write(key, model), read=2)
    for device in fleet.names:
        fleet.reply(device, opened, value=1.0)
    assert fleet.newest().state is State.ABANDONED
    assert f"{key} cannot be read: object {key} was replaced" in fleet.newest().reason
    assert set(fleet.parts(opened).values()) == {Participation.REPLIED}


def test_large_headers_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = SmallFleet(devices=6)
    fleet.start()
    opened = fleet.newest()
    at_once: list[int] = []

    def pool(count: int) -> ThreadPoolExecutor:
        at_once.append(count)
        return ThreadPoolExecutor(count)

    monkeypatch.setattr(update_reader, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(update_reader, "_HEADER_BYTES_AT_ONCE", 40_000)  # two headers of this model
    for device in fleet.names:
        fleet.reply(device, opened)
    assert at_once == [2]
