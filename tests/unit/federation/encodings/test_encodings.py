"""Encodings: decoded values are as accurate as each kind promises, for parts and for whole arrays."""

import io
from itertools import pairwise
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from hypothesis import given
from numpy.typing import NDArray

from fedgrass.federation.encodings import (
    BLOCK,
    Encoding,
    Feedback,
    byte_range,
    check_encoding,
    check_file,
    decode,
    decode_into,
    decode_model,
    encode,
    encode_model,
    file_layout,
    model_layout,
)
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.weights import Layout, check_data, read_layout, write
from fedgrass.federation.weights import encode as plain

Arrays = dict[str, NDArray[Any]]
FLOAT16 = Encoding(kind="float16")
BFLOAT16 = Encoding(kind="bfloat16")
INT8 = Encoding(kind="int8")
TOP_K = Encoding(kind="top_k", difference=True, fraction=0.01)
KINDS = [Encoding(), FLOAT16, BFLOAT16, INT8, TOP_K]
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}

encodings = st.sampled_from(
    [*KINDS, Encoding(kind="int8", difference=True), Encoding(kind="top_k", difference=True, fraction=0.3)]
)
seeds = st.integers(0, 2**32)
moderate = st.floats(-60_000, 60_000, width=32)
rows = hnp.arrays(np.float32, st.integers(1, 50), elements=moderate)


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def layout_of(arrays: Arrays) -> Layout:
    data = plain(arrays)
    return read_layout(data, len(data))


def file_of(
    arrays: Arrays, encoding: Encoding, feedback: Feedback | None = None, seed: int = 7, **options: Any
) -> bytes:
    target = io.BytesIO()
    write(encode(arrays, layout_of(arrays), encoding, rng(seed), feedback, **options), target)
    return target.getvalue()


def through(arrays: Arrays, encoding: Encoding, seed: int = 7) -> dict[str, NDArray[Any]]:
    return decode(file_of(arrays, encoding, seed=seed), layout_of(arrays), encoding)


def back(values: NDArray[np.float32], encoding: Encoding, seed: int = 7) -> NDArray[np.float32]:
    return np.asarray(through({"w": values}, encoding, seed)["w"], np.float32)


def normal(count: int, seed: int = 1) -> NDArray[np.float32]:
    return rng(seed).standard_normal(count, dtype=np.float32)


def a_model() -> Arrays:
    return {
        "conv.weight": normal(3 * BLOCK + 17).reshape(-1, 5),
        "bias": normal(7),
        "scalar": np.array(0.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "zeros": np.zeros(5, np.float32),
        "batches": np.array(12, np.int64),
        "mean": np.array([0.1, 1e300]),
        "half": np.array([1, 2, 3], np.float16),
        "mask": np.array([True, False]),
    }


@given(
    hnp.arrays(
        np.float32, st.integers(0, 50), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    )
)
def test_float32_comes_back_to_the_bit(values: NDArray[np.float32]) -> None:
    assert back(values, Encoding()).tobytes() == values.tobytes()


@given(rows)
def test_float16_is_off_by_at_most_half_of_its_last_digit(values: NDArray[np.float32]) -> None:
    bound = np.maximum(np.abs(values.astype(np.float64)) / 2**11, 2.0**-25)
    assert (np.abs(back(values, FLOAT16).astype(np.float64) - values) <= bound).all()


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
def test_bfloat16_is_off_by_at_most_half_of_its_last_digit(values: NDArray[np.float32]) -> None:
    bound = np.maximum(np.abs(values.astype(np.float64)) / 2**8, 2.0**-134)
    assert (np.abs(back(values, BFLOAT16).astype(np.float64) - values) <= bound).all()


def test_bfloat16_rounds_as_torch_does() -> None:
    values = np.concatenate(
        [normal(5000), np.array([1 + 2**-8, 1 + 3 * 2**-8, 0.0, -0.0, 1e-40], np.float32)]
    )
    loaded = safetensors.torch.load(file_of({"w": values}, BFLOAT16))["w"]
    theirs = safetensors.torch.load(plain({"w": values}))["w"].bfloat16()
    assert loaded.equal(theirs)


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**127), 2.0**127, width=32)), seeds)
def test_int8_is_off_by_at_most_its_scale(values: NDArray[np.float32], seed: int) -> None:
    largest = float(np.abs(values).max())
    bound = max(largest / 127 * (1 + 1e-5), 2.0**-149)
    assert (np.abs(back(values, INT8, seed).astype(np.float64) - values) <= bound).all()


