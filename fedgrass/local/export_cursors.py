"""How far the exports of one stream have come."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from fedgrass.local.stream_files import write_file
from fedgrass.local.stream_protocol import ProtocolMap

_EXPORTS_FILE: Final = "exports.json"

_log = logging.getLogger(__name__)


class ExportCursor(ProtocolMap, frozen=True):
    """How far an export has come; -1 before its first message. Times are milliseconds since 1970."""

    last_exported_sequence_number: int = -1
    last_export_time: int | None = None
    error_message: str | None = None
    exported_bytes_from_stream: int = 0
    exported_messages_count: int = 0


class ExportCursors:
    """The cursors by export identifier; kept in the stream's folder, or only in memory if that is None.

    Whoever calls from several threads takes turns.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / _EXPORTS_FILE if folder else None
        self._cursors = _read_cursors(self._file) if self._file and self._file.exists() else {}

    @property
    def exported(self) -> int:
        """The first sequence number that no export has handled."""
        return max((one.last_exported_sequence_number + 1 for one in self._cursors.values()), default=0)

    def get(self, export: str) -> ExportCursor:
        """How far an export has come."""
        return self._cursors.get(export, ExportCursor())

    def save(self, export: str, cursor: ExportCursor, *, sync: bool) -> None:
        """Remember how far an export has come; with `sync` it is on the disk when this returns."""
        self._cursors[export] = cursor
        self._write(sync=sync)

    def keep(self, exports: Collection[str]) -> None:
        """Forget the cursors of all other exports."""
        kept = {name: cursor for name, cursor in self._cursors.items() if name in exports}
        if kept.keys() != self._cursors.keys():
            self._cursors = kept
            self._write(sync=True)

    def _write(self, *, sync: bool) -> None:
        if self._file:
            write_file(self._file, self._cursors, sync=sync)


# Made here: msgspec 0.22 crashes if several threads are the first to use a type.
_CURSORS_DECODER = msgspec.json.Decoder(dict[str, ExportCursor])


def _read_cursors(path: Path) -> dict[str, ExportCursor]:
    try:
        return _CURSORS_DECODER.decode(path.read_bytes())
    except msgspec.DecodeError as exc:
        # Written without fsync it can be lost to a power cut. Exporting again is safe, not starting is not.
        _log.warning("%s cannot be read, the stream is exported again: %s", path, exc)
        return {}
