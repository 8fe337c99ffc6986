"""A folder of files as the averager's bucket, for measurements: what is timed is then the averager alone."""

import os
from functools import cache
from pathlib import Path

from fedgrass.federation.weights import Layout, read_layout


class FileBucket:
    """The part of ``Bucket`` that an average needs, over the files of a folder."""

    lanes = 2
    range_bytes = 1024**2

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        self._open = cache(lambda key: os.open(self.path(key), os.O_RDONLY))

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self._folder / key.replace("/", "__")

    def read_into(self, key: str, start: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes from ``start`` on."""
        position = 0
        while position < target.nbytes:
            count = os.preadv(self._open(key), [target[position:]], start + position)
            if not count:
                message = f"{key} ends before byte {start + target.nbytes}"
                raise EOFError(message)
            position += count

    def read_layout(self, key: str) -> Layout:
        """Return the layout of a weights file."""
        head = bytearray(min(65536, self.path(key).stat().st_size))
        self.read_into(key, 0, memoryview(head))
        return read_layout(memoryview(head), self.path(key).stat().st_size)

    def create(self, key: str) -> "FileWriter":
        """Return a writer of a new file."""
        return FileWriter(self.path(key))


class FileWriter:
    """Writes one file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes."""
        self._file.write(data)

    def finish(self) -> None:
        """Close the file."""
        self._file.close()

    def abort(self) -> None:
        """Close the file and remove it."""
        self._file.close()
        Path(self._file.name).unlink()
