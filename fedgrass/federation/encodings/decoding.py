"""From the bytes of a file to float32: a whole file, or a range of an array cut at block boundaries."""

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.encodings import quantization, top_k
from fedgrass.federation.encodings.encoding_layouts import ENCODED, SCALE, check_file, model_layout
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages.message_types import Encoding
from fedgrass.federation.weights.weights_layout import DTYPES, Array, Layout, read_layout

_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


def decode_into(out: NDArray[np.float32], raw: memoryview, encoding: Encoding, scale: float) -> None:
    """Write the values encoded in ``raw`` to ``out``; values that ``top_k`` left out are 0.

    Args:
        out: float32 array of shape (n,), where n is the length of the range that ``byte_range`` cut.
        raw: The bytes of that range.
        encoding: The encoding of the file.
        scale: The array's scale in int8; other kinds ignore it.

    Raises:
        UpdateRefused: ``raw`` does not have the length of the range, or an index of top_k is outside its
            block. Nothing is ever written outside ``out``. Non-finite values are decoded as they are.
    """
    if encoding.kind == "top_k":
        top_k.from_top_k(raw, out)
        return
    if raw.nbytes != len(out) * _WIDTHS[encoding.kind]:
        message = f"{raw.nbytes} bytes are not {len(out)} values in {encoding.kind}"
        raise UpdateRefused(message)
    if encoding.kind == "float32":
        np.copyto(out, np.frombuffer(raw, "<f4"))
    elif encoding.kind == "float16":
        np.copyto(out, np.frombuffer(raw, "<f2"))
    elif encoding.kind == "bfloat16":
        quantization.from_bfloat16(np.frombuffer(raw, "<u2"), out)
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # the sum detects a non-finite scale
            quantization.from_int8(np.frombuffer(raw, np.int8), scale, out)


def decode(data: bytes | memoryview, model: Layout, encoding: Encoding) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a whole encoded file, in the shapes and types of the model, by name.

    The arrays are read-only; those stored unchanged are views into ``data``. For a file of differences they
    are the differences.

    Raises:
        UpdateRefused: The file does not have the layout that ``file_layout`` returns, or cannot be decoded.
    """
    found = read_layout(data, len(data))
    check_file(found, model, encoding)
    body = memoryview(data)[found.header_bytes :]
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, array in model.arrays.items():
        raw = _bytes_of(body, found.arrays[name])
        if array.dtype != ENCODED or encoding.kind == "float32":
            arrays[name] = np.frombuffer(raw, DTYPES[array.dtype]).reshape(array.shape)
            continue
        scale = found.arrays.get(name + SCALE) if encoding.kind == "int8" else None
        values = np.empty(array.shape, np.float32)
        decode_into(values.reshape(-1), raw, encoding, _number(body, scale) if scale else 1.0)
        values.flags.writeable = False
        arrays[name] = values
    return arrays


def _bytes_of(body: memoryview, array: Array) -> memoryview:
    return body[array.start : array.end]


def _number(body: memoryview, scale: Array) -> float:
    return float(np.frombuffer(_bytes_of(body, scale), "<f4")[0])


def decode_model(
    data: bytes | memoryview, encoding: Encoding
) -> tuple[dict[str, NDArray[np.generic]], Layout]:
    """Return the arrays of a downloaded file, in the model's shapes and types, and the model's layout.

    The file is sufficient to find the encoded arrays: all of the encoding's type, in int8 all with a scale.

    Raises:
        UpdateRefused: The file is truncated, or not an encoded model.
    """
    model = model_layout(read_layout(data, len(data)), encoding)
    return decode(data, model, encoding), model
