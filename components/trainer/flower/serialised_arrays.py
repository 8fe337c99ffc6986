"""numpy arrays in the form in which Flower's records carry them: the bytes of a .npy file each.

The format is described at https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. Arrays of
Python objects, which would need pickle, are refused.
"""

from io import BytesIO
from math import prod
from tokenize import TokenError  # numpy reads the header of Python 2 with a tokenizer
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedgrass.federation.errors import UpdateRefused

NUMPY = "numpy.ndarray"  # Flower's name of this form
_VERSION = (1, 0)


def serialised(array: NDArray[np.generic]) -> bytes:
    """Return an array of any shape as ``numpy.save`` writes it; unlike that, it is copied only once."""
    array = np.asarray(array, order="C")
    head = BytesIO()
    npy.write_array_header_1_0(head, npy.header_data_from_array_1_0(array))
    return b"".join((head.getvalue(), array.reshape(-1).view(np.uint8).data))


def array_in(data: bytes | memoryview, name: str) -> NDArray[np.generic]:
    """Return the array that ``numpy.save`` has written, in its shape, as a read-only view into ``data``.

    Args:
        data: the bytes of the file.
        name: of the array, for errors.

    Raises:
        UpdateRefused: the bytes are not those of such a file, or it holds Python objects.
    """
    try:
        return _array_in(BytesIO(data), data)
    except (EOFError, OSError, OverflowError, SyntaxError, TokenError, TypeError, ValueError) as error:
        message = f"array {name!r} is not a serialised numpy array: {error}"
        raise UpdateRefused(message) from error


def _array_in(file: BytesIO, data: bytes | memoryview) -> NDArray[np.generic]:
    if (version := npy.read_magic(file)) != _VERSION:  # later ones are for structured types
        message = f"it has the version {version} of the format"
        raise ValueError(message)
    shape, in_columns, dtype = npy.read_array_header_1_0(file)
    # Refuses Python objects, which would need pickle.
    values: NDArray[Any] = np.frombuffer(data, dtype, prod(shape), file.tell())
    return values.reshape(shape, order="F" if in_columns else "C")
