"""Files of Stream Manager that are always whole, whenever the process or the machine dies."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from fedgrass.local.stream_protocol import without_none


def write_file(path: Path, content: object, *, sync: bool) -> None:
    """Write a JSON file that is always whole: the old one or the new one, whenever the process dies."""
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(msgspec.json.encode(without_none(content)))
        file.flush()
        if sync:
            os.fsync(file.fileno())
    beside.replace(path)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
