"""Weights files: files written by safetensors are read exactly, and anything invalid is refused."""

import json
import math
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given

from fedgrass.federation import weights
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import (
    LARGEST_HEADER,
    Layout,
    check_finite,
    check_layout,
    decode,
    encode,
    read_layout,
)

DTYPES = ["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "<i1", "<u1", "?"]
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
any_arrays = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(np.dtype(dtype), shapes))
names = st.text(max_size=12).filter(lambda name: name != "__metadata__" and name.isprintable())
models = st.dictionaries(names, any_arrays, max_size=5)
F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def a_file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def same(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())


@given(models)
def test_arrays_come_back_as_safetensors_itself_gives_them(model: dict[str, Any]) -> None:
    data = encode(model)
    ours, theirs = decode(data), safetensors.numpy.load(data)
    assert set(ours) == set(theirs) == set(model)
    assert all(same(ours[name], theirs[name]) and same(ours[name], model[name]) for name in model)


@given(models)
def test_what_safetensors_writes_is_read(model: dict[str, Any]) -> None:
    ours = decode(safetensors.numpy.save(model, metadata={"format": "pt"}))
    assert all(same(ours[name], model[name]) for name in model)


@given(models)
def test_the_same_arrays_give_the_same_bytes_in_whatever_order(model: dict[str, Any]) -> None:
    assert encode(model) == encode(dict(reversed(model.items())))


def test_arrays_that_do_not_lie_in_c_order_are_written_by_their_values() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert decode(encode({"a": array}))["a"].tolist() == array.tolist()


def test_decoded_arrays_are_read_only_views() -> None:
    array = decode(encode({"a": np.zeros(3)}))["a"]
    assert not array.flags.writeable
    assert not array.flags.owndata


@given(models)
def test_a_layout_needs_only_the_header(model: dict[str, Any]) -> None:
    data = encode(model)
    whole = read_layout(data, len(data))
    assert read_layout(data[: whole.header_bytes], len(data)) == whole
    assert whole.file_bytes == len(data)


def layout_or_refused(data: bytes) -> None:
    try:
        layout = read_layout(data, len(data))
        arrays = weights.views(data, layout)
    except UpdateRefused as error:
        assert str(error)  # noqa: PT017 - any other exception fails the test by itself
        assert not is_valid(data)
    else:
        assert is_valid(data)
        header = json.loads(data[8 : layout.header_bytes])
        header.pop("__metadata__", None)
        assert {name: list(array.shape) for name, array in arrays.items()} == {
            name: entry["shape"] for name, entry in header.items()
        }


