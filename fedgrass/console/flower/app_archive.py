"""The files of an app and the command line of its run, as one zip in the bucket.

    call.json    {"words": [...]}: the words after ``fedgrass flower run APP_DIR`` that the operator gave
    app/...      the files of the app

The zip is written by ``fedgrass flower run --detach`` and read by ``fedgrass flower serve`` in the container.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import msgspec
from msgspec import Struct

from fedgrass.federation.errors import SettingsError

LARGEST_ARCHIVE = 256 * 1024**2  # bytes
LARGEST_APP = 1024**3  # bytes of the unpacked files, which the volume of a container has to hold
_CALL, _APP = "call.json", "app/"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time in a zip: the same files give the same bytes


class Call(Struct, frozen=True, kw_only=True):
    """The command line of a run, without the folder of the app."""

    words: list[str]


# Created at import, not on first use: see fedgrass/federation/messages/message_codec.py.
_DECODER = msgspec.json.Decoder(Call)


def pack(files: Mapping[str, Path], words: Sequence[str]) -> bytes:
    """Return the zip of an app. The same files and words give the same bytes.

    Args:
        files: of the app, by their names below its folder.
        words: of the command line, without the folder of the app.

    Raises:
        SettingsError: the zip is too large.
    """
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, _CALL, msgspec.json.encode(Call(words=list(words))))
        for name, path in sorted(files.items()):
            _add(archive, _APP + name, path.read_bytes())
    if target.tell() > LARGEST_ARCHIVE:
        largest = max(files.values(), key=lambda path: path.stat().st_size)
        message = (
            f"the app's files have {target.tell():,} bytes as a zip, the largest {largest}, and at most"
            f" {LARGEST_ARCHIVE:,} are sent: leave data out by the .gitignore of the app"
        )
        raise SettingsError(message)
    return target.getvalue()


def unpack(data: bytes, folder: Path) -> list[str]:
    """Write the files of an app below ``folder``, and return the words of its command line.

    Raises:
        SettingsError: the zip is damaged, is none of ``pack``, or has a file outside the app's folder.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check(entries)
            words = _DECODER.decode(archive.read(_CALL)).words
            for entry in entries:
                if entry.filename != _CALL:
                    path = folder / entry.filename.removeprefix(_APP)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(entry))
    except (zipfile.BadZipFile, KeyError, msgspec.MsgspecError, NotImplementedError, EOFError) as error:
        message = f"the archive of the app cannot be read: {error}"
        raise SettingsError(message) from error
    return words


def _check(entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse names that leave the folder, and more bytes than an app may have."""
    for entry in entries:
        path = PurePosixPath(entry.filename)
        inside = entry.filename.startswith(_APP) and ".." not in path.parts and not entry.is_dir()
        if not inside and entry.filename != _CALL:
            message = f"the archive of the app has {entry.filename!r}, which does not belong to it"
            raise SettingsError(message)
    if sum(entry.file_size for entry in entries) > LARGEST_APP:
        message = f"the archive of the app unpacks to more than {LARGEST_APP:,} bytes"
        raise SettingsError(message)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)
