"""Handwritten digits: the 1,797 images of 8 x 8 pixels that scikit-learn ships.

They are the test set of https://archive.ics.uci.edu/dataset/80 (E. Alpaydin and C. Kaynak, 1998). One in
five is held out to evaluate the global model; the rest is split among ``shares`` devices at random.
"""

import importlib.metadata

import numpy as np
import torch
from torch import nn

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.data_sets import PartitionedTask
from components.trainer.tasks.partition import SEED, Option, parse_partition, shuffled
from components.trainer.tasks.shared_reads import read_once
from components.trainer.training import TrainingSettings

_FILE = "sklearn/datasets/data/digits.csv.gz"
_BRIGHTEST = 16.0
_HELD_OUT = 0.2  # of all images: never trained on by any device; the split is the same everywhere
_LOCAL_HELD_OUT = 0.1  # of a share, for the device's own evaluation
_SMALLEST_SHARE = 10  # images
_DEFAULTS = TrainingSettings(epochs=5, learning_rate=0.05, momentum=0.9, batch_size=16)


class Digits(PartitionedTask):
    """Digits on one device, which takes share number ``share`` (from 0) of ``shares``.

    Args:
        partition_options: the fields of :class:`~components.trainer.tasks.partition.Partition`.
    """

    def __init__(self, **partition_options: Option) -> None:
        partition = parse_partition("digits", partition_options)
        images, labels = read_once("digits", read_digits)
        order = shuffled(range(len(labels)), SEED)
        cut = round(len(order) * _HELD_OUT)
        held_out, rest = order[:cut], order[cut:]
        if partition.shares > (most := len(rest) // _SMALLEST_SHARE):
            message = f"task 'digits' has only {len(rest)} images to split: at most {most} shares"
            raise ConfigurationError(message)
        own = partition.places(labels[rest].tolist())
        super().__init__(
            make_model,
            (images, labels),
            [rest[place] for place in own],
            local_held_out=_LOCAL_HELD_OUT,
            read_test=lambda: (images[held_out], labels[held_out]),
            defaults=_DEFAULTS,
        )


def make_model() -> nn.Module:
    """Return two convolutional layers with pooling and one linear layer, for 10 classes: 6,090 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 10),
    )


def read_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images, float32 of shape (1797, 1, 8, 8), 0 to 1, and labels, int64 of shape (1797,).

    Raises:
        ConfigurationError: scikit-learn is not installed.
    """
    try:
        # The file only: importing scikit-learn takes a second and 100 MB of a small device's memory.
        path = importlib.metadata.distribution("scikit-learn").locate_file(_FILE)
    except importlib.metadata.PackageNotFoundError as error:
        message = "task 'digits' reads images that scikit-learn ships, but scikit-learn is not installed"
        raise ConfigurationError(message) from error
    table = np.loadtxt(str(path), delimiter=",", dtype=np.float32)
    images = torch.from_numpy(table[:, :-1] / _BRIGHTEST).reshape(-1, 1, 8, 8)
    return images, torch.from_numpy(table[:, -1].astype(np.int64))
