"""Auxiliary state: what updates carry besides the model's arrays, such as the change of a control variate.

For each floating-point array of the model there is one more array, in float32, named ``<what>:<array>``.
They follow the model's arrays in the file, in the same order, and are encoded as other float32 arrays
are.
"""

import math
from collections.abc import Sequence

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import DTYPES, Array, Layout, in_file_order

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_BYTES = DTYPES["F32"].itemsize


def carried_name(what: str, array: str) -> str:
    """Return the name of the array that carries ``what`` of a model's array."""
    return f"{what}:{array}"


def array_of(name: str, model: Layout) -> str:
    """Return the array of a model that a name is of: its own, or of what is carried of it."""
    return name if name in model.arrays else name.partition(":")[2]


def carried_layout(model: Layout, carried: Sequence[str], start: int = 0) -> Layout:
    """Return the arrays that updates of a model carry beside it, the first at byte ``start``."""
    arrays, position = {}, start
    for what in carried:
        for name, array in in_file_order(model).items():
            if array.dtype in _FLOATS:
                end = position + math.prod(array.shape) * _BYTES
                arrays[carried_name(what, name)] = Array("F32", array.shape, position, end)
                position = end
    return Layout(arrays, 0, position - start)


def layout_with(model: Layout, carried: Sequence[str]) -> Layout:
    """Return the layout of a model's arrays with what its updates carry; without a header.

    Raises:
        SettingsError: the model has an array of such a name itself.
    """
    more = carried_layout(model, carried, model.data_bytes)
    for name in more.arrays.keys() & model.arrays.keys():
        message = f"the model has an array {name!r}, which updates would carry beside it: rename it"
        raise SettingsError(message)
    return Layout({**model.arrays, **more.arrays}, 0, model.data_bytes + more.data_bytes)
