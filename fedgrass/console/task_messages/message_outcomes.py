"""What became of a message to a device: its reply, checked, or a failure with its reason."""

import base64
import binascii
import io
from collections.abc import Callable, Sequence
from typing import Literal

import xxhash
from msgspec import Struct

from fedgrass.console.runs.streamed_bucket import StreamedObjects
from fedgrass.federation import object_keys, weights
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.rounds import ENDED, Participant, Participation, Round
from fedgrass.federation.task_messages.content_reader import read_content
from fedgrass.federation.task_messages.message_content import Record, carried
from fedgrass.federation.weights.weights_checksums import ChunkCheck

FailureKind = Literal["declined", "failed", "silent", "late", "refused", "damaged", "expired", "unknown"]


class Reply(Struct, frozen=True):
    """A device's reply: its records, and the data of all their arrays in order."""

    records: Sequence[Record]
    data: Sequence[bytes]
    bytes: int  # of its file


class Failure(Struct, frozen=True):
    """Why a message has no reply."""

    kind: FailureKind
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


Outcome = Reply | Failure


def failure_of(round_: Round, part: Participant | None) -> Failure | None:
    """Return why a device does not reply in a round; None if it has replied, or still may.

    Args:
        round_: the round, read before the participant.
        part: the device's part in it; None if the round has none for it.
    """
    ended = round_.state in ENDED
    if part is None:
        reason = f"round {round_.number} of the run has no such participant"
        return Failure("unknown", reason) if ended else None
    match part.state:
        case Participation.DECLINED:
            return Failure("declined", part.reason)
        case Participation.FAILED:
            return Failure("failed", part.reason)
        case Participation.REFUSED:
            return Failure("refused", part.reason)
        case Participation.LATE:
            return Failure("late", "its reply came after the end of the round")
        case Participation.REPLIED:
            return None
        case Participation.SILENT:
            reason = "it did not accept the message, which was announced twice"
            return Failure("silent", reason) if ended else None  # it may still come back
    if not ended:
        return None
    accepted = "it accepted the message" if part.accepted else "it did not accept the message"
    return Failure("late", f"{accepted}, and the round ended before its reply: {round_.reason}")


def read_reply(bucket: StreamedObjects, round_: Round, part: Participant) -> Outcome:
    """Return the reply of a device that has REPLIED, from its completion or from the bucket.

    Every array is read into the bytes that are returned. A reply that is missing, cannot be read or has other
    bytes than the device has stated is a ``Failure``.
    """
    try:
        if part.answer:
            return _inline(part)
        key = object_keys.update(part.device, round_.run, round_.number, round_.attempt)
        size, read, _ = bucket.stream(key)
        if size != part.bytes:
            return Failure("damaged", f"its file has {size:,} bytes, and the device stated {part.bytes:,}")
        checked = _Checked(read, size, part.checksum)
        return _reply(checked.read, size, checked.finish)
    except KeyError as error:
        return Failure("damaged", f"its file {error.args[0]} is not in the bucket")
    except UpdateRefused as error:
        return Failure("damaged", str(error))


def _inline(part: Participant) -> Reply:
    try:
        data = base64.b64decode(part.answer, validate=True)
    except binascii.Error as error:
        message = f"its answer is not base64: {error}"
        raise UpdateRefused(message) from error
    if (found := xxhash.xxh3_128_hexdigest(data)) != part.checksum:
        message = f"its answer has the checksum {found}, and the device has stated {part.checksum}"
        raise UpdateRefused(message)
    return _reply(io.BytesIO(data).read, len(data), lambda: None)


def _reply(read: Callable[[int], bytes], size: int, finish: Callable[[], None]) -> Reply:
    records, data = read_content(read, size)
    finish()
    for record in records:
        if record.file is not None:
            message = f"its record {record.name!r} names a separate file, which replies cannot have"
            raise UpdateRefused(message)
    if len(carried(records)) != len(data):
        message = f"its records name {len(carried(records))} arrays, and the file has {len(data)}"
        raise UpdateRefused(message)
    return Reply(records, data, size)


class _Checked:
    """Checks a file against the checksum of its header and those of its chunks while it is read."""

    def __init__(self, read: Callable[[int], bytes], size: int, expected: str) -> None:
        self._source = read
        self._expected = expected
        self._size = size
        self._head = b""
        self._check: ChunkCheck | None = None

    def read(self, count: int) -> bytes:
        data = self._source(count)
        if self._check is None:
            self._read_header(data)
        else:
            self._check.feed(memoryview(data))
        return data

    def _read_header(self, data: bytes) -> None:
        self._head += data
        claimed = weights.header_size(self._head, self._size)
        if len(self._head) < claimed:
            return
        if (found := weights.header_checksum(self._head)) != self._expected:
            message = f"its file has the checksum {found}, and the device has stated {self._expected}"
            raise UpdateRefused(message)
        layout = weights.read_layout(self._head, self._size)
        self._check = ChunkCheck(weights.chunk_checksums(self._head), 0, layout.data_bytes)

    def finish(self) -> None:
        if self._check is None or self._check.pending:
            message = "its file ends before its data"
            raise UpdateRefused(message)
