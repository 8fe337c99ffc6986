"""The file of a sum that another averager made: read from front to back, and checked on the way."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.ports import Bucket
from fedgrass.federation.slices import Slice
from fedgrass.federation.weights import Layout, header

_FLOAT64 = 8  # bytes


class SumFile:
    """A sum of updates in float64, sliced as the model is.

    Args:
        bucket: where it lies.
        key: its key.
        layout: of its arrays, without a header: that is known, since an averager made it.
        sha256: of the file, as its maker has written it down.
    """

    def __init__(self, bucket: Bucket, key: str, layout: Layout, sha256: str) -> None:
        self._bucket = bucket
        self._key = key
        self._layout = layout
        self._header = header(layout)
        self._expected = sha256
        self._found = hashlib.sha256(self._header)

    def begin(self, first: Slice | None = None) -> None:
        """Begin at the front: a sum is read whole. Raises ValueError for another slice."""
        if first:
            message = f"the sum {self._key} is read whole, not from {first.pieces[0]} on"
            raise ValueError(message)
        self._found = hashlib.sha256(self._header)

    def read(self, part: Slice, row: NDArray[Any], scratch: NDArray[np.uint8]) -> None:  # noqa: ARG002
        """Read the next slice's values into ``row``, shape (L,), float64. Raises UpdateRefused."""
        self._read_into(part, row)
        self._found.update(row.view(np.uint8).data)

    def finish(self) -> None:
        """Check what was read. Raises UpdateRefused."""
        found = self._found.hexdigest()
        if found != self._expected:
            message = (
                f"the sum {self._key} has the SHA-256 {found}; its maker wrote {self._expected or 'none'}"
            )
            raise UpdateRefused(message)

    def peek(self, part: Slice, dtype: "np.dtype[Any] | None" = None) -> NDArray[Any]:
        """Return a slice's values, shape (L,), read again and not checked."""
        row = np.empty(part.length)
        self._read_into(part, row)
        return row.astype(dtype or row.dtype, copy=False)

    def _read_into(self, part: Slice, row: NDArray[Any]) -> None:
        first = part.pieces[0]
        start = self._layout.arrays[first.name].start + first.start * _FLOAT64
        try:
            self._bucket.read_into(self._key, len(self._header) + start, row.view(np.uint8).data)
        except KeyError as error:
            message = f"there is no object {self._key} in the bucket"
            raise UpdateRefused(message) from error