def test_int8_of_zeros_is_zeros() -> None:
    assert back(np.zeros(9, np.float32), INT8).tolist() == [0] * 9


def test_the_largest_magnitude_comes_back_as_it_was_in_int8() -> None:
    found = back(np.array([-127, 127, 1, 0], np.float32), INT8)
    assert found.tolist() == [-127, 127, 1, 0]


def test_stochastic_rounding_is_right_on_average() -> None:
    # The mean of n roundings of one value has a standard error of at most scale / (2 sqrt(n)) = 0.0025 here.
    values = np.array([0.1, 0.5, 0.9, -0.3, -12.25, 127], np.float32)
    many = np.tile(values, (40_000, 1))
    mean = back(many, INT8, seed=5).astype(np.float64).mean(axis=0)
    assert np.abs(mean - values).max() < 6 * 0.0025
    assert set(back(many, INT8, seed=5)[:, 1]) == {0.0, 1.0}


def test_the_same_seed_rounds_in_the_same_way_and_another_does_not() -> None:
    model = {"w": normal(1000)}
    assert file_of(model, INT8, seed=1) == file_of(model, INT8, seed=1) != file_of(model, INT8, seed=2)


@given(st.integers(1, 3 * BLOCK), st.sampled_from([0.001, 0.01, 0.07, 0.5]), seeds)
def test_top_k_sends_the_largest_of_each_block_exactly_and_nothing_else(
    count: int, fraction: float, seed: int
) -> None:
    values = normal(count, seed)
    found = back(values, Encoding(kind="top_k", difference=True, fraction=fraction))
    for first in range(0, count, BLOCK):
        block, sent = values[first : first + BLOCK], found[first : first + BLOCK]
        entries = max(1, int(np.ceil(round(fraction * len(block), 9))))
        chosen = np.flatnonzero(sent)
        assert len(chosen) == entries
        assert (sent[chosen] == block[chosen]).all()
        rest = np.delete(np.abs(block), chosen)
        assert not rest.size or rest.max() <= np.abs(block[chosen]).min()


@pytest.mark.parametrize("encoding", KINDS, ids=lambda encoding: encoding.kind)
def test_all_that_is_not_float32_goes_as_it_is(encoding: Encoding) -> None:
    model = a_model()
    found = through(model, encoding)
    assert set(found) == set(model)
    for name, array in model.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        if array.dtype != np.float32:
            assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("encoding", KINDS, ids=lambda encoding: encoding.kind)
def test_a_file_lies_as_its_layout_says_and_safetensors_reads_it(encoding: Encoding) -> None:
    model = a_model()
    data = file_of(model, encoding)
    found, expected = read_layout(data, len(data)), file_layout(layout_of(model), encoding)
    assert list(found.arrays.items()) == list(expected.arrays.items())
    assert (found.data_bytes, expected.header_bytes) == (expected.data_bytes, 0)
    check_file(found, layout_of(model), encoding)
    check_data(data)
    assert set(safetensors.torch.load(data)) == set(expected.arrays)
    if encoding.kind != "bfloat16":  # numpy has no type for it
        assert set(safetensors.numpy.load(data)) == set(expected.arrays)


def test_scales_come_first_and_then_the_arrays_in_the_order_of_the_models_file() -> None:
    layout = layout_of(
        {"b": np.zeros(2, np.float32), "a": np.zeros(3, np.float32), "n": np.zeros(1, np.int64)}
    )
    assert list(file_layout(layout, INT8).arrays) == ["a:scale", "b:scale", "n", "a", "b"]


