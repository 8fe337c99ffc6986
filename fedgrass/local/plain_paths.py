"""Paths that mean the same to everything that reads them: shells, PYTHONPATH, virtual environments, formats.

A thing's name may have a colon, and a developer's folder a space, a dollar or a percent sign.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from fedgrass.local.runtime_folder import runtime_folder

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