def is_valid(data: bytes) -> bool:
    """Return whether ``data`` is a weights file, by the rules of the format, independently of the parser."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(LARGEST_HEADER, len(data) - 8):
        return False
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        return False
    if not isinstance(header, dict) or not all_texts(header.pop("__metadata__", {})):
        return False
    ranges = []
    for entry in header.values():
        if not is_entry(entry):
            return False
        start, end = entry["data_offsets"]
        if end - start != math.prod(entry["shape"]) * weights.DTYPES[entry["dtype"]].itemsize:
            return False
        ranges.append((start, end))
    position = 0
    for start, end in sorted(ranges):
        if start != position:
            return False
        position = end
    return 8 + size + position == len(data)


def all_texts(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())


def is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        return False
    shape, offsets = entry["shape"], entry["data_offsets"]
    return (
        isinstance(entry["dtype"], str)
        and entry["dtype"] in weights.DTYPES
        and isinstance(shape, list)
        and all(type(side) is int and side >= 0 for side in shape)
        and math.prod(max(1, side) for side in shape) <= 2**48
        and isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(offset) is int and offset >= 0 for offset in offsets)
    )


@given(st.binary(max_size=200))
@example(b"")
@example((10 * 1024**3).to_bytes(8, "little") + b"{}")
@example(b"\xff" * 8)
def test_any_bytes_are_a_layout_or_refused(data: bytes) -> None:
    layout_or_refused(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
numbers = st.integers(-2, 9) | st.integers(-(2**70), 2**70)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "BF16", "BOOL", "I64", ""]),
        "shape": st.lists(numbers, max_size=4),
        "data_offsets": st.lists(numbers, min_size=2, max_size=2),
    }
)


@given(st.dictionaries(st.text(max_size=3), entries | json_values, max_size=4), st.binary(max_size=32))
def test_any_header_is_a_layout_or_refused(header: dict[str, Any], data: bytes) -> None:
    layout_or_refused(a_file(header, data))


@given(models.filter(bool), st.data())
def test_a_header_with_wrong_numbers_is_refused_unless_the_file_is_still_valid(
    model: dict[str, Any], draw: st.DataObject
) -> None:
    data = encode(model)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    entry = header[draw.draw(st.sampled_from(sorted(model)))]
    shape, offsets = entry["shape"], entry["data_offsets"]
    wrong = draw.draw(st.integers(-9, 9))
    match draw.draw(st.sampled_from(["side", "signs", "end", "place"])):
        case "side" if shape:
            shape[draw.draw(st.integers(0, len(shape) - 1))] += wrong
        case "signs":
            shape[:2] = [-side for side in shape[:2]]
        case "end":
            offsets[1] += wrong
        case "place":
            offsets[:] = [offset + wrong for offset in offsets]
    more = draw.draw(st.binary(max_size=3))
    layout_or_refused(a_file(header, data[8 + size :] + more))


@given(models, st.data())
def test_a_file_that_was_cut_or_grew_is_refused(model: dict[str, Any], draw: st.DataObject) -> None:
    data = encode(model)
    cut = draw.draw(st.integers(0, len(data) - 1))
    for wrong in (data[:cut], data + b"\0"):
        with pytest.raises(UpdateRefused):
            decode(wrong)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"123", "the file has 3 bytes; a safetensors file has at least 8"),
        (
            (10 * 1024**3).to_bytes(8, "little") + b"{}",
            "the header claims 10737418240 bytes; at most 8388608 are",
        ),
        ((100).to_bytes(8, "little") + b"{}", "the header claims 100 bytes, the file has only 10"),
        (a_file(b"no json"), "not a safetensors header"),
        (a_file([1]), "not a safetensors header"),
        (a_file(b'{"a":' + b"[" * 100_000), "not a safetensors header"),
        (a_file({"a": {"dtype": "F32"}}), "not a safetensors header"),
        (
            a_file({"a": {**F32, "dtype": "U16"}}, b"1234"),
            "array 'a' has the type 'U16'; fedgrass averages",
        ),
        (
            a_file({"a": {**F32, "shape": [2]}}, b"1234"),
            "array 'a' of shape (2,) does not fit the bytes 0 to 4",
        ),
        (a_file({"a": {**F32, "shape": [-1, -1]}}, b"1234"), "of shape (-1, -1) does not fit"),
        (a_file({"a": {**F32, "data_offsets": [4, 0]}}, b"1234"), "does not fit the bytes 4 to 0"),
        (a_file({"a": {**F32, "data_offsets": [-4, 0]}}, b"1234"), "does not fit the bytes -4 to 0"),
        (a_file({"a": F32, "b": F32}, b"1234"), "array 'b' starts at byte 0 of the data, not at 4"),
        (
            a_file({"a": {**F32, "data_offsets": [4, 8]}}, b"12345678"),
            "starts at byte 4 of the data, not at 0",
        ),
        (a_file({"a": {**F32, "shape": [1] * 65}}, b"1234"), "array 'a' claims 65 dimensions"),
        (a_file({"a": {"dtype": "F32", "shape": [0, 10**30], "data_offsets": [0, 0]}}), "more values than"),
        (a_file({"a": {**F32, "shape": [2**62] * 1_000_0}}, b"1234"), "claims 10000 dimensions"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(data: bytes, said: str) -> None:
    with pytest.raises(UpdateRefused) as refused:
        decode(data)
    assert said in str(refused.value)


def layout_of(**arrays: Any) -> Layout:
    data = encode(arrays)
    return read_layout(data, len(data))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (layout_of(a=np.zeros(3)), "array 'b' is missing"),
        (layout_of(a=np.zeros(3), b=np.zeros(2), c=np.zeros(1)), "array 'c' is not in the model"),
        (layout_of(a=np.zeros((3, 1)), b=np.zeros(2)), "array 'a' has the shape (3, 1), the model has (3,)"),
        (layout_of(a=np.zeros(3, "f4"), b=np.zeros(2)), "array 'a' has the type F32, the model has F64"),
        (layout_of(), "array 'a' is missing (and 1 more differences)"),
        (layout_of(A=np.zeros(3), b=np.zeros(2)), "array 'A' is not in the model (and 1 more differences)"),
    ],
)
def test_an_update_that_is_not_shaped_as_the_model_is_refused_by_the_array(found: Layout, said: str) -> None:
    with pytest.raises(UpdateRefused) as refused:
        check_layout(found, layout_of(a=np.zeros(3), b=np.zeros(2)))
    assert str(refused.value) == said


@given(models)
def test_an_update_shaped_as_the_model_is_taken(model: dict[str, Any]) -> None:
    check_layout(
        layout_of(**{f"x{name}": array for name, array in model.items()}),
        layout_of(**{f"x{name}": np.zeros_like(array) for name, array in reversed(model.items())}),
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_values_that_are_not_finite_are_refused_with_where_the_first_is(value: float, dtype: str) -> None:
    array = np.ones((2, 3), dtype=dtype)
    array[1, 0] = array[1, 2] = value
    with pytest.raises(UpdateRefused, match=r"'w' has 2 values that are not finite, the first at \(1, 0\)"):
        check_finite({"fine": np.zeros(2), "w": array})


def test_a_single_number_that_is_not_finite_is_refused() -> None:
    with pytest.raises(UpdateRefused, match=r"'w' has 1 values that are not finite, the first at \(\)"):
        check_finite({"w": np.array(np.nan)})


def test_integers_booleans_and_empty_arrays_are_finite() -> None:
    check_finite({"i": np.array([1]), "b": np.array([True]), "e": np.zeros((0, 3)), "n": np.array(7)})


def test_checksums_are_those_that_others_compute() -> None:
    assert weights.checksum(b"") == "99aa06d3014798d86001c324468d497f"  # of xxHash's own specification
    assert weights.sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(2, np.complex64), "array 'w' has the type complex64; fedgrass averages F64"),
        (np.zeros(2, np.uint16), "array 'w' has the type uint16"),  # not necessarily bits of BF16
    ],
)
def test_an_array_of_a_type_that_no_file_holds_is_refused_by_name(array: Any, said: str) -> None:
    with pytest.raises(UpdateRefused, match=said):
        encode({"w": array})


def test_an_array_with_the_name_of_the_metadata_is_refused() -> None:
    with pytest.raises(UpdateRefused, match="cannot be called '__metadata__'"):
        encode({"__metadata__": np.zeros(1)})


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF])
def test_values_of_bfloat16_that_are_not_finite_are_found_in_their_bits(bits: int) -> None:
    check_finite({"w": np.array([0x7F7F, 0x8000, 0x3F80], "<u2")})
    with pytest.raises(UpdateRefused, match=r"'w' has 1 values that are not finite, the first at \(1,\)"):
        check_finite({"w": np.array([0, bits], "<u2")})
