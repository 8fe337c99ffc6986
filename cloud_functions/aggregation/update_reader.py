"""The update files of a round, read from front to back in slices and checked on the way."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.encodings import (
    Encoding,
    byte_range,
    check_places,
    decode_into,
    file_layout,
)
from fedgrass.federation.encodings.encoding_layouts import SCALE
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.ports import Bucket
from fedgrass.federation.weights import (
    CHUNK_BYTES,
    DTYPES,
    LARGEST_HEADER,
    PREFIX,
    ChunkCheck,
    Layout,
    checksums_in,
    header_checksum,
    header_length,
    header_size,
    in_file_order,
    read_layout_and_metadata,
)
from fedgrass.federation.weights.slices import Kind, Piece, Slice
from fedgrass.federation.weights.trained_arrays import TRAINED

Bytes = NDArray[np.uint8]
_SCALE_BYTES = 4
_GUESSED_HEADER = 64 * 1024  # bytes: enough for most headers, so that one request does
# What an update's header may have beyond the one that the trainer would write: a library of another language
# may space it out, and add a few words. A header of 8 MB takes some 110 MB of memory while it is parsed.
_HEADER_TIMES = 2
_HEADER_SPARE = 16 * 1024  # bytes
_BFLOAT16 = Encoding(kind="bfloat16")


class Place(NamedTuple):
    """Where a slice lies in the data of an update."""

    start: int  # byte
    end: int
    plain: bool  # whether the bytes are the values, in the type in which they are averaged


_NOWHERE: tuple[Slice | None, Place] = (None, Place(0, 0, plain=True))
_MOST_PLACES = 16  # that are remembered: lanes are a few slices apart at most


class Form:
    """What every update of a round has to look like: the model's arrays in the run's encoding."""

    def __init__(self, model: Layout, encoding: Encoding) -> None:
        self.model = model
        self.encoding = encoding
        self.file = file_layout(model, encoding)
        first = next(iter(in_file_order(model)), None)
        # What lies before the model's own arrays: the scales of those that are encoded with one.
        self.scales_end = self.file.arrays[first].start if first is not None else 0
        self._places: dict[int, tuple[Slice, Place]] = {}
        self.largest_header = min(
            LARGEST_HEADER, _HEADER_TIMES * header_length(self.file) + _HEADER_SPARE
        )  # bytes, without its length

    def range_of(self, piece: Piece) -> tuple[int, int]:
        """Return the bytes of the file's data that hold a piece."""
        start, end = byte_range(self.model.arrays[piece.name], self.encoding, piece.start, piece.stop)
        place = self.file.arrays[piece.name].start
        return place + start, place + end

    def place_of(self, part: Slice) -> Place:
        """Return where a slice lies; lanes ask for the same few slices of many updates."""
        of, place = self._places.get(id(part), _NOWHERE)
        if of is not part:
            place = self._place(part)
            if len(self._places) >= _MOST_PLACES:
                self._places = {}
            self._places[id(part)] = (part, place)
        return place

    def _place(self, part: Slice) -> Place:
        plain = all(DTYPES[self._dtype(piece)] == part.dtype for piece in part.pieces)
        # Its pieces lie side by side.
        return Place(self.range_of(part.pieces[0])[0], self.range_of(part.pieces[-1])[1], plain)

    def decode(self, raw: Bytes, part: Slice, row: NDArray[Any], scales: dict[str, float]) -> None:
        """Decode the bytes of a slice into ``row``, of the slice's length and type."""
        begin, position = self.place_of(part).start, 0
        for piece in part.pieces:
            start, end = (offset - begin for offset in self.range_of(piece))
            target, data = row[position : position + piece.length], raw[start:end]
            if part.kind is Kind.FLOAT32:
                decode_into(target, data.data, self.encoding, scales.get(piece.name, 1.0))
            elif self._dtype(piece) == "BF16":
                decode_into(target, data.data, _BFLOAT16, 1.0)
            else:
                target[:] = data.view(DTYPES[self._dtype(piece)])
            position += piece.length

    def _dtype(self, piece: Piece) -> str:
        return self.file.arrays[piece.name].dtype


