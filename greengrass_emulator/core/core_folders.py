"""The folders of a core: the runtime folder of control sockets, and root folders with plain paths.

Running cores are found by their control sockets, one per core, in a folder that only its owner can open.

A plain path has no characters with a special meaning in shells, PYTHONPATH, virtual environments or format
strings. A thing name may contain a colon, and a developer's folder a space, a dollar or a percent sign.
"""

import fcntl
import hashlib
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

from greengrass_emulator.emulator_errors import ControlError, NameTakenError

LONGEST_SOCKET_PATH = 100
"""Bytes. A Unix socket's address holds 107 on Linux and 103 on macOS."""
_NAME = "greengrass-emulator"
_SUFFIX = ".socket"
_THING_NAME = re.compile(r"[A-Za-z0-9:_-]{1,128}")
_READABLE_CHARACTERS = 24

_PLAIN = re.compile(r"[A-Za-z0-9/._+@=,-]*")


def runtime_folder() -> Path:
    """Return the folder of the control sockets: below XDG_RUNTIME_DIR or, if unset, the temporary folder.

    It exists while a core runs.

    Raises:
        ControlError: another user can write to it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    top = Path(base) / _NAME if base else Path(tempfile.gettempdir()) / f"{_NAME}-{os.getuid()}"
    _refuse_if_others_may_write(top)
    return top


def _refuse_if_others_may_write(folder: Path) -> None:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(folder, error) from error
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not is_own or status.st_mode & 0o077:
        message = f"{folder} is not a folder that only you can open: remove it, or set XDG_RUNTIME_DIR"
        raise ControlError(message)


def _unusable(folder: Path, error: OSError) -> ControlError:
    message = f"{folder}, for the control sockets of cores, cannot be created: {error.strerror}"
    return ControlError(f"{message}; set XDG_RUNTIME_DIR")


def socket_of(thing_name: str) -> Path:
    """Return the path of a core's control socket, whether or not the core runs.

    Raises:
        ControlError: the thing name is not valid, or the path is too long for a socket.
    """
    if not _THING_NAME.fullmatch(thing_name):
        message = f"thing name {thing_name!r} must be 1 to 128 letters, digits, - _ :"
        raise ControlError(message)
    # A thing name may be longer than a socket's address.
    digest = hashlib.sha256(thing_name.encode()).hexdigest()[:12]
    path = runtime_folder() / f"{thing_name[:_READABLE_CHARACTERS]}-{digest}{_SUFFIX}"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        message = f"{path} is too long for a socket: set XDG_RUNTIME_DIR to a shorter folder"
        raise ControlError(message)
    return path


def sockets() -> list[Path]:
    """Return the control sockets of all cores, including stale ones. Raises ControlError."""
    return sorted(runtime_folder().glob(f"*{_SUFFIX}"))


class Claim:
    """Holds a control socket's name for one process until it is closed or the process dies.

    The lock is on a file next to the socket. Its holder removes the file at the end, and the folder if it is
    empty then.
    """

    def __init__(self, path: Path) -> None:
        """Raise NameTakenError if another process holds it, ControlError if the folder cannot be created."""
        self._file = path.with_suffix(".lock")
        self._descriptor: int | None = None
        while self._descriptor is None:
            self._descriptor = self._try()

    def close(self) -> None:
        """Release the name and remove the lock file. May be called again."""
        if self._descriptor is not None:
            self._file.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
            with suppress(OSError):  # it is not empty
                self._file.parent.rmdir()

    def _try(self) -> int | None:
        """Return the file's descriptor once it is locked; None if another process has just removed it."""
        try:
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _unusable(self._file.parent, error) from error
        _refuse_if_others_may_write(self._file.parent)
        try:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return None  # another process has just removed the folder
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock on a file that its former holder has since removed excludes no other process.
            current = self._file.stat().st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            current = False
        except OSError as error:
            os.close(descriptor)
            message = "a core of this name is already running: choose another --thing, or stop that one"
            raise NameTakenError(message) from error
        if current:
            return descriptor
        os.close(descriptor)
        return None

    def __enter__(self) -> Self:
        """Return the claim, held until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the name."""
        self.close()


def remove_stale(path: Path) -> bool:
    """Remove the socket of a core that has died; return whether it was one."""
    try:
        with Claim(path):
            path.unlink(missing_ok=True)
    except ControlError:
        return False
    return True


def folder_name(thing_name: str) -> str:
    """Return a folder name for a thing: a colon would separate two paths in PYTHONPATH.

    No two things share a folder, since a thing name cannot contain ``+``.
    """
    return thing_name.replace(":", "+")


def is_plain(path: Path) -> bool:
    """Return whether no program gives a character of ``path`` a special meaning."""
    return _PLAIN.fullmatch(str(path)) is not None


class PlainRoot:
    """A core's folder under a plain path: its own or, if that is not plain, a link to it.

    Args:
        root: the absolute path of the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._link: Path | None = None
        self.path = root
        """The path for components, valid from ``make`` to ``remove``."""

    def make(self) -> None:
        """Make the link if one is needed. Raises ControlError or OSError if it cannot be made."""
        if is_plain(self._root):
            return
        usual = runtime_folder()
        top = usual if is_plain(usual) else Path(f"/tmp/{_NAME}-{os.getuid()}")  # noqa: S108 - 0700, as below
        top.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The same path at each start: files of components, such as virtual environments, may contain it.
        link = top / f"core-{hashlib.sha256(os.fsencode(self._root)).hexdigest()[:12]}"
        link.unlink(missing_ok=True)
        link.symlink_to(self._root)
        self._link = self.path = link

    def remove(self) -> None:
        """Remove the link. May be called again."""
        if self._link is not None:
            self._link.unlink(missing_ok=True)
            with suppress(OSError):  # it is not empty
                self._link.parent.rmdir()
            self._link, self.path = None, self._root
