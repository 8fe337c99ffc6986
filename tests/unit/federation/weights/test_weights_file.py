"""Writing weights files: safetensors reads them, and the header has a checksum of every chunk."""

import io
import json
import re
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import xxhash
from hypothesis import given

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import (
    CHUNK_BYTES,
    ChunkCheck,
    Encoded,
    Written,
    check_data,
    checksum,
    chunk_checksums,
    encode,
    header_checksum,
    read_layout,
    unencoded,
    views,
    write,
)

BRAIN = np.array([0x3F80, 0xC000, 0x0001], "<u2")  # 1, -2 and the smallest positive value


def written(arrays: dict[str, Encoded]) -> tuple[bytes, Written]:
    target = io.BytesIO()
    result = write(arrays, target)
    return target.getvalue(), result


def mixed() -> dict[str, Encoded]:
    """Arrays of several widths, in an order in which most are not aligned to their type."""
    return {
        "z": unencoded(np.array([1, 2, 3], np.uint8), "U8"),
        "b": unencoded(np.array([[1.5, -2]], np.float32), "F32"),
        "n": unencoded(np.array(7), "I64"),
        "e": unencoded(np.zeros((0, 3), np.float16), "F16"),
        "a": unencoded(np.array([0.1, 1e300]), "F64"),
    }


def test_arrays_lie_in_the_order_in_which_they_are_given() -> None:
    data, result = written(mixed())
    layout = read_layout(data, len(data))
    assert [name for name, _ in sorted(layout.arrays.items(), key=lambda item: item[1].start)] == list(
        "zbnea"
    )
    assert layout == result.layout
    assert (result.bytes, result.checksum) == (len(data), checksum(data))


def test_safetensors_loads_what_is_written_in_any_order(tmp_path: Path) -> None:
    data, _ = written(mixed())
    theirs = safetensors.numpy.load(data)
    ours = views(data, read_layout(data, len(data)))
    assert {name: array.tolist() for name, array in theirs.items()} == {
        name: array.tolist() for name, array in ours.items()
    }
    file = tmp_path / "update.safetensors"
    file.write_bytes(data)
    assert {name: tensor.tolist() for name, tensor in safetensors.torch.load_file(file).items()} == {
        name: array.tolist() for name, array in ours.items()
    }


def test_safetensors_gives_torch_the_bfloat16_that_was_written() -> None:
    data, _ = written({"w": unencoded(BRAIN, "BF16"), "one": unencoded(np.ones(1, np.int8), "I8")})
    loaded = safetensors.torch.load(data)["w"]
    assert loaded.dtype == torch.bfloat16
    assert loaded.tolist() == [1.0, -2.0, 2.0**-133]
    assert views(data, read_layout(data, len(data)))["w"].tolist() == BRAIN.tolist()


def test_a_bfloat16_file_of_torch_is_read_as_its_bits() -> None:
    data = safetensors.torch.save({"w": torch.tensor([1.0, -2.0], dtype=torch.bfloat16)})
    assert views(data, read_layout(data, len(data)))["w"].tolist() == BRAIN[:2].tolist()


def test_the_data_begins_at_a_multiple_of_eight_bytes() -> None:
    for length in range(1, 10):
        data = encode({"n" * length: np.zeros(1)})
        assert read_layout(data, len(data)).header_bytes % 8 == 0


def test_a_file_is_written_from_the_position_of_its_target() -> None:
    target = io.BytesIO(b"before")
    target.seek(6)
    result = write(mixed(), target)
    assert target.tell() == 6 + result.bytes
    assert target.getvalue()[6:] == written(mixed())[0]


def test_an_array_may_come_in_blocks_that_are_made_one_by_one() -> None:
    values = np.arange(10, dtype=np.float32)
    blocks = (values[start : start + 4] for start in range(0, 10, 4))
    assert written({"w": Encoded("F32", (10,), blocks)})[0] == encode({"w": values})


def test_blocks_of_the_wrong_size_are_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="array 'w' gave 8 bytes; its type and shape require 12"):
        written({"w": Encoded("F32", (3,), (np.zeros(2, np.float32),))})


def three_chunks() -> bytes:
    """A file of two full chunks and a shorter third, whose arrays do not end where chunks do."""
    values = np.random.default_rng(1).integers(0, 256, 2 * CHUNK_BYTES + 1000, dtype=np.uint8)
    return encode({"a": values[:1_000_003], "b": values[1_000_003:]})


FILE = three_chunks()
HEADER = read_layout(FILE, len(FILE)).header_bytes
DATA_BYTES = len(FILE) - HEADER


