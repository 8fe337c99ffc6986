"""How a model is cut into slices, so that the same values of every update are read together.

A slice is a range of consecutive values of a weights file, and its arrays are of one kind: float32, the
only one that is encoded; shorter floats, which are averaged as float32; float64; or integers, averaged as
float64. Arrays are encoded in blocks of ``BLOCK`` values and cut only between blocks, so that any part can be
decoded without the rest.
"""

import math
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from fedgrass.federation.weights import Layout, in_file_order
from fedgrass.federation.weights.weights_layout import Array

BLOCK = 4096  # values


def values_in(array: Array) -> int:
    """Return the number of values of an array."""
    return math.prod(array.shape)


def block_count(values: int) -> int:
    """Return the number of blocks of an array of ``values`` values; the last may be shorter."""
    return -(-values // BLOCK)


class Kind(Enum):
    """The kind of an array; the arrays of a slice have the same kind."""

    FLOAT32 = "F32"
    HALF = "F16 or BF16"
    FLOAT64 = "F64"
    WHOLE = "whole numbers, such as a count of batches"


_KINDS = {"F32": Kind.FLOAT32, "F16": Kind.HALF, "BF16": Kind.HALF, "F64": Kind.FLOAT64}


class Piece(NamedTuple):
    """The values ``start`` to ``stop`` of one flattened array."""

    name: str
    start: int
    stop: int

    @property
    def length(self) -> int:
        """The number of values."""
        return self.stop - self.start


class Slice(NamedTuple):
    """Consecutive pieces of one kind."""

    pieces: tuple[Piece, ...]
    kind: Kind
    length: int  # values, of all pieces together

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The type in which the values are averaged."""
        return np.dtype(np.float32 if self.kind in {Kind.FLOAT32, Kind.HALF} else np.float64)


def cut(layout: Layout, longest: int) -> Iterator[Slice]:
    """Cut a model into slices of at most ``longest`` values, or of one block if that is more.

    Arrays are only cut at multiples of ``BLOCK``, where all encodings can be cut.
    """
    pieces = (
        (Piece(name, 0, math.prod(array.shape)), _KINDS.get(array.dtype, Kind.WHOLE))
        for name, array in in_file_order(layout).items()
    )
    return _cut(pieces, longest)


def cut_further(part: Slice, longest: int) -> Iterator[Slice]:
    """Cut a slice into slices of at most ``longest`` values, or of one block if that is more."""
    return _cut(((piece, part.kind) for piece in part.pieces), longest)


def _cut(pieces: Iterable[tuple[Piece, Kind]], longest: int) -> Iterator[Slice]:
    longest = max(BLOCK, longest // BLOCK * BLOCK)
    gathered: list[Piece] = []
    room, gathered_kind = longest, Kind.FLOAT32
    for whole, kind in pieces:
        for piece in _shorter(whole, longest):
            if gathered and (kind != gathered_kind or piece.length > room):
                yield _slice(gathered, gathered_kind)
                gathered, room = [], longest
            gathered_kind = kind
            gathered.append(piece)
            room -= piece.length
    if gathered:
        yield _slice(gathered, gathered_kind)


def _shorter(piece: Piece, longest: int) -> Iterator[Piece]:
    for start in range(piece.start, piece.stop, longest):
        yield Piece(piece.name, start, min(start + longest, piece.stop))


def _slice(pieces: list[Piece], kind: Kind) -> Slice:
    return Slice(tuple(pieces), kind, sum(piece.length for piece in pieces))
