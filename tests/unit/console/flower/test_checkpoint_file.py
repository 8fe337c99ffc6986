"""The state of a strategy in a file: what is kept comes back as it was, whatever it is made of."""

import io
import random
from collections import OrderedDict
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.console.flower.checkpoint_file import (
    Checkpoint,
    Packer,
    Unpacker,
    checkpoint_file,
    random_state,
    read_checkpoint,
    set_random_state,
)
from fedgrass.console.task_messages.content_files import MessagePart
from fedgrass.federation.errors import SettingsError, UpdateRefused


class NoFlower:
    """A codec for values without records."""

    def to_part(self, value: object) -> MessagePart | None:  # noqa: ARG002 - there are none
        return None

    def from_part(self, *_: Any) -> object:
        raise NotImplementedError

    def is_strategy(self, value: object) -> bool:
        return isinstance(value, Owner)


class Owner:
    """An object with attributes, as a strategy."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def again(value: Any) -> Any:
    """Return a value after its way through a file."""
    packer = Packer(NoFlower())
    packed = packer.pack(value)
    checkpoint = Checkpoint(starts=(), random_state=[packed])
    file = b"".join(checkpoint_file(checkpoint, packer.data).pieces)
    read, data = read_checkpoint(io.BytesIO(file).read, len(file))
    return Unpacker(NoFlower(), data).unpack(read.random_state[0])


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=9)
)
KEYS = st.text() | st.integers() | st.booleans()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3) | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_a_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    found = again(value)
    assert found == value
    assert repr(found) == repr(value)  # 1 and True are equal


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.array(2.5),
        np.zeros((0, 3), np.int8),
        np.array([True, False]),
        np.arange(12).reshape(3, 4)[:, ::2],
        np.float64(0.25),
        np.int64(2**62),
    ],
)
def test_an_array_comes_back_with_its_type_and_shape_and_can_be_written(array: Any) -> None:
    found = again({"array": array})["array"]
    assert np.array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    if isinstance(found, np.ndarray):
        found[...] = 0


def test_an_ordered_dict_a_set_and_a_bytearray_keep_their_types() -> None:
    for value in (OrderedDict(b=1, a=2), {1, 2}, frozenset({"x"}), bytearray(b"12")):
        found = again(value)
        assert found == value
        assert type(found) is type(value)


def test_the_attributes_of_a_strategy_and_of_the_one_inside_are_restored() -> None:
    packer = Packer(NoFlower())
    function: Any = len
    packed = packer.attributes(Owner(a=1, inner=Owner(b=np.ones(2)), function=function, lost=object()))
    assert packer.left_out == ["lost (object)"]
    target = Owner(a=0, inner=Owner(b=None, c=5), function=function, lost="new")
    Unpacker(NoFlower(), [bytes(data) for data in packer.data]).restore(target, packed)
    kept = vars(target)
    assert (kept["a"], kept["lost"], vars(kept["inner"])["c"]) == (1, "new", 5)
    assert np.array_equal(vars(kept["inner"])["b"], np.ones(2))


def test_an_object_with_a_state_of_its_own_is_kept_by_it() -> None:
    class Accountant:
        def __init__(self) -> None:
            self.spent = [1, 2]
            self.lock = object()

        def state_dict(self) -> dict[str, Any]:
            return {"spent": self.spent}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.spent = state["spent"]

    packer = Packer(NoFlower())
    packed = packer.attributes(Owner(accountant=Accountant()))
    target = Accountant()
    target.spent = []
    Unpacker(NoFlower(), []).restore(Owner(accountant=target), packed)
    assert target.spent == [1, 2]
    assert packer.left_out == []


def test_an_attribute_that_the_app_has_no_longer_is_named() -> None:
    packed = Packer(NoFlower()).attributes(Owner(inner=Owner(b=1)))
    with pytest.raises(SettingsError, match="Owner has no inner any more"):
        Unpacker(NoFlower(), []).restore(Owner(), packed)


def test_random_numbers_continue_where_they_were() -> None:
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(random_state()))
    expected = [random.random(), *np.random.normal(size=3)]  # noqa: NPY002, S311 - of Flower, no secrets
    set_random_state(state)
    assert [random.random(), *np.random.normal(size=3)] == expected  # noqa: NPY002, S311


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_damaged_file_is_refused(place: int, change: int) -> None:
    packer = Packer(NoFlower())
    value = packer.pack([np.arange(20), "text"])
    file = bytearray(
        b"".join(checkpoint_file(Checkpoint(starts=(), random_state=[value]), packer.data).pieces)
    )
    file[place % len(file)] ^= change
    whole = bytes(file)

    def read(count: int) -> bytes:
        if count > len(whole):
            message = "too short"
            raise UpdateRefused(message)
        return source.read(count)

    source = io.BytesIO(whole)
    try:
        found, data = read_checkpoint(read, len(whole))
    except UpdateRefused:
        return
    # A change of the padding of the header changes nothing.
    assert found.random_state == [value]
    assert [bytes(each) for each in data] == [bytes(each) for each in packer.data]