def test_the_header_has_the_checksum_of_each_chunk_as_others_compute_it() -> None:
    data = FILE[HEADER:]
    expected = [
        xxhash.xxh3_128_hexdigest(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES)
    ]
    assert list(chunk_checksums(FILE[:HEADER])) == expected
    assert json.loads(FILE[8:HEADER])["__metadata__"] == {"xxh3_128": ",".join(expected)}
    assert len(expected) == 3


def test_the_checksum_of_a_file_is_that_of_its_header() -> None:
    expected = xxhash.xxh3_128_hexdigest(FILE[:HEADER])
    assert header_checksum(FILE[:HEADER]) == header_checksum(memoryview(FILE)) == checksum(FILE) == expected


def test_a_file_with_no_data_has_no_chunks() -> None:
    data = encode({"e": np.zeros((0, 3))})
    assert chunk_checksums(data) == ()
    check_data(data)


@given(st.lists(st.integers(1, 3_000_000), max_size=6), st.integers(0, 2))
def test_data_is_checked_in_pieces_of_any_size_from_any_chunk(sizes: list[int], first: int) -> None:
    check = ChunkCheck(chunk_checksums(FILE), first, DATA_BYTES)
    data, position = memoryview(FILE)[HEADER:], first * CHUNK_BYTES
    for size in [*sizes, DATA_BYTES]:
        check.feed(data[position : position + size])
        position += size
    assert check.pending == 0


@given(st.integers(0, DATA_BYTES - 1), st.integers(1, 255))
def test_a_changed_byte_anywhere_is_found_and_its_chunk_named(place: int, change: int) -> None:
    damaged = bytearray(FILE)
    damaged[HEADER + place] ^= change
    chunk = place // CHUNK_BYTES
    end = min((chunk + 1) * CHUNK_BYTES, DATA_BYTES)
    said = f"chunk {chunk} of the data \\(bytes {chunk * CHUNK_BYTES} to {end}\\) has the checksum"
    with pytest.raises(UpdateRefused, match=said):
        check_data(bytes(damaged))
    check = ChunkCheck(chunk_checksums(FILE), chunk, DATA_BYTES)
    with pytest.raises(UpdateRefused, match=said):
        check.feed(memoryview(damaged)[HEADER + chunk * CHUNK_BYTES :])


def test_what_is_fed_and_not_yet_checked_is_reported() -> None:
    check = ChunkCheck(chunk_checksums(FILE), 0, DATA_BYTES)
    check.feed(memoryview(FILE)[HEADER : HEADER + CHUNK_BYTES + 5])
    assert check.pending == 5


def test_a_file_that_is_too_long_is_refused() -> None:
    with pytest.raises(UpdateRefused, match=f"continues after its {DATA_BYTES} bytes"):
        check_data(FILE + b"\0")


def test_a_file_that_ends_early_is_refused() -> None:
    with pytest.raises(UpdateRefused, match=f"ends after {DATA_BYTES - 1} of {DATA_BYTES} bytes"):
        check_data(FILE[:-1])


def with_checksums(text: object) -> bytes:
    entry: dict[str, Any] = {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}
    header = {"a": entry} if text is None else {"__metadata__": {"xxh3_128": text}, "a": entry}
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + b"123"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "has no checksums of its data"),
        ("", "has 0 checksums; its 3 bytes of data have 1 chunks"),
        ("0" * 32 + "," + "0" * 32, "has 2 checksums; its 3 bytes of data have 1 chunks"),
        ("0" * 31, "is not a list of checksums"),
        ("0" * 32 + ",", "is not a list of checksums"),
        ("0" * 64, "is not a list of checksums"),
        ("G" * 32, "is not a list of checksums"),
        ("0" * 32 + "\n", "is not a list of checksums"),
        (7, "not a safetensors header"),
    ],
)
def test_a_header_with_wrong_checksums_is_refused_with_what_is_wrong(text: object, said: str) -> None:
    with pytest.raises(UpdateRefused, match=said):
        chunk_checksums(with_checksums(text))


nearly_checksums = st.text("0123456789abcdefABCDEF,", min_size=30, max_size=34) | st.text("0af,", max_size=70)


@given(st.text(max_size=80) | nearly_checksums | st.integers())
def test_checksums_that_are_not_those_of_the_chunks_are_refused(text: object) -> None:
    data = with_checksums(text)
    if isinstance(text, str) and re.fullmatch(r"[0-9a-f]{32}", text):  # the data has one chunk
        assert chunk_checksums(data) == (text,)
    else:
        with pytest.raises(UpdateRefused):
            chunk_checksums(data)


@given(st.binary(max_size=100))
def test_any_bytes_have_checksums_or_are_refused(data: bytes) -> None:
    with pytest.raises(UpdateRefused):
        chunk_checksums(data)
