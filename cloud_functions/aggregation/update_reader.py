"""The update files of a round: opened many at a time, read from front to back in slices, checked on the way.

The header of a file is checked when the file is opened, each chunk against its checksum while it is read.
An update that fails a check is refused by its device's name (``BadUpdates``), and the others are averaged
without it.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation.model_files import Bytes
from cloud_functions.aggregation.reader_threads import SMALLEST_BUFFERS
from fedgrass.federation import object_keys
from fedgrass.federation.encodings import (
    Encoding,
    byte_range,
    check_offsets,
    decode_into,
    file_layout,
)
from fedgrass.federation.encodings.encoding_layouts import SCALE
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.ports import LONGEST_WAIT, Bucket
from fedgrass.federation.rounds import Participant, Round, update_of
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
from fedgrass.federation.weights.array_roles import TRAINED
from fedgrass.federation.weights.slices import Kind, Piece, Slice

_SCALE_BYTES = 4
_FIRST_READ = 64 * 1024  # bytes: most headers fit, so that one request is enough
# Small updates are read whole when they are opened, with one request each instead of two, if all together are
# not larger than the buffers of those that are read in slices.
_MOST_HELD = SMALLEST_BUFFERS
# How much larger an update's header may be than the trainer would write it: other safetensors libraries may
# add spaces and metadata. Parsing a header of 8 MB takes some 110 MB of memory.
_HEADER_TIMES = 2
_HEADER_SPARE = 16 * 1024  # bytes
_HEADERS_PER_LANE = 2  # opened at once: headers are small
_HEADER_BYTES_AT_ONCE = 16 * 1024**2  # of all headers being parsed, which takes some 14 times that in memory
_BFLOAT16 = Encoding(kind="bfloat16")


class BadUpdates(Exception):
    """Some updates must not enter the average; the caller refuses them and averages the others.

    Args:
        refused: the reason for each of these updates, by device.
    """

    def __init__(self, refused: dict[str, str]) -> None:
        super().__init__(f"the updates of {', '.join(refused)} are bad")
        self.refused = refused


class Place(NamedTuple):
    """Where a slice is stored in the data of an update."""

    start: int  # byte
    end: int
    plain: bool  # whether the bytes are the values, in the type in which they are averaged


_NOWHERE: tuple[Slice | None, Place] = (None, Place(0, 0, plain=True))
_MOST_PLACES = 16  # in the cache: lanes are at most a few slices apart


class UpdateFormat:
    """The format that every update of a round must have: the model's arrays in the run's encoding.

    Args:
        model: the arrays of an update: the model's, and the auxiliary arrays that updates carry.
        encoding: how updates are encoded.
    """

    def __init__(self, model: Layout, encoding: Encoding) -> None:
        self.model = model
        self.encoding = encoding
        self.file = file_layout(model, encoding)
        first = next(iter(in_file_order(model)), None)
        # The scales of encoded arrays precede the arrays.
        self.scales_end = self.file.arrays[first].start if first is not None else 0
        self._places: dict[int, tuple[Slice, Place]] = {}
        self.largest_header = min(
            LARGEST_HEADER, _HEADER_TIMES * header_length(self.file) + _HEADER_SPARE
        )  # bytes, without the length prefix

    def range_of(self, piece: Piece) -> tuple[int, int]:
        """Return start and end, in bytes of the file's data, of the values of a piece."""
        start, end = byte_range(self.model.arrays[piece.name], self.encoding, piece.start, piece.stop)
        place = self.file.arrays[piece.name].start
        return place + start, place + end

    def place_of(self, part: Slice) -> Place:
        """Return where a slice is stored; cached, since lanes ask for the same few slices of many updates."""
        known, place = self._places.get(id(part), _NOWHERE)
        if known is not part:
            place = self._place(part)
            if len(self._places) >= _MOST_PLACES:
                self._places = {}
            self._places[id(part)] = (part, place)
        return place

    def _place(self, part: Slice) -> Place:
        plain = all(DTYPES[self._dtype(piece)] == part.dtype for piece in part.pieces)
        # The pieces of a slice are adjacent in the file.
        return Place(self.range_of(part.pieces[0])[0], self.range_of(part.pieces[-1])[1], plain)

    def decode(self, raw: Bytes, part: Slice, row: NDArray[Any], scales: dict[str, float]) -> None:
        """Decode the bytes of a slice.

        Args:
            raw: uint8 array of the slice's bytes in the file.
            part: the slice.
            row: array of shape (L,), float32 or float64, that receives the values.
            scales: of the arrays that are encoded with a scale, by name.
        """
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
    """One update; its header is read and checked on construction.

    Everything is read from one version of the object, so that a second pass sums what a first pass measured.
    Checksums could not ensure that: two contents with the same xxh3-128 are made in a millisecond.

    Args:
        bucket: contains the file.
        key: the key of the file.
        reply: the device's completion, with the size of the file in bytes and the checksum of its header.
        form: the format that the file must have.
        version: the version of the object to read; if empty, the one that is current at the first read.
        is_held: whether to read the whole file at once and to hold it in memory.

    Raises:
        UpdateRefused: the file is missing, is not an update of the run's model, or its header does not match
            the checksum in the completion.
    """

    def __init__(  # noqa: PLR0913 - which file, and how it is read
        self,
        bucket: Bucket,
        key: str,
        reply: Participant,
        form: UpdateFormat,
        version: str = "",
        *,
        is_held: bool = False,
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._form = form
        self.name = reply.device
        self.version = version
        self._held = np.empty(0, dtype=np.uint8)
        head = self._read_head(reply.bytes, is_held=is_held)
        found, metadata = read_layout_and_metadata(head.data, reply.bytes)
        check_offsets(found, form.file)
        if (actual := header_checksum(head.data)) != reply.checksum:
            message = f"the checksum of {key} is {actual}; the completion says {reply.checksum}"
            raise UpdateRefused(message)
        self._header_bytes = found.header_bytes
        self._checksums = checksums_in(metadata, found.data_bytes)
        self.declaration = metadata.get(TRAINED, "")  # of the arrays that gradients move
        self._scales: dict[str, float] = {}

    def begin(self, first: Slice | None = None) -> None:
        """Start to read at a slice, or at the front of the data if None.

        Also reads the part of the first chunk before the slice, since a checksum covers a whole chunk.

        Raises:
            UpdateRefused: as :meth:`read`.
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
        """Read the rest of the last slice's chunk, so that its checksum is checked.

        Raises:
            UpdateRefused: as :meth:`read`.
        """
        end = min(-(-self._position // CHUNK_BYTES) * CHUNK_BYTES, self._form.file.data_bytes)
        if end > self._position:
            self._fetch(self._position, np.empty(end - self._position, dtype=np.uint8))

    def read(self, part: Slice, row: NDArray[Any], scratch: Bytes) -> None:
        """Read and decode the next slice.

        Args:
            part: the slice that follows the one read before.
            row: array of shape (L,), float32 or float64, that receives the values.
            scratch: uint8 array for the encoded bytes, of at least 8 bytes for each value.

        Raises:
            UpdateRefused: a chunk does not match its checksum in the header, or the file is gone.
        """
        start, end, plain = self._form.place_of(part)
        if plain:
            self._fetch(start, row.view(np.uint8))
            return
        raw = scratch[: end - start]
        self._fetch(start, raw)
        self._form.decode(raw, part, row, self._scales)

    def peek(self, part: Slice, dtype: "np.dtype[Any] | None" = None) -> NDArray[Any]:
        """Return the values of any slice, read again and unchecked: to find out what is wrong with them.

        Args:
            part: the slice.
            dtype: of the result; by default the type in which the slice is averaged.

        Returns:
            Array of shape (L,).
        """
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

    def _read_head(self, size: int, *, is_held: bool) -> Bytes:
        """Return the header with its length prefix, from a file of ``size`` bytes."""
        largest = self._form.file.data_bytes + self._form.largest_header + PREFIX
        if size > largest:
            message = f"object {self._key} has {size} bytes; {largest} is the most it may have"
            raise UpdateRefused(message)
        head = self._read_at(0, size if is_held else min(size, _FIRST_READ))
        if is_held:
            self._held = head
        needed = header_size(head.data, size, self._form.largest_header)
        return head[:needed] if needed <= len(head) else self._read_at(0, needed)

    def _read_at(self, start: int, count: int) -> Bytes:
        raw = np.empty(count, dtype=np.uint8)
        self._read_into(start, raw.data)
        return raw

    def _read_into(self, start: int, target: memoryview) -> None:
        end = start + target.nbytes
        if end <= len(self._held):
            target[:] = self._held[start:end].data
            return
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


def open_updates(
    bucket: Bucket,
    form: UpdateFormat,
    round_: Round,
    replies: Sequence[Participant],
    versions: Mapping[str, str] = MappingProxyType({}),
) -> list[UpdateFile]:
    """Open the updates of replies, several at a time.

    Args:
        bucket: contains the updates.
        form: the format that they must have.
        round_: the round of the replies.
        replies: whose updates to open.
        versions: which version of its object to read, by device; the current one for all other devices.

    Returns:
        The update of each reply, in their order.

    Raises:
        BadUpdates: some updates are missing, or their headers are bad.
    """
    refused: dict[str, str] = {}
    is_held = sum(reply.bytes for reply in replies) <= _MOST_HELD

    def opened(reply: Participant) -> UpdateFile | None:
        key = object_keys.update(reply.device, round_.run, *update_of(round_, reply))
        try:
            version = versions.get(reply.device, "")
            return UpdateFile(bucket, key, reply, form, version, is_held=is_held)
        except UpdateRefused as error:
            refused[reply.device] = str(error)
            return None

    at_once = min(_HEADERS_PER_LANE * bucket.lanes, _HEADER_BYTES_AT_ONCE // form.largest_header)
    with ThreadPoolExecutor(max(1, min(at_once, len(replies)))) as pool:
        updates = list(pool.map(opened, replies, timeout=LONGEST_WAIT))
    if refused:
        raise BadUpdates(refused)
    return [update for update in updates if update]
