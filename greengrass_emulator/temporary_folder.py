"""Temporary folders with an owner, and their removal after the owner was killed.

The owner holds a lock on a file in its folder. The kernel releases the lock when the process ends, for any
reason: a folder whose lock is free is abandoned, even if another process has the former owner's process id.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from greengrass_emulator.emulator_errors import TemporaryFolderError

PREFIX = "greengrass-emulator-"
LOCK = "owner.lock"


class OwnedFolder:
    """A new temporary folder that belongs to this process until ``remove`` is called.

    Args:
        parent: where it is made; by default where temporary files are.
        prefix: the beginning of its name.
    """

    def __init__(self, parent: Path | None = None, prefix: str = PREFIX) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock = _lock_folder(self.path)

    def remove(self) -> None:
        """Remove the folder with its content; to be called once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


@contextmanager
def temporary_folder(
    least_free_bytes: int, report: Callable[[str], None], prefix: str = PREFIX
) -> Iterator[Path]:
    """Make a folder and remove it at the end; first remove those that killed processes of this user left.

    Args:
        least_free_bytes: the free space that is required.
        report: called with a line about what was removed.
        prefix: the beginning of the folder's name, and of the names of those that are looked for.

    Raises:
        TemporaryFolderError: the disk has too little free space.
    """
    parent = Path(tempfile.gettempdir())
    # A core makes a folder here if its path is too long for a socket.
    if abandoned := sorted({*remove_abandoned(parent, prefix), *remove_abandoned(parent)}):
        report(f"removed what a killed process had left: {', '.join(map(str, abandoned))}")
    free = shutil.disk_usage(parent).free
    if free < least_free_bytes:
        message = (
            f"{parent} has {free / 1e6:.0f} MB free, {least_free_bytes / 1e6:.0f} MB are needed for a while: "
            "free some, or set TMPDIR to another folder"
        )
        raise TemporaryFolderError(message)
    folder = OwnedFolder(prefix=prefix)
    try:
        yield folder.path
    finally:
        folder.remove()


def remove_abandoned(parent: Path, prefix: str = PREFIX) -> list[Path]:
    """Remove the folders in ``parent`` whose owner, a process of this user, is dead; return them."""
    return [folder for folder in sorted(parent.glob(f"{prefix}*")) if _is_own(folder) and _removed(folder)]


def _lock_folder(folder: Path) -> int:
    """Lock the folder; return the lock's descriptor, which no child process inherits."""
    unfinished = folder / f"{LOCK}.new"
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with suppress(OSError):  # a file system without locks: then the folder never counts as abandoned
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unfinished.rename(folder / LOCK)  # only now, so that no other process finds it unlocked
    return descriptor


def _is_own(folder: Path) -> bool:
    """Return whether it is a folder of this user, and not a link to one."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _removed(folder: Path) -> bool:
    """Remove a folder whose owner is dead; return whether it was abandoned and is gone."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # not an owned folder, or not yet locked, or just removed
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # its owner lives, or another process is removing it
        return False
    else:
        with suppress(OSError):  # the dead owner's children may still write for a moment: retried next time
            _remove_lock_last(folder)
        return not folder.exists()
    finally:
        os.close(descriptor)


def _remove_lock_last(folder: Path) -> None:
    """Remove a folder so that whatever cannot be removed now stays, with its lock, for the next attempt."""
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if [path.name for path in folder.iterdir()] == [LOCK]:
        shutil.rmtree(folder, ignore_errors=True)