@given(encodings, st.integers(0, 3 * BLOCK + 5), st.data())
def test_a_part_decodes_to_the_same_as_the_whole(encoding: Encoding, count: int, draw: st.DataObject) -> None:
    model = {"w": normal(count), "other": normal(3)}
    layout = layout_of(model)
    data = file_of(model, encoding)
    whole = decode(data, layout, encoding)["w"]
    found = read_layout(data, len(data))
    start = draw.draw(st.integers(0, count // BLOCK)) * BLOCK
    stop = min(count, start + draw.draw(st.integers(0, 3)) * BLOCK)
    first, last = byte_range(layout.arrays["w"], encoding, start, stop)
    begin = found.header_bytes + found.arrays["w"].start
    out = np.full(stop - start, np.nan, np.float32)
    scale = float(safetensors.numpy.load(data)["w:scale"][0]) if encoding.kind == "int8" else 1.0
    decode_into(out, memoryview(data)[begin + first : begin + last], encoding, scale)
    assert out.tobytes() == whole[start:stop].tobytes()


@pytest.mark.parametrize("encoding", KINDS, ids=lambda encoding: encoding.kind)
def test_the_ranges_of_an_array_lie_side_by_side_and_fill_it(encoding: Encoding) -> None:
    layout = layout_of({"w": normal(3 * BLOCK + 17)})
    array, encoded = layout.arrays["w"], file_layout(layout, encoding).arrays["w"]
    cuts = [0, BLOCK, 3 * BLOCK, 3 * BLOCK + 17]
    ranges = [byte_range(array, encoding, *cut) for cut in pairwise(cuts)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == encoded.end - encoded.start
    assert all(one[1] == other[0] for one, other in pairwise(ranges))


@pytest.mark.parametrize(("start", "stop"), [(1, 2), (0, 5), (BLOCK, 0), (0, 2 * BLOCK + 2), (-BLOCK, 0)])
def test_a_range_that_is_not_cut_at_blocks_is_a_mistake_of_the_program(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="not cut at multiples"):
        byte_range(layout_of({"w": normal(2 * BLOCK + 1)}).arrays["w"], TOP_K, start, stop)


@given(encodings, st.integers(1, BLOCK + 9), seeds)
def test_what_is_sent_and_what_is_kept_make_what_was_wanted(
    encoding: Encoding, count: int, seed: int
) -> None:
    values, former = normal(count, seed), normal(count, seed + 1)
    feedback = {"w": former.copy()}
    data = file_of({"w": values}, encoding, feedback)
    sent = np.asarray(decode(data, layout_of({"w": values}), encoding)["w"], np.float32)
    wanted = values + former
    assert np.allclose(sent + feedback["w"], wanted, rtol=1e-6, atol=1e-6)


def test_with_feedback_every_change_arrives_in_time() -> None:
    values, feedback, total = normal(1000), Feedback(), np.zeros(1000)
    turns = 400
    for _ in range(turns):
        data = file_of({"w": values}, TOP_K, feedback)
        total += np.asarray(decode(data, layout_of({"w": values}), TOP_K)["w"], np.float64)
    # What is kept is bounded, so the mean of what was sent converges to the intended change.
    assert np.abs(total / turns - values).max() < 0.1 * np.abs(values).max()
    without = back(values, TOP_K)
    assert (without == 0).sum() == 990


def test_feedback_begins_at_zero_and_is_replaced_in_place() -> None:
    feedback = Feedback()
    values = np.array([3, -1, 0.5], np.float32)
    file_of({"w": values, "n": np.array(1)}, TOP_K, feedback)
    assert {name: array.tolist() for name, array in feedback.items()} == {"w": [0, -1, 0.5]}
    same = feedback["w"]
    file_of({"w": values, "n": np.array(1)}, TOP_K, feedback)
    assert feedback["w"] is same
    assert same.tolist() == [0, -2, 1.0]


@pytest.mark.parametrize("kept", [np.zeros(2, np.float32), np.zeros(3), np.zeros(6, np.float32)[::2]])
def test_feedback_of_another_model_is_refused(kept: Any) -> None:
    with pytest.raises(UpdateRefused, match="the feedback of array 'w' is"):
        file_of({"w": np.zeros(3, np.float32)}, TOP_K, {"w": kept})


@given(encodings)
def test_the_difference_to_the_start_is_what_is_sent_of_float32_alone(encoding: Encoding) -> None:
    start = {"w": normal(100, 1), "n": np.array(5)}
    trained = {"w": normal(100, 2), "n": np.array(9)}
    data = file_of(trained, encoding, start=start)
    assert data == file_of({"w": trained["w"] - start["w"], "n": np.array(9)}, encoding)
    assert decode(data, layout_of(start), encoding)["n"] == 9


def test_arrays_longer_than_a_piece_are_encoded_whole() -> None:
    values = normal(64 * BLOCK * 2 + 5)
    assert np.abs(back(values, INT8) - values).max() <= np.abs(values).max() / 127 * (1 + 1e-5)
    assert (back(values, TOP_K) != 0).sum() == 128 * 41 + 1


@pytest.mark.parametrize("encoding", KINDS, ids=lambda encoding: encoding.kind)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_never_written(encoding: Encoding, value: float) -> None:
    with pytest.raises(UpdateRefused, match="array 'w' has values that are not finite"):
        file_of({"w": np.array([1, value], np.float32)}, encoding)


@pytest.mark.parametrize(("encoding", "value"), [(FLOAT16, 65520.0), (FLOAT16, -1e5), (BFLOAT16, 3.4e38)])
def test_values_that_an_encoding_cannot_hold_are_refused(encoding: Encoding, value: float) -> None:
    with pytest.raises(UpdateRefused, match=f"{encoding.kind} holds at most .*: choose another encoding"):
        file_of({"w": np.array([1, value], np.float32)}, encoding)


def test_the_largest_that_float16_and_bfloat16_hold_are_written() -> None:
    assert back(np.array([65519.99], np.float32), FLOAT16)[0] == 65504
    assert np.isfinite(back(np.array([3.3895e38], np.float32), BFLOAT16)[0])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"w": np.zeros(4, np.float32)}, "array 'w' has the shape \\(4,\\), the model has \\(3,\\)"),
        ({"w": np.zeros(3)}, "array 'w' has the type F64, the model has F32"),
        ({}, "array 'w' is missing"),
        ({"w": np.zeros(3, np.float32), "v": np.zeros(1)}, "array 'v' is not in the model"),
    ],
)
def test_arrays_of_another_model_are_refused(arrays: Arrays, said: str) -> None:
    for encoding in KINDS:
        with pytest.raises(UpdateRefused, match=said):
            encode(arrays, layout_of({"w": np.zeros(3, np.float32)}), encoding, rng())


