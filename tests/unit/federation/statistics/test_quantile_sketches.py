"""Sketches from devices are checked before the library reads them: it may not end on damaged bytes."""

import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgrass.federation.statistics.quantile_sketches import (
    QuantileSketch,
    SketchDamaged,
    capacity,
    check_sketch,
)

K = 64


def sketch_of(count: int) -> QuantileSketch:
    sketch = QuantileSketch(K)
    sketch.add(np.random.default_rng(count).normal(size=count))
    return sketch


@pytest.mark.parametrize("count", [0, 1, 2, 64, 65, 1000, 100_000])
def test_what_the_library_writes_is_accepted_and_read_again(count: int) -> None:
    sketch = sketch_of(count)
    again = QuantileSketch.read(sketch.serialize(), K)
    assert again.count == count
    assert again.serialize() == sketch.serialize()


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_merged_sketches_are_accepted_too(count: int) -> None:
    sketch = sketch_of(5000)
    sketch.merge(sketch_of(count))
    assert QuantileSketch.read_merged(sketch.serialize()).count == 5000 + count


def test_the_capacity_is_that_of_the_library() -> None:
    for count in (100, 1000, 10_000, 1_000_000):
        data = sketch_of(count).serialize()
        levels = data[18]
        first = struct.unpack_from("<I", data, 20)[0]
        assert capacity(K, levels) - first == (len(data) - 20 - 4 * levels - 16) // 8


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (2, b"\x0e", "not that of a KLL sketch"),
        (4, b"\x09", "its k is 9"),
        (8, b"\xff\xff\xff", "do not add up to its"),
        (18, b"\xff", "255 levels"),
        (18, b"\x04", "do not fit its length|do not add up"),
        (20, b"\xff\xff", "do not fit its length"),
        (-8, struct.pack("<d", float("nan")), "not finite"),
        (-8, struct.pack("<d", -1e9), "beyond its extremes|not in order"),
    ],
)
def test_a_damaged_sketch_is_refused_by_what_is_wrong_with_it(place: int, value: bytes, reason: str) -> None:
    data = bytearray(sketch_of(1000).serialize())
    start = place % len(data)
    data[start : start + len(value)] = value
    with pytest.raises(SketchDamaged, match=reason):
        check_sketch(bytes(data), K)


@settings(max_examples=300)
@given(st.integers(0, 2**32), st.sampled_from([0, 1, 2, 150, 1000]))
def test_no_damage_reaches_the_library_except_other_values(seed: int, count: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - damage
    data = bytearray(sketch_of(count).serialize())
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(min(len(data), 60))] = rng.randrange(256)
    if rng.random() < 0.3:
        data = data[: rng.randrange(len(data) + 1)]
    try:
        sketch = QuantileSketch.read(bytes(data), K)
    except SketchDamaged:
        return
    other = sketch_of(10)
    other.merge(sketch)
    assert other.count == 10 + sketch.count
