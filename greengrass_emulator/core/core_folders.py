"""The folders of a core: the runtime folder of control sockets, and root folders with plain paths.

Running cores are found by their control sockets, one per core, in a folder that only its owner can open.

Plain paths mean the same to all programs that read them: shells, PYTHONPATH, virtual environments, format
strings. A thing name may contain a colon, and a developer's folder a space, a dollar or a percent sign.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from greengrass_emulator.emulator_errors import ControlError, NameTakenError

LONGEST_SOCKET_PATH: Final = 100
"""Bytes. A Unix socket's address holds 107 on Linux and 103 on macOS."""
SUFFIX: Final = ".socket"
_THING_NAME: Final = re.compile(r"[A-Za-z0-9:_-]{1,128}")
_READABLE_CHARACTERS: Final = 24


def runtime_folder() -> Path:
    """The folder of the control sockets: below XDG_RUNTIME_DIR or, if that is not set, the temporary folder.

    It is there while a core runs. Raises ControlError if somebody else could put something into it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    top = Path(base) / "fedgrass" if base else Path(tempfile.gettempdir()) / f"fedgrass-{os.getuid()}"
    _refuse_if_others_may_write(top)
    return top


def _refuse_if_others_may_write(folder: Path) -> None:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise _unusable(folder, exc) from exc
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not is_own or status.st_mode & 0o077:
        message = f"{folder} is not a folder that only you can open: remove it, or set XDG_RUNTIME_DIR"
        raise ControlError(message)


def _unusable(folder: Path, error: OSError) -> ControlError:
    message = f"{folder}, for the control sockets of cores, cannot be made: {error.strerror}"
    return ControlError(f"{message}; set XDG_RUNTIME_DIR")


def socket_of(thing_name: str) -> Path:
    """The control socket of the core of that name, whether it runs or not. Raises ControlError."""
    if not _THING_NAME.fullmatch(thing_name):
        message = f"thing name {thing_name!r} has to be 1 to 128 letters, digits, - _ :"
        raise ControlError(message)
    # The name itself may be longer than the address of a socket.
    digest = hashlib.sha256(thing_name.encode()).hexdigest()[:12]
    path = runtime_folder() / f"{thing_name[:_READABLE_CHARACTERS]}-{digest}{SUFFIX}"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        message = f"{path} is too long for a socket: set XDG_RUNTIME_DIR to a shorter folder"
        raise ControlError(message)
    return path


def sockets() -> list[Path]:
    """The control sockets of all cores, stale ones among them. Raises ControlError."""
    return sorted(runtime_folder().glob(f"*{SUFFIX}"))


class Claim:
    """Holds a control socket's name for one process, until it lets go of it or dies.

    The lock is on a file beside the socket, which whoever holds it takes away at the end, and the folder with
    it if nothing else is there.
    """

    def __init__(self, path: Path) -> None:
        """Raises NameTakenError if another process holds it, ControlError if no folder can be made for it."""
        self._file = path.with_suffix(".lock")
        self._descriptor: int | None = None
        while self._descriptor is None:
            self._descriptor = self._try()

    def close(self) -> None:
        """Let go, and leave nothing behind. May be called again."""
        if self._descriptor is not None:
            self._file.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
            with suppress(OSError):  # others are in the folder
                self._file.parent.rmdir()

    def _try(self) -> int | None:
        """Return the file's descriptor once it is locked; None if another process has just removed it."""
        try:
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise _unusable(self._file.parent, exc) from exc
        _refuse_if_others_may_write(self._file.parent)
        try:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return None  # another process has just removed the folder
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock on a file that its former holder has removed meanwhile keeps nobody else out.
            current = self._file.stat().st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            current = False
        except OSError as exc:
            os.close(descriptor)
            message = (
                "a core of this name is running already: choose another --thing, or `fedgrass core stop`"
            )
            raise NameTakenError(message) from exc
        if current:
            return descriptor
        os.close(descriptor)
        return None

    def __enter__(self) -> Self:
        """Hold it for the length of a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go."""
        self.close()


def remove_stale(path: Path) -> bool:
    """Remove the socket of a core that has died; returns whether it was one."""
    try:
        with Claim(path):
            path.unlink(missing_ok=True)
    except ControlError:
        return False
    return True


_PLAIN: Final = re.compile(r"[A-Za-z0-9/._+@=,-]*")


def folder_name(thing_name: str) -> str:
    """Return a thing's name as the name of a folder: a colon would separate two paths in PYTHONPATH.

    No two things have one folder, since `+` is no character of a thing's name.
    """
    return thing_name.replace(":", "+")


def is_plain(path: Path) -> bool:
    """Whether nothing takes a character of `path` for more than itself."""
    return _PLAIN.fullmatch(str(path)) is not None


class PlainRoot:
    """A core's folder under a path that is plain: its own or, where that is not, a link to it.

    Args:
        root: the folder, absolute.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._link: Path | None = None
        self.path = root
        """What components are to use, from `make` to `remove`."""

    def make(self) -> None:
        """Make the link, if there has to be one. Raises ControlError or OSError if it cannot be made."""
        if is_plain(self._root):
            return
        usual = runtime_folder()
        top = usual if is_plain(usual) else Path(f"/tmp/fedgrass-{os.getuid()}")  # noqa: S108 - 0700, as below
        top.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The same path at each start: what components keep, such as virtual environments, may hold it.
        link = top / f"core-{hashlib.sha256(os.fsencode(self._root)).hexdigest()[:12]}"
        link.unlink(missing_ok=True)
        link.symlink_to(self._root)
        self._link = self.path = link

    def remove(self) -> None:
        """Remove the link. May be called again."""
        if self._link is not None:
            self._link.unlink(missing_ok=True)
            with suppress(OSError):  # others are in it
                self._link.parent.rmdir()
            self._link, self.path = None, self._root
