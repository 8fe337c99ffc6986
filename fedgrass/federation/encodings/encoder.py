"""Encode arrays for a file: lazily, piece by piece, with optional error feedback.

``PendingValues`` has the pending values of one array: the trained values, minus those that training started
from, plus what earlier updates could not send.

Error feedback (Seide et al., "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel
Distributed Training of Speech DNNs", 2014; Stich et al., "Sparsified SGD with Memory", 2018; Karimireddy
et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", 2019): what an update cannot
express is kept and added to the next one, so that sent + kept = pending, and values are only delayed.
"""

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.encodings import quantization, top_k
from fedgrass.federation.encodings.decoding import decode_into
from fedgrass.federation.encodings.encoding_layouts import ENCODED, SCALE, check_download, file_layout
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages.message_types import Encoding, check_encoding
from fedgrass.federation.weights import read_layout, sha256, views, write
from fedgrass.federation.weights.slices import BLOCK
from fedgrass.federation.weights.weights_file import Encoded, dtype_of, layout_of, unencoded
from fedgrass.federation.weights.weights_layout import DTYPES, Array, Arrays, Layout, check_layout

_PIECE = 64 * BLOCK  # values encoded at a time: 1 MB
_LARGEST = {"float16": quantization.LARGEST_FLOAT16, "bfloat16": quantization.LARGEST_BFLOAT16}
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

Row = NDArray[np.float32]  # of shape (n,)


@dataclass(frozen=True)
class PendingValues:
    """One float32 array on its way into an update; all rows have the same shape (n,)."""

    name: str
    values: Row
    start: Row | None  # subtracted from the values
    kept: Row | None  # added to them, and overwritten while the array is encoded
    inward: bool = False  # round differences towards zero: start + difference never exceeds the value

    def pieces(self) -> Iterator[tuple[slice, Row]]:
        """Yield each piece's place in the array and its pending values, of shape (at most ``_PIECE``,)."""
        for first in range(0, len(self.values), _PIECE):
            place = slice(first, min(first + _PIECE, len(self.values)))
            pending = self.values[place]
            with np.errstate(over="ignore", invalid="ignore"):  # ``checked`` refuses non-finite values
                if self.start is not None:
                    pending = self._difference(pending, self.start[place])
                if self.kept is not None:
                    pending = pending + self.kept[place]
            yield place, pending

    def _difference(self, values: Row, start: Row) -> Row:
        difference = values - start
        if self.inward:
            exact = values.astype(np.float64) - start
            further = np.abs(difference) > np.abs(exact)
            difference[further] = np.nextafter(difference[further], np.float32(0))
        return np.asarray(difference)

    def largest(self) -> float:
        """Return the largest magnitude of the pending values.

        Raises:
            UpdateRefused: A value is not finite.
        """
        return max((self.checked(pending, Encoding()) for _, pending in self.pieces()), default=0.0)

    def checked(self, pending: Row, encoding: Encoding) -> float:
        """Return the largest magnitude of a piece, a float32 array of shape (n,).

        Raises:
            UpdateRefused: A value is not finite, or larger than the encoding can express.
        """
        largest = max(float(pending.max()), -float(pending.min()))
        if not largest <= _LARGEST_FLOAT32:  # also true for NaN
            message = f"array {self.name!r} has values that are not finite"
            raise UpdateRefused(message)
        limit = _LARGEST.get(encoding.kind, _LARGEST_FLOAT32)
        if largest > limit:
            message = (
                f"array {self.name!r} has the magnitude {largest:.6g}; {encoding.kind} holds at most"
                f" {limit:.6g}: choose another encoding"
            )
            raise UpdateRefused(message)
        return largest


Feedback = dict[str, NDArray[np.float32]]  # what earlier updates could not send, in the model's shapes


