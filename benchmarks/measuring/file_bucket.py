"""A folder of files as the averager's bucket, so that a benchmark times only the averager."""

import os
from functools import cache
from pathlib import Path

from fedgrass.federation.weights import Layout, read_layout


class FileBucket:
    """The part of the port ``Bucket`` that an aggregation uses, over the files of a folder."""

    lanes = 2
    range_bytes = 1024**2

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        self._open = cache(lambda key: os.open(self.path(key), os.O_RDONLY))

    def path(self, key: str) -> Path:
        """Return the path of a key's file."""
        return self._folder / key.replace("/", "__")

    def read_into(self, key: str, start: int, target: memoryview, version: str = "") -> str:
        """Fill ``target`` with the bytes from ``start``; return a constant version: files do not change."""
        while count := os.preadv(self._open(key), [target], start):
            if count == target.nbytes:
                return "the only one"
            target, start = target[count:], start + count
        if target.nbytes:
            message = f"{key} ends before byte {start + target.nbytes}"
            raise EOFError(message)
        return version

    def read_layout(self, key: str) -> Layout:
        """Return the layout of a weights file."""
        head = bytearray(min(65536, self.path(key).stat().st_size))
        self.read_into(key, 0, memoryview(head))
        return read_layout(memoryview(head), self.path(key).stat().st_size)

    def create(self, key: str) -> "FileWriter":
        """Return a writer of a new file."""
        return FileWriter(self.path(key))


class FileWriter:
    """Writes one file, in place if it exists.

    The file is not truncated first: then its pages are reused, and closing it does not write to the disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb")

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes."""
        self._file.write(data)

    def finish(self) -> None:
        """Truncate the file after the last byte written, and close it."""
        self._file.truncate()
        self._file.close()

    def abort(self) -> None:
        """Close the file and remove it."""
        self._file.close()
        self._path.unlink()
