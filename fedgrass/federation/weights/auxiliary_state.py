"""Auxiliary state: arrays in updates in addition to the model's, such as the change of a control variate.

For each floating-point array of the model there is one more array, in float32, named ``<what>:<array>``.
They follow the model's arrays in the file, in the same order, and are encoded like other float32 arrays.
"""

import math
from collections.abc import Sequence

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import DTYPES, Array, Layout, in_file_order
from fedgrass.federation.weights.weights_layout import FLOATS

_BYTES = DTYPES["F32"].itemsize


def auxiliary_name(what: str, array: str) -> str:
    """Return the name of the array with the auxiliary state ``what`` of a model's array."""
    return f"{what}:{array}"


def model_array_of(name: str, model: Layout) -> str:
    """Return the model's array that ``name`` or the auxiliary array ``name`` belongs to."""
    return name if name in model.arrays else name.partition(":")[2]


def auxiliary_layout(model: Layout, carried: Sequence[str], start: int = 0) -> Layout:
    """Return the layout of the auxiliary arrays of a model's updates, the first at byte ``start``."""
    arrays, position = {}, start
    for what in carried:
        for name, array in in_file_order(model).items():
            if array.dtype in FLOATS:
                end = position + math.prod(array.shape) * _BYTES
                arrays[auxiliary_name(what, name)] = Array("F32", array.shape, position, end)
                position = end
    return Layout(arrays, 0, position - start)


def update_layout(model: Layout, carried: Sequence[str]) -> Layout:
    """Return the layout of an update: the model's arrays and the auxiliary ones; without a header.

    Raises:
        SettingsError: The model has an array with the name of an auxiliary one.
    """
    more = auxiliary_layout(model, carried, model.data_bytes)
    for name in more.arrays.keys() & model.arrays.keys():
        message = f"the model has an array {name!r}, the name of an auxiliary array of its updates: rename it"
        raise SettingsError(message)
    return Layout({**model.arrays, **more.arrays}, 0, model.data_bytes + more.data_bytes)