def encode(  # noqa: PLR0913, PLR0917 - the parts of an update, each with its own name
    arrays: Arrays,
    model: Layout,
    encoding: Encoding,
    rng: np.random.Generator,
    feedback: Feedback | None = None,
    start: Arrays | None = None,
    *,
    statistics: Collection[str] = (),
) -> dict[str, Encoded]:
    """Return the arrays of an encoded file, in its order, for :func:`fedgrass.federation.weights.write`.

    The values are encoded while the file is written; until then ``arrays`` must not change.

    Args:
        arrays: The model's arrays by name, in its shapes and types; or the differences, if the encoding is
            one of differences and there is no ``start``.
        model: The layout of the model's file.
        encoding: The encoding of the float32 arrays.
        rng: For the stochastic rounding of int8.
        feedback: By name, what earlier updates could not send, float32 in the model's shapes: added to the
            values, and overwritten with what this update cannot send, complete once the whole file is
            written. Missing arrays are added as zeros.
        start: The arrays from which training started, subtracted from the float32 arrays. Other arrays, such
            as counters, are sent unchanged even in files of differences.
        statistics: Names of arrays that no gradient moves, such as running variances. Their differences are
            rounded towards zero and have no feedback, so that start + difference never exceeds the value: a
            variance stays above zero. The rest is part of the next round's difference.

    Raises:
        UpdateRefused: The arrays, the start or the feedback do not match the model. While the file is
            written: a value is not finite, or larger than the encoding can express.
        SettingsError: The encoding is contradictory.
    """
    check_encoding(encoding)
    layout = file_layout(model, encoding)
    found = _unencoded(arrays, model)
    if start is not None:
        _unencoded(start, model)
    for name, array in model.arrays.items():
        if array.dtype == ENCODED:
            started = None if start is None else _row(start[name])
            inward = started is not None and name in statistics
            kept = None if feedback is None or inward else _kept(feedback, name, array)
            pending = PendingValues(name, _row(arrays[name]), started, kept, inward)
            scale = quantization.scale_of(pending.largest()) if encoding.kind == "int8" else np.float32(1)
            if name + SCALE in layout.arrays:
                found[name + SCALE] = unencoded(scale.reshape(1), ENCODED)
            placed = layout.arrays[name]
            blocks = _blocks(pending, encoding, placed, scale, rng)
            found[name] = Encoded(placed.dtype, placed.shape, blocks)
    return {name: found[name] for name in layout.arrays}


def _unencoded(arrays: Arrays, model: Layout) -> dict[str, Encoded]:
    """Return ``arrays`` without encoding; raises UpdateRefused if they do not match the model."""
    found = {}
    for name, array in arrays.items():
        expected = model.arrays.get(name)
        bits = expected is not None and expected.dtype == "BF16" and array.dtype == DTYPES["BF16"]
        found[name] = unencoded(array, "BF16" if bits else dtype_of(name, array))
    check_layout(layout_of(found), model)
    return found


def _row(array: NDArray[np.generic]) -> Row:
    return np.asarray(array, "<f4", order="C").reshape(-1)


def _kept(feedback: Feedback, name: str, array: Array) -> Row:
    """Return the feedback of an array as a writable row; zeros are added for a missing one."""
    kept = feedback.setdefault(name, np.zeros(array.shape, np.float32))
    if kept.shape != array.shape or kept.dtype != np.float32 or not kept.flags.carray:
        message = (
            f"the feedback of array {name!r} is {kept.dtype} of shape {kept.shape}, not float32 {array.shape}"
        )
        raise UpdateRefused(message)
    return kept.reshape(-1)


def _blocks(
    pending: PendingValues, encoding: Encoding, placed: Array, scale: np.float32, rng: np.random.Generator
) -> Iterator[NDArray[np.generic]]:
    """Yield the encoded pieces of an array, and keep what they cannot express."""
    for place, values in pending.pieces():
        pending.checked(values, encoding)
        encoded = (_rounded_inward if pending.inward else _encoded)(values, encoding, placed, scale, rng)
        if pending.kept is not None:
            sent = np.empty_like(values)
            decode_into(sent, encoded.reshape(-1).view(np.uint8).data, encoding, float(scale))
            np.subtract(values, sent, out=pending.kept[place])
        yield encoded


def _encoded(
    values: Row, encoding: Encoding, placed: Array, scale: np.float32, rng: np.random.Generator
) -> NDArray[np.generic]:
    match encoding.kind:
        case "float32":
            return values
        case "float16":
            return quantization.to_float16(values)
        case "bfloat16":
            return quantization.to_bfloat16(values)
        case "int8":
            return quantization.to_int8(values, scale, rng)
        case "top_k":
            return top_k.to_top_k(values, encoding.fraction, placed.shape[1])


def _rounded_inward(
    values: Row, encoding: Encoding, placed: Array, scale: np.float32, rng: np.random.Generator
) -> NDArray[np.generic]:
    """Encode like ``_encoded``, but round towards zero."""
    match encoding.kind:
        case "float16":
            return quantization.to_float16_inward(values)
        case "bfloat16":
            return quantization.to_bfloat16_inward(values)
        case "int8":
            return quantization.to_int8_inward(values, scale)
        case _:  # these encodings store the exact values
            return _encoded(values, encoding, placed, scale, rng)


def encode_model(model: bytes | bytearray | memoryview, encoding: Encoding) -> bytes:
    """Return the file that devices download in place of ``model``, a model's own file.

    Deterministic: the stochastic rounding is seeded with the model's SHA-256, so that all workers produce the
    same bytes.

    Raises:
        SettingsError: This encoding is not for models, or not for this one.
        UpdateRefused: ``model`` is not a weights file, or has values that the encoding cannot express.
    """
    model = memoryview(model)
    layout = read_layout(model, len(model))
    check_download(layout, encoding)
    rng = np.random.default_rng(int(sha256(model), 16))
    target = io.BytesIO()
    write(encode(views(model, layout), layout, encoding, rng), target)
    return target.getvalue()
