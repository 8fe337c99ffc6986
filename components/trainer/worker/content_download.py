"""Downloads the content of a ServerApp's message: its file, and the separate files that its records name.

The separate files of the latest message stay in memory, because a ServerApp often sends the same model twice:
for its evaluation and then for the next training. They are released before other files are downloaded, with
any other kind of work, and when the worker ends; large ones are not kept at all.
"""

import hashlib
import io
import logging
import resource
from collections.abc import Callable
from typing import Protocol, TypeVar

from components.runtime.component_errors import WorkFailed
from components.trainer.session.eligibility import read_free_memory
from components.trainer.worker.worker_protocol import id_of
from fedgrass.federation import object_keys
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages import Announcement
from fedgrass.federation.task_messages.content_reader import Read, check_sizes, read_content, read_data
from fedgrass.federation.task_messages.message_content import ContentFile, Record

T = TypeVar("T")
_TRIES = 2
_SHARE_KEPT = 8  # at most one part in so many of the memory for this process is kept for the next message
_DRAIN_BYTES = 1 << 20
log = logging.getLogger(__name__)


class OpenObject(Protocol):
    """Reads an object of S3 as a stream."""

    def __call__(self, bucket: str, key: str, size: int, use: Callable[[Read], T]) -> T:
        """Return what ``use`` returns, given a function that reads the object of ``size`` bytes.

        After a transient error, ``use`` is called again with the object from its beginning.

        Raises:
            WorkFailed: the object cannot be read, or has another size.
        """


def from_bytes(fetch: Callable[[str, str, int], bytes]) -> OpenObject:
    """Return a way to read objects as streams, given one that returns them whole."""

    def read(bucket: str, key: str, size: int, use: Callable[[Read], T]) -> T:
        return use(io.BytesIO(fetch(bucket, key, size)).read)

    return read


def memory_to_keep() -> int:
    """Return how many bytes of separate files may be kept: a part of the memory that this process may use."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    free = read_free_memory() or 0
    return (free if limit == resource.RLIM_INFINITY else min(free, limit)) // _SHARE_KEPT


class ContentDownload:
    """The downloads of the contents of messages.

    Args:
        read: reads an object of S3.
        room: returns the largest number of bytes to keep for the next message.
    """

    def __init__(self, read: OpenObject, room: Callable[[], int] = memory_to_keep) -> None:
        self._read = read
        self._room = room
        self._kept: dict[str, list[bytes]] = {}  # data of separate files by their SHA-256

    def fetch(self, announcement: Announcement) -> tuple[tuple[Record, ...], list[bytes]]:
        """Return the records of an announced message, and the data of all their arrays in order.

        Raises:
            WorkFailed: an object cannot be read, is not the announced one, or does not fit the records.
        """
        records, own = self._checked(
            announcement,
            announcement.model_key,
            announcement.model_sha256,
            announcement.model_bytes,
            read_content,
        )
        files = {record.file.sha256: record.file for record in records if record.file}
        _check_total(announcement, files)
        former, self._kept = self._kept, {}
        separate = {sha256: data for sha256, data in former.items() if sha256 in files}
        del former  # before the downloads: two models may not fit into the memory
        for sha256, file in files.items():
            if sha256 in separate:
                log.info(
                    "%s: the arrays %s are those of the message before", id_of(announcement), sha256[:12]
                )
            else:
                key = object_keys.content(announcement.run, sha256)
                separate[sha256] = self._checked(announcement, key, sha256, file.bytes, read_data)
        if sum(file.bytes for file in files.values()) <= self._room():
            self._kept = separate
        return records, _in_order(records, own, separate)

    def _checked(
        self, announcement: Announcement, key: str, sha256: str, size: int, parse: Callable[[Read, int], T]
    ) -> T:
        """Return what ``parse`` returns of an object whose SHA-256 is the announced one."""
        reason = ""
        for attempt in range(1, _TRIES + 1):

            def use(read: Read) -> T:
                return _hashed(read, size, sha256, parse)

            try:
                return self._read(announcement.bucket, key, size, use)
            except UpdateRefused as error:
                reason = str(error)
                log.warning("%s: %s is damaged, download %d: %s", id_of(announcement), key, attempt, reason)
        message = f"the content {key} cannot be used: {reason} (downloaded {_TRIES} times)"
        raise WorkFailed(message)


def _hashed(read: Read, size: int, sha256: str, parse: Callable[[Read, int], T]) -> T:
    """Return what ``parse`` returns of an object.

    Raises:
        UpdateRefused: its SHA-256 is another one, which may explain what ``parse`` refuses, or ``parse`` did.
    """
    digest, left = hashlib.sha256(), size

    def hashing(count: int) -> bytes:
        nonlocal left
        data = read(count)
        digest.update(data)
        left -= len(data)
        return data

    refused: UpdateRefused | None = None
    parsed: T | None = None
    try:
        parsed = parse(hashing, size)
    except UpdateRefused as error:
        refused = error
    while left > 0:
        hashing(min(left, _DRAIN_BYTES))
    if (found := digest.hexdigest()) != sha256:
        message = f"its SHA-256 is {found}, but {sha256} was announced"
        raise UpdateRefused(message)
    if refused is not None:
        raise refused
    return parsed  # type: ignore[return-value]


def _check_total(announcement: Announcement, files: dict[str, ContentFile]) -> None:
    """Check that the content is as large as announced: by that the device has accepted it."""
    announced = announcement.message_bytes or announcement.model_bytes
    total = announcement.model_bytes + sum(file.bytes for file in files.values())
    if total > announced:
        message = f"the content has {total:,} bytes with its separate files; {announced:,} were announced"
        raise WorkFailed(message)


def _in_order(records: tuple[Record, ...], own: list[bytes], separate: dict[str, list[bytes]]) -> list[bytes]:
    """Return the data of all arrays in the order of the records."""
    data: list[bytes] = []
    carried = iter(own)
    for record in records:
        if record.file is None:
            data += [next(carried) for _ in record.arrays]
            continue
        arrays = separate[record.file.sha256]
        try:
            check_sizes(record.arrays, [len(array) for array in arrays])
        except UpdateRefused as error:
            message = f"the separate file of the record {record.name!r} does not fit it: {error}"
            raise WorkFailed(message) from error
        data += arrays
    return data
