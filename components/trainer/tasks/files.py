"""Finding and reading the files of published data sets, with errors that say where they are to be had."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

from components.trainer.errors import ConfigurationError


@dataclass(frozen=True)
class Publication:
    """A published data set, and the folder on this device in which its files are.

    Args:
        task: the name of the task that reads it.
        title: what people call the data.
        address: where the files are published.
        folder: the value of the task's option ``folder``.
    """

    task: str
    title: str
    address: str
    folder: str

    def find(self, *names: str) -> Path:
        """Return the first file of these names that is there, as it is or packed by gzip.

        Raises:
            ConfigurationError: none is; the text says what was looked for, where, and where it is published.
        """
        for name in names:
            for path in (self.path / name, self.path / f"{name}.gz"):
                if path.is_file():
                    return path
        message = f"task {self.task!r} finds no {names[0]} (or {names[0]}.gz) in {self.path}: {self._way_out}"
        raise ConfigurationError(message)

    @property
    def path(self) -> Path:
        """The folder.

        Raises:
            ConfigurationError: the option is empty, or there is no such folder.
        """
        if not self.folder:
            message = (
                f"task {self.task!r} needs the option `folder`, the folder of {self.title}: {self._way_out}"
            )
            raise ConfigurationError(message)
        path = Path(self.folder)
        if not path.is_dir():
            message = f"task {self.task!r} has the folder {self.folder}, which is not there: {self._way_out}"
            raise ConfigurationError(message)
        return path

    def read(self, path: Path) -> bytes:
        """Return a file's content, unpacked.

        Raises:
            ConfigurationError: it cannot be read or is damaged.
        """
        try:
            data = path.read_bytes()
            return gzip.decompress(data) if path.suffix == ".gz" else data
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self.damaged(path, str(error)) from error
        except OSError as error:
            message = f"task {self.task!r} cannot read {path}: {error.strerror}"
            raise ConfigurationError(message) from error

    def damaged(self, path: Path, how: str) -> ConfigurationError:
        """Return the error for a file that is not what was published."""
        return ConfigurationError(f"task {self.task!r} cannot use {path}, {how}: {self._way_out}")

    @property
    def _way_out(self) -> str:
        return f"download {self.title} from {self.address}"
