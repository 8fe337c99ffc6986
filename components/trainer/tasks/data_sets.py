"""Data sets of the built-in tasks: finding and reading their published files, and taking a device's share."""

import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.partition import Option
from components.trainer.tasks.shared_reads import read_once
from components.trainer.training import TorchTask, TrainingSettings
from components.trainer.training.torch_sharing import Patterns
from fedgrass.federation.weights.array_sharing import Sharing

T = TypeVar("T")


@dataclass(frozen=True)
class Publication:
    """A published data set and the local folder of its files.

    Attributes:
        task: the name of the task that reads it.
        title: the common name of the data set.
        address: where the files are published.
        folder: the value of the task's option ``folder``.
    """

    task: str
    title: str
    address: str
    folder: str

    def find(self, *names: str) -> Path:
        """Return the path of the first of these files that exists, plain or compressed by gzip.

        Raises:
            ConfigurationError: none exists; the text gives the name, the folder and where to download it.
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
            ConfigurationError: the option is empty, or the folder does not exist.
        """
        if not self.folder:
            message = (
                f"task {self.task!r} needs the option `folder`, the folder of {self.title}: {self._way_out}"
            )
            raise ConfigurationError(message)
        path = Path(self.folder)
        if not path.is_dir():
            message = (
                f"task {self.task!r} has the folder {self.folder}, which does not exist: {self._way_out}"
            )
            raise ConfigurationError(message)
        return path

    def read(self, path: Path) -> bytes:
        """Return the decompressed content of a file.

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

    def once(self, part: str, read: Callable[[], T]) -> T:
        """Return what ``read`` returns; the virtual devices of one process share it (shared_reads.py)."""
        return read_once((self, part), read)

    def damaged(self, path: Path, how: str) -> ConfigurationError:
        """Return the error for a file that differs from the published one; ``how`` is a relative clause."""
        return ConfigurationError(f"task {self.task!r} cannot use {path}, {how}: {self._way_out}")

    @property
    def _way_out(self) -> str:
        return f"download {self.title} from {self.address}"


class PartitionedTask(TorchTask):
    """Trains on a share of a data set, and evaluates the global model on examples that no device trains on.

    Args:
        make_model: as for ``TorchTask``.
        examples: inputs and targets of all devices; tensors of shapes (n, ...) and (n,).
        places: indices of this device's examples, in random order.
        local_held_out: fraction of the share, 0 to 1, that the device evaluates on: at least one example
            unless it is 0.
        read_test: returns inputs and targets of examples that no device trains on; called on first use.
        defaults: as for ``TorchTask``.
    """

    def __init__(  # noqa: PLR0913 - the parts of a task
        self,
        make_model: Callable[[], nn.Module],
        examples: tuple[Tensor, Tensor],
        places: Sequence[int],
        *,
        local_held_out: float,
        read_test: Callable[[], tuple[Tensor, Tensor]],
        defaults: TrainingSettings,
    ) -> None:
        cut = max(1, round(len(places) * local_held_out)) if local_held_out else 0
        training, held_out = (
            TensorDataset(*(part[list(chosen)] for part in examples))
            for chosen in (places[cut:], places[:cut])
        )
        test = cache(lambda: TensorDataset(*read_test()))
        self._make_fresh = make_model
        super().__init__(make_model, training, held_out, defaults=defaults, test=test)

    def _make_working_model(
        self, shared: Patterns, private: Patterns, frozen: Patterns
    ) -> tuple[nn.Module, Sharing]:
        """Return the module and the roles of its arrays; the virtual devices of one process share it.

        They may, since each training and evaluation loads all of its arrays. A function that is made anew for
        each task would be kept for good.
        """
        key = "model", self._make_fresh, shared, private, frozen
        make = partial(super()._make_working_model, shared, private, frozen)
        is_of_module = getattr(self._make_fresh, "__qualname__", "<").isidentifier()
        return read_once(key, make) if is_of_module else make()


def parse_local_held_out(task: str, value: Option) -> float:
    """Return the task's option ``local_held_out``, which may be given as a string.

    Raises:
        ConfigurationError: it is no number from 0 to below 1.
    """
    try:
        fraction = float(value)
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction < 1:
        message = (
            f"task {task!r} has local_held_out {value!r}: it is the fraction of a share that the device"
            " evaluates on, a number from 0 to below 1"
        )
        raise ConfigurationError(message)
    return fraction


class Pixels(nn.Module):
    """First layer of an image model: converts bytes 0 to 255 to floats (byte / 255 - mean) / deviation.

    A data set then takes one byte per pixel of a small device's memory, and the published model accepts
    images as they are stored.
    """

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self._mean = mean
        self._deviation = deviation

    def forward(self, images: Tensor) -> Tensor:
        """Return a float32 tensor of the same shape as ``images``, a uint8 tensor of any shape."""
        return (images.float() / 255 - self._mean) / self._deviation
