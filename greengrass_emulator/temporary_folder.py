"""Temporary folders with an owner, and what becomes of them when the owner is killed.

A folder's owner holds a lock on a file in it. The kernel lets go of the lock when the process dies, however
that comes: a folder whose lock is free belongs to nobody, even if another process has the dead one's number.
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

PREFIX = "fedgrass-"
LOCK = "owner.lock"


class OwnedFolder:
    """A new temporary folder that belongs to this process until ``remove`` is called.

    It lies where temporary files do, or in ``parent``.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        self._lock = _hold(self.path)

    def remove(self) -> None:
        """Remove the folder with all that is in it; to be called once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


@contextmanager
def temporary_folder(least_free_bytes: int, say: Callable[[str], None]) -> Iterator[Path]:
    """Make a folder and remove it at the end; before that, remove those that dead demos of this user left.

    Args:
        least_free_bytes: that the disk must have.
        say: told of what is removed.

    Raises:
        TemporaryFolderError: the disk has too little room, or no folder can be made there.
    """
    parent = Path(tempfile.gettempdir())
    if left := remove_abandoned(parent):
        say(f"removed what a killed demo had left: {', '.join(map(str, left))}")
    free = shutil.disk_usage(parent).free
    if free < least_free_bytes:
        message = (
            f"{parent} has {free / 1e6:.0f} MB free and the demo needs {least_free_bytes / 1e6:.0f} MB for a "
            "while: free some, or set TMPDIR to another folder"
        )
        raise TemporaryFolderError(message)
    folder = OwnedFolder()
    try:
        yield folder.path
    finally:
        folder.remove()


def remove_abandoned(parent: Path) -> list[Path]:
    """Remove the folders of this user's dead processes in ``parent``; return those that are gone."""
    return [folder for folder in sorted(parent.glob(f"{PREFIX}*")) if _is_own(folder) and _removed(folder)]


def _hold(folder: Path) -> int:
    """Lock the folder; return the lock's descriptor, which no child process inherits."""
    unfinished = folder / f"{LOCK}.new"
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with suppress(OSError):  # a file system without locks: then nobody takes the folder for an abandoned one
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unfinished.rename(folder / LOCK)  # only now, so that nobody finds it unlocked
    return descriptor


def _is_own(folder: Path) -> bool:
    """Return whether it is a folder, and no link to one, of this user."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _removed(folder: Path) -> bool:
    """Remove a folder whose owner is dead; return whether that was so, and it is gone."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # none of the demo's, or not yet locked, or removed at this moment
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # its owner lives, or another demo removes it at this moment
        return False
    else:
        with suppress(OSError):  # the dead demo's processes may still write for a moment: the next one tries
            _remove_lock_last(folder)
        return not folder.exists()
    finally:
        os.close(descriptor)


def _remove_lock_last(folder: Path) -> None:
    """Remove a folder so that what cannot be removed now, with its lock, is found again by the next demo."""
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if [path.name for path in folder.iterdir()] == [LOCK]:
        shutil.rmtree(folder, ignore_errors=True)
