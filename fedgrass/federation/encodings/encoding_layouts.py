"""The layout of an encoded file, computed from the model's layout and back."""

import math

from fedgrass.federation.encodings.top_k import row_bytes
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.messages.message_types import Encoding, check_model_encoding
from fedgrass.federation.weights.slices import BLOCK, block_count, values_in
from fedgrass.federation.weights.weights_layout import DTYPES, Array, Layout, check_layout, in_file_order

ENCODED = "F32"  # the only array type that is encoded
SCALE = ":scale"  # suffix of the name of an array's scale
_SCALE_BYTES = 4
_FILE_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "top_k": "U8"}


def file_layout(model: Layout, encoding: Encoding) -> Layout:
    """Return the layout of a file that holds a model's weights in an encoding, with its arrays in file order.

    First the scales of the float32 arrays (``<name>:scale``, F32 of shape (1,); int8 only), then the model's
    arrays in the order of the model's file: float32 arrays encoded, all others unchanged. ``header_bytes`` is
    0: the length of the header is only known from the file.

    Raises:
        SettingsError: The model has an array with the name of a scale.
    """
    ordered = in_file_order(model)
    found: list[tuple[str, str, tuple[int, ...]]] = []
    if encoding.kind == "int8":
        _check_scale_names(model)
        found += [(name + SCALE, "F32", (1,)) for name, array in ordered.items() if array.dtype == ENCODED]
    found += [(name, *_in_file(array, encoding)) for name, array in ordered.items()]
    return _laid_out(found)


def _in_file(array: Array, encoding: Encoding) -> tuple[str, tuple[int, ...]]:
    if array.dtype != ENCODED:
        return array.dtype, array.shape
    if encoding.kind == "top_k":
        values = values_in(array)
        return "U8", (block_count(values), row_bytes(values, encoding.fraction))
    return _FILE_TYPES[encoding.kind], array.shape


def _laid_out(arrays: list[tuple[str, str, tuple[int, ...]]]) -> Layout:
    found, position = {}, 0
    for name, dtype, shape in arrays:
        end = position + math.prod(shape) * DTYPES[dtype].itemsize
        found[name] = Array(dtype, shape, position, end)
        position = end
    return Layout(found, 0, position)


def _check_scale_names(model: Layout) -> None:
    for name in model.arrays:
        if name + SCALE in model.arrays:
            message = (
                f"the model has arrays {name!r} and {name + SCALE!r}: in int8 the second could not be"
                " distinguished from the scale of the first; rename it, or choose another encoding"
            )
            raise SettingsError(message)


def check_file(found: Layout, model: Layout, encoding: Encoding) -> None:
    """Check that a file has the layout that :func:`file_layout` returns.

    Raises:
        UpdateRefused: It differs; the message names the first array that does.
    """
    check_offsets(found, file_layout(model, encoding))


def check_offsets(found: Layout, expected: Layout) -> None:
    """Check that a file has the arrays of ``expected``, at the same places.

    Raises:
        UpdateRefused: It does not; the message names the first array that differs.
    """
    check_layout(found, expected)
    for name, array in expected.arrays.items():
        got = found.arrays[name]
        if got.start != array.start:
            message = f"array {name!r} is at byte {got.start} of the data instead of {array.start}"
            raise UpdateRefused(message)


def is_encoded(model: Layout, encoding: Encoding) -> bool:
    """Return whether an encoding changes anything in a model: only float32 arrays are encoded."""
    return encoding.kind != "float32" and any(array.dtype == ENCODED for array in model.arrays.values())


def check_download(model: Layout, encoding: Encoding) -> None:
    """Check that devices can recover the model's layout from its encoded file.

    Raises:
        SettingsError: The encoding is not for models, or the model has arrays of the encoding's type.
    """
    check_model_encoding(encoding)
    own = _FILE_TYPES[encoding.kind]
    for name, array in model.arrays.items():
        if array.dtype == own != ENCODED and encoding.kind != "int8":
            message = (
                f"the model's array {name!r} is {own} itself: in a download as {encoding.kind} devices would"
                " mistake it for an encoded one; choose another download_encoding"
            )
            raise SettingsError(message)
    file_layout(model, encoding)


def model_layout(found: Layout, encoding: Encoding) -> Layout:
    """Return the layout of the model in an encoded file: the inverse of :func:`file_layout`.

    Only for encodings of whole models, which :func:`check_download` accepts.

    Raises:
        UpdateRefused: The file is not an encoded model.
    """
    ordered = in_file_order(found)
    scales = {name + SCALE for name in ordered if encoding.kind == "int8" and name + SCALE in ordered}
    arrays = []
    for name, array in ordered.items():
        if name in scales:
            continue
        scaled = name + SCALE in scales
        encoded = scaled if encoding.kind == "int8" else array.dtype == _FILE_TYPES[encoding.kind]
        arrays.append((name, ENCODED if encoded else array.dtype, array.shape))
    model = _laid_out(arrays)
    try:
        check_file(found, model, encoding)
    except SettingsError as error:
        raise UpdateRefused(str(error)) from error
    return model


def byte_range(model_array: Array, encoding: Encoding, start: int, stop: int) -> tuple[int, int]:
    """Return the byte range of an encoded array that holds the values ``start`` to ``stop`` of the model's.

    For an array that is not float32, the range is that of the unencoded array.

    Raises:
        ValueError: ``start`` or ``stop`` is neither a multiple of ``BLOCK`` nor the end of the array.
    """
    values = values_in(model_array)
    if not 0 <= start <= stop <= values or start % BLOCK or (stop % BLOCK and stop != values):
        message = f"the values {start} to {stop} of {values} are not cut at multiples of {BLOCK}"
        raise ValueError(message)
    if model_array.dtype == ENCODED and encoding.kind == "top_k":
        row = row_bytes(values, encoding.fraction)
        return start // BLOCK * row, block_count(stop) * row
    width = DTYPES[_in_file(model_array, encoding)[0]].itemsize
    return start * width, stop * width
