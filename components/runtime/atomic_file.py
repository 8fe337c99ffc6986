"""Atomic writes: a crash leaves the old file or the new one, never part of one, and never neither.

The data goes to a temporary file in the same folder, is flushed to the disk, and gets its name by a rename,
which is flushed to the disk as well: without that, a power cut could undo it. The steps are separate
functions for files that are complete long before they get their name, such as updates. Virtual devices, whose
files are not needed after a power cut, write them ``without_flushes``.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

T = TypeVar("T")
_PUBLIC = 0o666  # minus the umask, like open()
_ALWAYS = True
_flushes: ContextVar[bool] = ContextVar("flushes")


@contextmanager
def without_flushes() -> Iterator[None]:
    """Within this context, write files as before, but do not wait until they are on the disk."""
    token = _flushes.set(False)
    try:
        yield
    finally:
        _flushes.reset(token)


def flush_to_disk(file: int) -> None:
    """Wait until a file, given by its descriptor, is on the disk, unless within ``without_flushes``."""
    if _flushes.get(_ALWAYS):
        os.fsync(file)


def unfinished(path: Path) -> Path:
    """Return the temporary name under which the file ``path`` is written; one process writes it."""
    return path.with_name(path.name + ".unfinished")


def write_atomically(path: Path, data: bytes, *, mode: int = _PUBLIC) -> None:
    """Create or replace the file ``path`` with ``data``.

    Args:
        path: the file.
        data: all of its bytes.
        mode: permissions of the new file, before the umask.

    Raises:
        OSError: it could not be written; the former file, if there was one, is unchanged.
    """
    write_unfinished(path, lambda file: file.write(data), mode=mode)
    publish_file(unfinished(path), path)


def write_unfinished(path: Path, write: Callable[[BinaryIO], T], *, mode: int = _PUBLIC) -> T:
    """Write the temporary file of ``path`` and flush it to the disk; return what ``write`` returned.

    Raises:
        OSError: it could not be written; the temporary file is removed.
    """
    temporary = unfinished(path)
    try:
        with _create(temporary, mode) as file:
            written = write(file)
            file.flush()
            flush_to_disk(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)  # a full disk gets its space back
        raise
    return written


def _create(path: Path, mode: int) -> BinaryIO:
    try:
        return open(path, "xb", opener=partial(os.open, mode=mode))
    except FileExistsError:
        path.unlink()  # left by a killed process, possibly with other permissions
        return _create(path, mode)


def publish_file(source: Path, target: Path) -> None:
    """Rename ``source``, which is complete and flushed, to ``target``; replace what was there.

    Both are on one file system.
    """
    source.replace(target)
    if not _flushes.get(_ALWAYS):
        return
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        flush_to_disk(folder)
    finally:
        os.close(folder)
