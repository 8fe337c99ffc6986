"""A folder in the place of S3, for a core with no cloud: an export becomes <folder>/<bucket>/<key>."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

_PIECE_BYTES: Final = 256 * 1024


class S3Folder:
    """What Stream Manager's exports need of an S3 client."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def upload_fileobj(  # noqa: PLR0913, PLR0917 - boto3's own signature
        self,
        Fileobj: IO[bytes],  # noqa: N803
        Bucket: str,  # noqa: N803
        Key: str,  # noqa: N803
        ExtraArgs: dict[str, Any] | None = None,  # noqa: ARG002, N803 - files have no metadata of users
        Callback: Callable[[int], None] | None = None,  # noqa: N803
        Config: object = None,  # noqa: ARG002, N803
    ) -> None:
        """Copy a file; it is there whole or not at all.

        Raises PermissionError for a key that leads out of its bucket, which S3 would take.
        """
        bucket = (self._folder / Bucket).resolve()
        target = (bucket / Key.lstrip("/")).resolve()
        if not target.is_relative_to(bucket) or target == bucket:
            message = f"key {Key!r} leads out of bucket {Bucket}, which is a folder here"
            raise PermissionError(message)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.unfinished")
        try:
            with unfinished.open("wb") as copy:
                while piece := Fileobj.read(_PIECE_BYTES):
                    copy.write(piece)
                    if Callback is not None:
                        Callback(len(piece))
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is open between two uploads."""