class UpdateFile:
    """One update; its header is read and checked when this is made.

    Everything is read from one version of the object: whatever is measured in a first pass is what a second
    pass sums. The checksums would not do for that: two contents with one xxh3-128 are made in a millisecond.

    Args:
        bucket: where it lies.
        key: its key.
        size: bytes, as the device's completion says.
        checksum: of its header, as the completion says.
        form: what it has to look like.
        version: the one that has to be read; the one that is there at the first read if it is empty.

    Raises:
        UpdateRefused: it is not there, it is no update of the run's model, or its header is not the one that
            the device vouched for.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # what is known of an update
        self, bucket: Bucket, key: str, size: int, checksum: str, form: Form, version: str = ""
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._form = form
        self.version = version
        head = self._read_head(size)
        found, metadata = read_layout_and_metadata(head.data, size)
        check_places(found, form.file)
        if header_checksum(head.data) != checksum:
            message = f"the checksum of {key} is {header_checksum(head.data)}; the completion says {checksum}"
            raise UpdateRefused(message)
        self._header_bytes = found.header_bytes
        self._checksums = checksums_in(metadata, found.data_bytes)
        self.declaration = metadata.get(TRAINED, "")  # of the arrays that gradients move
        self._scales: dict[str, float] = {}

    def begin(self, first: Slice | None = None) -> None:
        """Begin at a slice, None for the front of the data.

        What lies before it in its chunk is read too, since chunks are checked whole.
        """
        self._check = ChunkCheck(self._checksums, 0, self._form.file.data_bytes)
        self._position = 0
        if self._form.scales_end:
            self._read_scales()
        start = self._form.place_of(first).start if first else self._position
        if start > self._position:
            chunk = start // CHUNK_BYTES
            self._check = ChunkCheck(self._checksums, chunk, self._form.file.data_bytes)
            self._position = chunk * CHUNK_BYTES
            self._fetch(self._position, np.empty(start - self._position, dtype=np.uint8))

    def finish(self) -> None:
        """Read what is left of the chunk that the last slice ended in, so that it is checked."""
        end = min(-(-self._position // CHUNK_BYTES) * CHUNK_BYTES, self._form.file.data_bytes)
        if end > self._position:
            self._fetch(self._position, np.empty(end - self._position, dtype=np.uint8))

    def read(self, part: Slice, row: NDArray[Any], scratch: Bytes) -> None:
        """Read the next slice into ``row``, of its length and type.

        Raises:
            UpdateRefused: a chunk is not what the header says, or the file is not there any more.
        """
        start, end, plain = self._form.place_of(part)
        if plain:
            self._fetch(start, row.view(np.uint8))
            return
        raw = scratch[: end - start]
        self._fetch(start, raw)
        self._form.decode(raw, part, row, self._scales)

    def peek(self, part: Slice, dtype: "np.dtype[Any] | None" = None) -> NDArray[Any]:
        """Return a slice's values, read again and not checked: to look what is wrong with them."""
        start, end, _ = self._form.place_of(part)
        raw = self._read_at(self._header_bytes + start, end - start)
        row = np.empty(part.length, dtype=dtype or part.dtype)
        self._form.decode(raw, part, row, self._scales)
        return row

    def _fetch(self, start: int, target: Bytes) -> None:
        if start != self._position:
            message = f"the slices of {self._key} have to be read in order: {start} follows {self._position}"
            raise ValueError(message)
        self._read_into(self._header_bytes + start, target.data)
        self._check.feed(target.data)
        self._position += len(target)

    def _read_head(self, size: int) -> Bytes:
        """Return the header, with its length."""
        largest = self._form.file.data_bytes + self._form.largest_header + PREFIX
        if size > largest:
            message = f"object {self._key} has {size} bytes; {largest} is the most it may have"
            raise UpdateRefused(message)
        head = self._read_at(0, min(size, _GUESSED_HEADER))
        needed = header_size(head.data, size, self._form.largest_header)
        return head[:needed] if needed <= len(head) else self._read_at(0, needed)

    def _read_at(self, start: int, count: int) -> Bytes:
        raw = np.empty(count, dtype=np.uint8)
        self._read_into(start, raw.data)
        return raw

    def _read_into(self, start: int, target: memoryview) -> None:
        try:
            self.version = self._bucket.read_into(self._key, start, target, self.version)
        except KeyError as error:
            message = f"there is no object {self._key} in the bucket"
            raise UpdateRefused(message) from error

    def _read_scales(self) -> None:
        raw = np.empty(self._form.scales_end, dtype=np.uint8)
        self._fetch(0, raw)
        values = raw.view(np.float32)
        for name in self._form.model.arrays:
            if scale := self._form.file.arrays.get(name + SCALE):
                self._scales[name] = float(values[scale.start // _SCALE_BYTES])
