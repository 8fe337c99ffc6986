"""Arrays are serialised as Flower does it, and read without copies and without pickle."""

from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from components.trainer.flower.serialised_arrays import array_in, serialised
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import DTYPES

TYPES = sorted({str(dtype) for name, dtype in DTYPES.items() if name != "BF16"})
ARRAYS = st.sampled_from(TYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_dims=4))
)


def saved(array: Any) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


@given(ARRAYS)
def test_the_bytes_are_those_of_numpy_and_give_the_array_back(array: Any) -> None:
    assert serialised(array) == saved(array)
    found = array_in(saved(array), "w")
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_an_array_in_another_order_has_the_same_values() -> None:
    turned = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert np.array_equal(array_in(serialised(turned), "w"), turned)
    assert np.array_equal(array_in(saved(turned), "w"), turned)
    assert np.array_equal(array_in(serialised(turned[:, ::2]), "w"), turned[:, ::2])
    assert array_in(saved(np.arange(3, dtype=">i4")), "w").tolist() == [0, 1, 2]


def test_an_array_is_read_in_place() -> None:
    data = saved(np.zeros(1000))
    assert np.shares_memory(array_in(data, "w"), np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array",
        saved(np.zeros(4))[:-1],
        saved(np.zeros(4))[:20],
        saved(np.zeros(4)).replace(b"'shape': (4,)", b"'shape': (9,)"),
        saved(np.zeros(4)).replace(b"'<f8'", b"'|O8'"),
        saved(np.zeros(4)).replace(b"'<f8'", b"print"),
        b"\x93NUMPY\x02\x00" + saved(np.zeros(4))[8:],
        b"\x80\x04N.",
    ],
)
def test_other_bytes_are_refused_by_the_name_of_the_array(data: bytes) -> None:
    with pytest.raises(UpdateRefused, match="array 'w' is not a serialised numpy array"):
        array_in(data, "w")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")  # of the header's text
@given(st.binary(max_size=64), st.integers(0, 140))
def test_damaged_bytes_are_refused_or_read_and_raise_nothing_else(noise: bytes, place: int) -> None:
    data = saved(np.zeros(3))
    damaged = data[:place] + noise + data[place + len(noise) :]
    with suppress(UpdateRefused):
        array_in(damaged, "w")