def test_arrays_that_lie_otherwise_in_memory_are_sent_by_their_values() -> None:
    values = normal(12).reshape(3, 4).T
    assert back(values, Encoding()).tolist() == values.tolist()
    assert back(values.astype(">f4"), Encoding()).tolist() == values.tolist()


def test_bfloat16_of_the_model_itself_goes_as_it_is() -> None:
    target = io.BytesIO()
    bits = np.array([0x3F80, 0xC000], "<u2")
    data = file_of({"w": np.array([1, -2], np.float32)}, BFLOAT16)
    model = read_layout(data, len(data))
    write(encode({"w": bits}, model, INT8, rng()), target)
    assert decode(target.getvalue(), model, INT8)["w"].tolist() == bits.tolist()


def top_k_bytes(indices: list[int], values: list[float]) -> memoryview:
    return memoryview(np.array(indices, "<u2").tobytes() + np.array(values, "<f4").tobytes())


top_k_rows = st.lists(st.tuples(st.integers(0, 22), st.floats(width=32)), max_size=5).map(
    lambda entries: bytes(top_k_bytes([index for index, _ in entries], [value for _, value in entries]))
)


@given(st.binary(max_size=60) | top_k_rows, st.integers(0, 20))
def test_any_bytes_of_top_k_are_decoded_within_their_row_or_refused(raw: bytes, count: int) -> None:
    around = np.full(count + 2, 7, np.float32)
    try:
        decode_into(around[1:-1], memoryview(raw), TOP_K, 1.0)
    except UpdateRefused as error:
        assert str(error)  # noqa: PT017 - any other exception fails the test by itself
    else:
        indices = np.frombuffer(
            raw[: len(raw) // 3], "<u2"
        )  # one block, of two-byte indices, four-byte values
        assert len(raw) % 6 == 0
        assert (len(raw) > 0) == (count > 0)
        assert (indices < count).all()
    assert around[0] == around[-1] == 7


def test_an_index_beyond_its_block_is_refused_by_number() -> None:
    out = np.zeros(BLOCK + 10, np.float32)
    raw = bytes(top_k_bytes([BLOCK - 1], [1.0])) + bytes(top_k_bytes([10], [1.0]))
    with pytest.raises(UpdateRefused, match="block 1 of an array in top_k has the index 10; its 10 values"):
        decode_into(out, memoryview(raw), TOP_K, 1.0)
    assert not out.any()
    raw = bytes(top_k_bytes([BLOCK], [1.0])) + bytes(top_k_bytes([9], [1.0]))
    with pytest.raises(UpdateRefused, match="block 0 of an array in top_k has the index 4096"):
        decode_into(out, memoryview(raw), TOP_K, 1.0)


def test_an_index_that_comes_twice_is_added_and_padding_changes_nothing() -> None:
    out = np.full(3, 9, np.float32)
    decode_into(out, top_k_bytes([0, 2, 2, 0], [1, 2, 3, 0]), TOP_K, 1.0)
    assert out.tolist() == [1, 0, 5]


def test_a_value_that_is_no_number_comes_through_for_the_sum_to_show() -> None:
    out = np.zeros(3, np.float32)
    decode_into(out, top_k_bytes([1], [np.nan]), TOP_K, 1.0)
    assert np.isnan(out).tolist() == [False, True, False]


@given(st.sampled_from(KINDS[:4]), st.binary(max_size=40), st.integers(0, 12))
def test_bytes_of_the_wrong_length_are_refused(encoding: Encoding, raw: bytes, count: int) -> None:
    out = np.zeros(count, np.float32)
    if len(raw) == count * WIDTHS[encoding.kind]:
        decode_into(out, memoryview(raw), encoding, 0.5)
    else:
        with pytest.raises(UpdateRefused, match=f"are not {count} values in {encoding.kind}"):
            decode_into(out, memoryview(raw), encoding, 0.5)


@given(st.binary(max_size=300), encodings)
def test_any_bytes_are_a_file_or_refused(data: bytes, encoding: Encoding) -> None:
    with pytest.raises(UpdateRefused):
        decode(data, layout_of({"w": np.zeros(3, np.float32)}), encoding)


def test_a_file_whose_arrays_lie_in_another_order_is_refused() -> None:
    model = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}
    target = io.BytesIO()
    write(dict(reversed(encode(model, layout_of(model), FLOAT16, rng()).items())), target)
    with pytest.raises(UpdateRefused, match="array 'a' is at byte 4 of the data instead of 0"):
        decode(target.getvalue(), layout_of(model), FLOAT16)


