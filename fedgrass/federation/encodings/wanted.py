"""What an update is to say of one array: its values, less where training began, and what was left over."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.encoding import Encoding
from fedgrass.federation.encodings import floats
from fedgrass.federation.encodings.blocks import BLOCK
from fedgrass.federation.errors import UpdateRefused

PIECE = 64 * BLOCK  # values that are in hand at a time: 1 MB
_LARGEST = {"float16": floats.LARGEST_FLOAT16, "bfloat16": floats.LARGEST_BFLOAT16}
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

Row = NDArray[np.float32]


@dataclass(frozen=True)
class Wanted:
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
