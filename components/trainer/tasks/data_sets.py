"""Data sets of the built-in tasks: their published files, and two tensors of which the device has a share."""

import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.runtime.component_errors import ConfigurationError
from components.trainer.training import TorchTask, TrainingSettings


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


class PartitionedTask(TorchTask):
    """Trains on a share of a data set, and can judge the global model on what no device trains on.

    Args:
        make_model: as of ``TorchTask``.
        examples: inputs and targets of all devices.
        places: which of them are this device's, in a random order.
        local_held_out: the part of the share, 0 to 1, that the device evaluates on; at least one example.
        read_test: returns what no device trains on; called once, when it is wanted.
        defaults: as of ``TorchTask``.
    """

    def __init__(  # noqa: PLR0913 - what a task is made of
        self,
        make_model: Callable[[], nn.Module],
        examples: tuple[Tensor, Tensor],
        places: Sequence[int],
        *,
        local_held_out: float,
        read_test: Callable[[], tuple[Tensor, Tensor]],
        defaults: TrainingSettings,
    ) -> None:
        cut = max(1, round(len(places) * local_held_out))
        training, held_out = (
            TensorDataset(*(part[list(chosen)] for part in examples))
            for chosen in (places[cut:], places[:cut])
        )
        test = cache(lambda: TensorDataset(*read_test()))
        super().__init__(make_model, training, held_out, defaults=defaults, test=test)


class Pixels(nn.Module):
    """Turns bytes 0 to 255 into floats (byte/255 - mean) / deviation; the first layer of a model of images.

    So a data set takes a byte per pixel of a small device's memory, and the published model takes images as
    they are.
    """

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self._mean = mean
        self._deviation = deviation

    def forward(self, images: Tensor) -> Tensor:
        """Return floats of the same shape."""
        return (images.float() / 255 - self._mean) / self._deviation
