"""Which uploader brings updates to S3."""

from pathlib import Path

from components.trainer.configuration import Configuration
from components.trainer.ports import Uploader
from components.trainer.s3_upload_process import S3UploadProcess


class Uploaders:
    """The uploader that the configuration names, made on first use and then kept."""

    def __init__(self, folder: Path, configuration: Configuration) -> None:
        self._folder = folder
        self._configuration = configuration
        self._stream_manager: Uploader | None = None
        self._s3: S3UploadProcess | None = None
        self._s3_limit = 0

    def configure(self, configuration: Configuration) -> None:
        """Upload by another one from now on."""
        self._configuration = configuration

    def close(self) -> None:
        """Leave no process behind."""
        if self._s3:
            self._s3.close()

    def current(self) -> Uploader:
        """Return the uploader to use now."""
        if self._configuration.uploader == "s3":
            return self._of_s3(self._configuration.upload_bytes_per_second)
        self._stream_manager = self._stream_manager or self._of_stream_manager()
        return self._stream_manager

    def _of_stream_manager(self) -> Uploader:
        # Imported here: a device without Greengrass has no Stream Manager, nor its SDK.
        from components.trainer.stream_upload import StreamUploader  # noqa: PLC0415

        return StreamUploader(self._folder)

    def _of_s3(self, limit: int) -> Uploader:
        if self._s3 is None or limit != self._s3_limit:
            self._s3, self._s3_limit = S3UploadProcess(self._folder, limit), limit
        return self._s3