@pytest.mark.parametrize("encoding", KINDS[:4], ids=lambda encoding: encoding.kind)
def test_a_downloaded_model_tells_by_itself_which_model_it_is_of(encoding: Encoding) -> None:
    arrays = a_model()
    if encoding.kind == "float16":
        del arrays["half"]
    model = plain(arrays)
    data = encode_model(model, encoding)
    found, layout = decode_model(data, encoding)
    expected = layout_of(arrays)
    assert layout.arrays == expected.arrays
    assert encode_model(model, encoding) == data
    decoded = decode(data, expected, encoding)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in decoded.items()
    }


def test_an_int8_model_whose_names_look_like_scales_is_told_apart() -> None:
    arrays: Arrays = {"a:scale": np.ones(3, np.float32), "b:scale": np.ones(2, np.int64)}
    layout = layout_of(arrays)
    assert model_layout(file_layout(layout, INT8), INT8).arrays == layout.arrays


def test_an_array_with_the_name_of_anothers_scale_is_refused_in_int8() -> None:
    with pytest.raises(SettingsError, match="arrays 'a' and 'a:scale'"):
        encode_model(plain({"a": np.ones(3), "a:scale": np.ones(1, np.float32)}), INT8)


def test_a_download_in_the_type_that_an_array_has_itself_is_refused() -> None:
    with pytest.raises(SettingsError, match="the model's array 'half' is F16 itself"):
        encode_model(plain(a_model()), FLOAT16)


@pytest.mark.parametrize("encoding", [TOP_K, Encoding(difference=True)])
def test_a_model_is_not_downloaded_as_a_difference(encoding: Encoding) -> None:
    with pytest.raises(SettingsError, match="cannot be downloaded as a difference"):
        encode_model(plain({"w": np.ones(3, np.float32)}), encoding)


@given(st.binary(max_size=300), st.sampled_from(KINDS[:4]))
def test_any_download_is_a_model_or_refused(data: bytes, encoding: Encoding) -> None:
    with pytest.raises(UpdateRefused):
        decode_model(data, encoding)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        (Encoding(kind="top_k"), "'top_k' sends the largest changes and needs difference: true"),
        (Encoding(kind="top_k", difference=True, fraction=0.6), "fraction is 0.6; it takes a number above 0"),
        (Encoding(kind="top_k", difference=True, fraction=0.0), "fraction is 0.0"),
        (Encoding(kind="top_k", difference=True, fraction=float("nan")), "fraction is nan"),
    ],
)
def test_an_encoding_that_cannot_be_meant_is_refused(encoding: Encoding, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        check_encoding(encoding)
