"""CIFAR-10: 60,000 images of 32 x 32 pixels in 10 classes (Krizhevsky 2009), from its binary version.

A record is one byte of label and 3,072 bytes of pixels: 1,024 each of red, green and blue, row by row. The
"python version" of the data set is not supported: it is pickled, and loading a pickle can execute code.
"""

import numpy as np
import torch
from torch import Tensor, nn

from components.trainer.tasks.data_sets import PartitionedTask, Pixels, Publication
from components.trainer.tasks.partition import Option, parse_partition
from components.trainer.training import TrainingSettings

ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, and unpack it"
_FOLDER = "cifar-10-batches-bin"  # the top folder in the archive
TRAINING = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = ("test_batch.bin",)
_RECORD = 1 + 3 * 32 * 32  # bytes
_LOCAL_HELD_OUT = 0.1  # of a share
_DEFAULTS = TrainingSettings(epochs=1, learning_rate=0.001, momentum=0.9, batch_size=32)


class Cifar10(PartitionedTask):
    """CIFAR-10 on one device.

    Args:
        folder: where the archive was unpacked, or the folder ``cifar-10-batches-bin`` in it.
        partition_options: fields of :class:`~components.trainer.tasks.partition.Partition`.
    """

    def __init__(self, folder: str = "", **partition_options: Option) -> None:
        partition = parse_partition("cifar10", partition_options, own=("folder",))
        publication = Publication("cifar10", "CIFAR-10 (binary version)", ADDRESS, folder)
        images, labels = publication.once("train", lambda: read_examples(publication, TRAINING))
        super().__init__(
            make_model,
            (images, labels),
            partition.places(publication.once("labels", labels.tolist)),
            local_held_out=_LOCAL_HELD_OUT,
            read_test=lambda: publication.once("test", lambda: read_examples(publication, _TEST)),
            defaults=_DEFAULTS,
        )


def make_model() -> nn.Module:
    """Return LeNet-5 with three input channels: 62,006 parameters.

    LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 86(11), 1998.
    """
    return nn.Sequential(
        Pixels(0.5, 0.5),
        nn.Conv2d(3, 6, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def read_examples(publication: Publication, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return images, uint8 of shape (n, 3, 32, 32), and labels, int64 of shape (n,), of several files.

    Raises:
        ConfigurationError: a file is missing or damaged.
    """
    records = [_read_records(publication, name) for name in names]
    table = torch.from_numpy(np.concatenate(records))
    return table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0].long()


def _read_records(publication: Publication, name: str) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    path = publication.find(name, f"{_FOLDER}/{name}")
    data = np.frombuffer(publication.read(path), np.uint8)
    if not len(data) or len(data) % _RECORD:
        raise publication.damaged(path, f"which has {len(data)} bytes, not a multiple of {_RECORD}")
    table = data.reshape(-1, _RECORD)
    if table[:, 0].max() > 9:  # noqa: PLR2004 - ten classes
        raise publication.damaged(path, f"which has the label {table[:, 0].max()}; labels are 0 to 9")
    return table
