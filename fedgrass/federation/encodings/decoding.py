"""From the bytes of a file to float32: any range of an array that is cut at blocks, or a whole file."""

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.encodings import quantization, top_k
from fedgrass.federation.encodings.encoding_layouts import ENCODED, SCALE, check_file
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages.encoding_settings import Encoding
from fedgrass.federation.weights.weights_layout import DTYPES, Array, Layout, read_layout

_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


def decode_into(out: NDArray[np.float32], raw: memoryview, encoding: Encoding, scale: float) -> None:
    """Write the values that ``raw`` holds to ``out``, one row; where ``top_k`` has sent none, 0.

    Args:
        out: of one dimension, with the length of the range that ``raw`` was cut out for by ``byte_range``.
        raw: the bytes of that range.
        encoding: of the file.
        scale: the array's own in int8; other kinds do not look at it.

    Raises:
        UpdateRefused: ``raw`` has not the length of the range, or an index of top_k lies beyond its block.
            Nothing is ever written beyond ``out``. Values that are not finite come through as they are.
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
        with np.errstate(over="ignore", invalid="ignore"):  # a scale that is not finite is found by the sum
            quantization.from_int8(np.frombuffer(raw, np.int8), scale, out)


def decode(data: bytes | memoryview, model: Layout, encoding: Encoding) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a whole encoded file, with the shapes and types of the model's.

    Of a file of differences these are the differences. Nobody can write to the arrays; what lies in ``data``
    as it is is not copied.

    Raises:
        UpdateRefused: the file is not what ``file_layout`` says, or cannot be decoded.
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
