"""The folder of a grid: one file per finished simulation, so that an interrupted grid continues.

A file is named by the identity of its simulation and replaced atomically: a crash leaves whole files only,
and a changed grid finds those of equal cells.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from components.runtime.atomic_file import write_atomically
from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.grids.cell_work import CellOutcome

_CELLS = "cells"
_LOCK = "grid.lock"
_SOURCE = "grid.source"  # the path of the grid's file: which grid the folder belongs to
_PROBE = "probe"


class CellStore:
    """The results of a grid.

    Args:
        folder: OUT/<name of the grid>.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cells = folder / _CELLS

    @contextmanager
    def opened(self, source: Path, ids: Iterable[str]) -> Iterator[None]:
        """Create the folder, check that it can be written, and lock it against a second process.

        Args:
            source: the file of the grid.
            ids: its simulations.

        Raises:
            SettingsError: it cannot be written, is in use, or has the results of another grid.
        """
        with self._naming_errors(self.folder):
            self._cells.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = (
                    f"{self.folder} is in use by another `fedgrass simulate --grid`: wait for it, or give"
                    " another --out"
                )
                raise SettingsError(message) from error
            self._claim(source.resolve(), ids)
            yield
        finally:
            os.close(descriptor)  # unlocks

    def _claim(self, source: Path, ids: Iterable[str]) -> None:
        marker = self.folder / _SOURCE
        with self._naming_errors(self.folder):
            owner = marker.read_text(encoding="utf-8").strip() if marker.exists() else ""
            if owner and owner != str(source) and not any(self._path(each).exists() for each in ids):
                message = (
                    f"{self.folder} has the results of another grid, {owner}, and none of {source}: give"
                    " another --out, or remove the folder"
                )
                raise SettingsError(message)
            write_atomically(marker, f"{source}\n".encode())
            write_atomically(self._cells / _PROBE, b"0" * 4096)  # a full disk is found before hours of work
            (self._cells / _PROBE).unlink()

    def read(self, identity: str) -> CellOutcome | None:
        """Return the outcome of a simulation; None if there is none, or its file is damaged or failed."""
        try:
            content = self._path(identity).read_bytes()
        except OSError:
            return None
        try:
            outcome = msgspec.json.decode(content, type=CellOutcome)
        except msgspec.MsgspecError:
            return None  # of another version, or edited: it is computed again
        return outcome if outcome.id == identity else None

    def write(self, outcome: CellOutcome) -> None:
        """Store an outcome. Raises SettingsError if the folder cannot be written any more."""
        content = msgspec.json.format(msgspec.json.encode(outcome), indent=1)
        self.write_file(f"{_CELLS}/{outcome.id}.json", content)

    def write_file(self, name: str, content: bytes) -> Path:
        """Write a file of the grid's folder; return its path. Raises SettingsError if that fails."""
        path = self.folder / name
        with self._naming_errors(path):
            write_atomically(path, content)
        return path

    def _path(self, identity: str) -> Path:
        return self._cells / f"{identity}.json"

    @contextmanager
    def _naming_errors(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = (
                f"{path} cannot be written: {error.strerror}; make room or give another --out (what is"
                " done is kept, and the same command continues with the rest)"
            )
            raise SettingsError(message) from error
