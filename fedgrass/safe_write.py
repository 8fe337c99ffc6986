"""Write a file so that its path never names half of it, even if the process or the machine stops."""

import os
from pathlib import Path

_PUBLIC = 0o666  # minus the umask, like open()


def write_atomically(path: Path, content: bytes, *, mode: int = _PUBLIC) -> None:
    """Write a temporary file in the same folder, flush it to the disk, and rename it to ``path``.

    Args:
        path: the file; an existing one is replaced.
        content: all of its bytes.
        mode: permissions of the new file, before the umask.

    Raises:
        OSError: the file cannot be written; ``path`` is unchanged and the temporary file is removed.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        unfinished.unlink(missing_ok=True)  # left by a killed process, possibly with other permissions
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, so that a rename survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
