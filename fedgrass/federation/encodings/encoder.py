"""Encode arrays for a file: lazily, a piece at a time, with error feedback where it is asked for.

``PendingValues`` has the pending values of one array: its values, less those that training started from, plus
  what
earlier updates left unsent.

Error feedback (Seide et al., "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel
Distributed Training of Speech DNNs", 2014; Stich et al., "Sparsified SGD with Memory", 2018; Karimireddy
et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", 2019): what an update could
not carry is kept and added to the next one, so that sent + kept = wanted, and nothing is lost but time.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.encodings import quantization, top_k
from fedgrass.federation.encodings.decoding import decode_into
from fedgrass.federation.encodings.encoding_layouts import ENCODED, SCALE, file_layout
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages.encoding_settings import Encoding, check_encoding
from fedgrass.federation.weights.slices import BLOCK
from fedgrass.federation.weights.weights_file import Encoded, as_it_is, dtype_of, layout_of
from fedgrass.federation.weights.weights_layout import DTYPES, Array, Layout, check_layout

PIECE = 64 * BLOCK  # values that are in hand at a time: 1 MB
_LARGEST = {"float16": quantization.LARGEST_FLOAT16, "bfloat16": quantization.LARGEST_BFLOAT16}
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

Row = NDArray[np.float32]


@dataclass(frozen=True)
class PendingValues:
    """One float32 array on its way into an update; all rows have one dimension and the same length."""

    name: str
    values: Row
    start: Row | None  # to be subtracted
    kept: Row | None  # to be added; written to by whoever encodes
    inward: bool = False  # whether the difference is rounded towards zero: start + difference stays between

    def pieces(self) -> Iterator[tuple[slice, Row]]:
        """Yield where each piece lies, and what is to be said of it."""
        for first in range(0, len(self.values), PIECE):
            place = slice(first, min(first + PIECE, len(self.values)))
            wanted = self.values[place]
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name
                if self.start is not None:
                    wanted = self._difference(wanted, self.start[place])
                if self.kept is not None:
                    wanted = wanted + self.kept[place]
            yield place, wanted

    def _difference(self, values: Row, start: Row) -> Row:
        difference = values - start
        if self.inward:
            exact = values.astype(np.float64) - start
            further = np.abs(difference) > np.abs(exact)
            difference[further] = np.nextafter(difference[further], np.float32(0))
        return np.asarray(difference)

    def largest(self) -> float:
        """Return the largest magnitude.

        Raises:
            UpdateRefused: a value is not finite.
        """
        return max((self.checked(wanted, Encoding()) for _, wanted in self.pieces()), default=0.0)

    def checked(self, wanted: Row, encoding: Encoding) -> float:
        """Return the largest magnitude of a piece.

        Raises:
            UpdateRefused: a value is not finite, or larger than the encoding can hold.
        """
        largest = max(float(wanted.max()), -float(wanted.min()))
        if not largest <= _LARGEST_FLOAT32:  # it may be no number, which compares with nothing
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


Arrays = Mapping[str, NDArray[np.generic]]
Feedback = dict[str, NDArray[np.float32]]


def encode(  # noqa: PLR0913, PLR0917 - what an update is made of; each has its own name
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
        arrays: the model's arrays, or the differences if the encoding says so and there is no ``start``.
        model: the layout of the model's own file.
        encoding: how the float32 arrays are to be encoded.
        rng: for the stochastic rounding of int8.
        feedback: by name, what former updates left over: added to the values, and replaced in place by what
            this update leaves over, which holds once the whole file was written. What is missing begins at 0.
        start: the arrays from which the training began, to be subtracted from the float32 arrays. Other
            arrays (counters, say) are sent as they are, in files of differences too.
        statistics: the arrays that no gradient moves, such as running variances. Their differences are
            rounded towards zero and have no feedback, so that the start with what is sent is never beyond the
            value: a variance stays above zero. What was not sent is in the next round's difference again.

    Raises:
        UpdateRefused: the arrays, the start or the feedback are not the model's. Also while the file is
            written: a value is not finite, or larger than the encoding can hold.
        SettingsError: the encoding cannot be meant.
    """
    check_encoding(encoding)
    layout = file_layout(model, encoding)
    found = _as_they_are(arrays, model)
    if start is not None:
        _as_they_are(start, model)
    for name, array in model.arrays.items():
        if array.dtype == ENCODED:
            begun = None if start is None else _row(start[name])
            inward = begun is not None and name in statistics
            kept = None if feedback is None or inward else _kept(feedback, name, array)
            wanted = PendingValues(name, _row(arrays[name]), begun, kept, inward)
            scale = quantization.scale_of(wanted.largest()) if encoding.kind == "int8" else np.float32(1)
            if name + SCALE in layout.arrays:
                found[name + SCALE] = as_it_is(scale.reshape(1), ENCODED)
            placed = layout.arrays[name]
            blocks = _blocks(wanted, encoding, placed, scale, rng)
            found[name] = Encoded(placed.dtype, placed.shape, blocks)
    return {name: found[name] for name in layout.arrays}


def _as_they_are(arrays: Arrays, model: Layout) -> dict[str, Encoded]:
    """Return ``arrays`` with no encoding, once they are known to be the model's."""
    found = {}
    for name, array in arrays.items():
        expected = model.arrays.get(name)
        bits = expected is not None and expected.dtype == "BF16" and array.dtype == DTYPES["BF16"]
        found[name] = as_it_is(array, "BF16" if bits else dtype_of(name, array))
    check_layout(layout_of(found), model)
    return found


def _row(array: NDArray[np.generic]) -> Row:
    return np.asarray(array, "<f4", order="C").reshape(-1)


def _kept(feedback: Feedback, name: str, array: Array) -> Row:
    """Return what is kept of an array, as a row that can be written to."""
    kept = feedback.setdefault(name, np.zeros(array.shape, np.float32))
    if kept.shape != array.shape or kept.dtype != np.float32 or not kept.flags.carray:
        message = (
            f"the feedback of array {name!r} is {kept.dtype} of shape {kept.shape}, not float32 {array.shape}"
        )
        raise UpdateRefused(message)
    return kept.reshape(-1)


def _blocks(
    wanted: PendingValues, encoding: Encoding, placed: Array, scale: np.float32, rng: np.random.Generator
) -> Iterator[NDArray[np.generic]]:
    """Yield the encoded pieces of an array; what they do not say is kept."""
    for place, values in wanted.pieces():
        wanted.checked(values, encoding)
        encoded = (_rounded_inward if wanted.inward else _encoded)(values, encoding, placed, scale, rng)
        if wanted.kept is not None:
            said = np.empty_like(values)
            decode_into(said, encoded.reshape(-1).view(np.uint8).data, encoding, float(scale))
            np.subtract(values, said, out=wanted.kept[place])
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
    """Encode as ``_encoded`` does, but by rounding towards zero."""
    match encoding.kind:
        case "float16":
            return quantization.to_float16_inward(values)
        case "bfloat16":
            return quantization.to_bfloat16_inward(values)
        case "int8":
            return quantization.to_int8_inward(values, scale)
        case _:  # these have the values themselves
            return _encoded(values, encoding, placed, scale, rng)
