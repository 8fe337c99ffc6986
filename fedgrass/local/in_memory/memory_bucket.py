"""The bucket in memory: objects with versions, read in ranges."""

import threading

import numpy as np

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import Layout, checksum, read_layout


class MemoryBucket:
    """The ``Bucket`` as a dictionary; ``largest_read`` is the size of the largest read."""

    def __init__(self, name: str = "bucket") -> None:
        self.name = name
        self.lanes = 2
        self.range_bytes = 64 * 1024
        self.objects: dict[str, bytes] = {}
        self.largest_read = 0
        self.targets: set[int] = set()  # addresses of the buffers passed to ``read_into``
        self.unreadable: dict[str, str] = {}  # keys of objects that cannot be read, and the error messages
        self._versions: dict[
            str, tuple[bytes, int]
        ] = {}  # the object that was read last, and its version number
        self._lock = threading.Lock()

    def _given(self, key: str) -> bytes:
        """Return an object, unless it is among the unreadable ones."""
        data = self.objects[key]
        if key in self.unreadable:
            message = f"object {key} cannot be read, S3 answers {self.unreadable[key]}"
            raise UpdateRefused(message)
        return data

    def _version(self, key: str, data: bytes) -> str:
        """Return the version of an object; each written object has another one."""
        with self._lock:
            last, number = self._versions.get(key, (None, 0))
            if last is not data:
                number += 1
                self._versions[key] = (data, number)
            return str(number)

    def read(self, key: str, largest: int) -> bytes:
        data = self._given(key)
        if len(data) > largest:
            message = f"object {key} has {len(data)} bytes; {largest} is the most it may have"
            raise UpdateRefused(message)
        self.largest_read = max(self.largest_read, len(data))
        return data

    def read_into(self, key: str, start: int, target: memoryview, version: str = "") -> str:
        if not target.nbytes:
            return version
        data = self._given(key)
        found = self._version(key, data)
        if version not in {"", found}:
            message = f"object {key} was replaced while it was read"
            raise UpdateRefused(message)
        piece = data[start : start + target.nbytes]
        self.largest_read = max(self.largest_read, len(piece))
        if len(piece) < target.nbytes:
            message = f"object {key} is empty, or shorter than it should be"
            raise UpdateRefused(message)
        target.cast("B")[:] = piece
        self.targets.add(np.frombuffer(target, np.uint8).ctypes.data)
        return found

    def remove(self, key: str) -> None:
        """Remove an object, if it exists, as a lifecycle rule does."""
        with self._lock:
            self.objects.pop(key, None)
            self._versions.pop(key, None)

    def exists(self, key: str) -> bool:
        return key in self.objects

    def create(self, key: str) -> "MemoryWriter":
        return MemoryWriter(self, key)

    def copy_once(self, source: str, target: str) -> bool:
        with self._lock:
            data = self.objects[source]
            if target in self.objects:
                return False
            self.objects[target] = data
            return True

    def read_layout(self, key: str) -> Layout:
        data = self._given(key)
        return read_layout(data, len(data))

    def write(self, key: str, data: bytes) -> None:
        self.objects[key] = bytes(bytearray(data))  # a copy is a separate version

    def write_once(self, key: str, data: bytes) -> bytes:
        with self._lock:
            return self.objects.setdefault(key, bytes(data))

    def read_version(self, key: str, largest: int) -> tuple[bytes, str]:
        data = self.read(key, largest)
        return data, checksum(data)

    def write_over(self, key: str, data: bytes | bytearray, version: str | None) -> bool:
        with self._lock:
            there = self.objects.get(key)
            if version != (None if there is None else checksum(there)):
                return False
            self.objects[key] = bytes(data)
            return True


class MemoryWriter:
    """The ``ObjectWriter`` that holds the written bytes until it is finished."""

    def __init__(self, bucket: MemoryBucket, key: str) -> None:
        self._bucket = bucket
        self._key = key
        self._written = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._written += data

    def finish(self) -> None:
        self._bucket.write(self._key, bytes(self._written))

    def abort(self) -> None:
        self._written.clear()
