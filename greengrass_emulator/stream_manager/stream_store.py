"""All streams of one Stream Manager, in one folder; they survive a restart of the server."""

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from greengrass_emulator.faults.fault_state import Faults
from greengrass_emulator.stream_manager.stream_files import sync_folder, write_file
from greengrass_emulator.stream_manager.stream_messages import DEFINITION_FILE, Stream, not_found
from greengrass_emulator.stream_manager.stream_protocol import (
    Persistence,
    ResponseStatus,
    StreamDefinition,
    StreamManagerError,
)

_READABLE_CHARACTERS = 40
_UNFINISHED = "."
_UNSERVED_EXPORTS = ("http", "iot_analytics", "kinesis", "iot_sitewise")

# Built at import: msgspec 0.22 crashes if several threads are the first to use a type.
_DEFINITION_DECODER = msgspec.json.Decoder(StreamDefinition)


class StreamStore:
    """Creates, finds and deletes streams. Thread-safe."""

    def __init__(
        self,
        root: Path,
        on_change: Callable[[str], None],
        now: Callable[[], float] = time.time,
        faults: Faults | None = None,
    ) -> None:
        """Open or create the folder.

        Args:
            root: the folder.
            on_change: called with the name of each stream that changes.
            now: returns seconds since 1970.
            faults: those of the core.

        Raises:
            StreamManagerError: another Stream Manager uses the folder, or a definition cannot be read.
        """
        self._on_change = on_change
        self._now = now
        self._faults = faults or Faults()
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._streams: dict[str, Stream] = {}
        self._guard: int | None = _lock(root)
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def names(self) -> list[str]:
        """Return the names of all streams, sorted."""
        return sorted(self._streams)

    def get(self, name: str) -> Stream:
        """Return a stream. Raises StreamManagerError if there is none of this name."""
        stream = self._streams.get(name)
        if stream is None:
            raise not_found(name)
        return stream

    def create(self, definition: StreamDefinition) -> None:
        """Create a stream."""
        if definition.name in self._streams:
            message = f"Stream {definition.name!r} already exists: update it, or delete it first."
            raise StreamManagerError(ResponseStatus.INVALID_REQUEST, message)
        self._check(definition)
        folder = self._root / _folder_name(definition.name)
        if definition.persistence is not Persistence.MEMORY:
            self._check_disk(definition.name)
            unfinished = folder.with_name(_UNFINISHED + folder.name)
            # A full disk may have left it unfinished.
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(mode=0o700)
            write_file(unfinished / DEFINITION_FILE, definition, sync=True)
            unfinished.rename(folder)
            sync_folder(self._root)
        self._streams[definition.name] = Stream(folder, definition, self._now, self._faults.check_disk)

    def check_update(self, definition: StreamDefinition) -> None:
        """Raise StreamManagerError if a stream cannot change to this definition, by AWS's guide."""
        stream = self.get(definition.name)
        self._check(definition)
        if (definition.persistence or Persistence.FILE) != (
            stream.definition.persistence or Persistence.FILE
        ):
            message = f"The persistence of stream {stream.name!r} cannot change: delete and create it again."
            raise StreamManagerError(ResponseStatus.UPDATE_NOT_ALLOWED, message)
        if definition.max_size < stream.total_bytes:
            message = (
                f"Stream {stream.name!r} holds {stream.total_bytes} bytes, more than the new maxSize of "
            )
            raise StreamManagerError(ResponseStatus.INVALID_REQUEST, f"{message}{definition.max_size}.")

    def update(self, definition: StreamDefinition) -> None:
        """Replace a stream's definition. Raises StreamManagerError, see ``check_update``."""
        self.check_update(definition)
        self.get(definition.name).update(definition)
        self._on_change(definition.name)

    def delete(self, name: str) -> None:
        """Remove a stream with all its messages."""
        stream = self.get(name)
        stream.close()
        del self._streams[name]
        folder = self._root / _folder_name(name)
        if folder.exists():
            unfinished = folder.with_name(_UNFINISHED + folder.name)
            folder.rename(
                unfinished
            )  # first, so that a crash while files are removed leaves no partial stream
            shutil.rmtree(unfinished)
        self._on_change(name)

    def append(self, name: str, payload: bytes) -> int:
        """Append a message to a stream and return its sequence number."""
        number = self.get(name).append(payload)
        self._on_change(name)
        return number

    def close(self) -> None:
        """Close all files and refuse further requests. May be called again."""
        for stream in self._streams.values():
            stream.close()
        if self._guard is not None:
            os.close(self._guard)
            self._guard = None

    def _load(self) -> None:
        for folder in sorted(path for path in self._root.iterdir() if path.is_dir()):
            if folder.name.startswith(_UNFINISHED):
                shutil.rmtree(folder)
                continue
            definition = _read_definition(folder / DEFINITION_FILE)
            self._streams[definition.name] = Stream(folder, definition, self._now, self._faults.check_disk)

    def _check_disk(self, name: str) -> None:
        try:
            self._faults.check_disk()
        except OSError as error:
            message = f"Stream {name!r} cannot be written: {error}"
            raise StreamManagerError(ResponseStatus.UNKNOWN_FAILURE, message) from error

    def _check(self, definition: StreamDefinition) -> None:
        problem = _problem(definition)
        for export in definition.s3_exports().values():
            status_stream = export.status_config.status_stream_name if export.status_config else None
            if status_stream is not None and status_stream not in self._streams:
                problem = (
                    f"export {export.identifier!r} needs status stream {status_stream!r}: create that first"
                )
        if problem:
            message = f"Stream {definition.name!r}: {problem}."
            raise StreamManagerError(ResponseStatus.INVALID_REQUEST, message)


def _problem(definition: StreamDefinition) -> str | None:
    """Return the problem of a definition whose fields are individually valid, or None."""
    if definition.stream_segment_size > definition.max_size:
        return f"streamSegmentSize {definition.stream_segment_size} is above maxSize {definition.max_size}"
    exports = definition.export_definition
    if exports is None:
        return None
    unserved = [kind for kind in _UNSERVED_EXPORTS if getattr(exports, kind)]
    if unserved:
        return f"this Stream Manager exports to S3 only, not to {', '.join(unserved)}"
    if len(definition.s3_exports()) != len(exports.s3_task_executor or ()):
        return "two exports have the same identifier"
    return None


def _lock(root: Path) -> int:
    """Lock the folder until the returned file descriptor is closed."""
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        message = f"{root} is used by another Stream Manager: stop it, or choose another folder."
        raise StreamManagerError(ResponseStatus.UNKNOWN_FAILURE, message) from error
    return descriptor


def _read_definition(path: Path) -> StreamDefinition:
    try:
        return _DEFINITION_DECODER.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        message = (
            f"{path} cannot be read ({error}): repair it, or delete {path.parent} and lose its messages."
        )
        raise StreamManagerError(ResponseStatus.UNKNOWN_FAILURE, message) from error


def _folder_name(name: str) -> str:
    """Return a folder name for a stream, whose name may be `..` or too long for a file name."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:_READABLE_CHARACTERS]
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
