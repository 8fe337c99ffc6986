"""Handwritten digits: the 1,797 images of 8 x 8 pixels that scikit-learn ships.

They are the test set of https://archive.ics.uci.edu/dataset/80 (E. Alpaydin and C. Kaynak, 1998). One in
five is held out for the global model; the rest is dealt to ``shares`` devices at random.
"""

import importlib.metadata
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from components.trainer.errors import ConfigurationError
from components.trainer.tasks.task import Evaluation
from components.trainer.training import TorchTask, TrainingSettings, load_arrays
from fedgrass.federation.weights import Arrays

FILE = "sklearn/datasets/data/digits.csv.gz"
BRIGHTEST = 16.0
SPLIT_SEED = 20_260_101  # never changed: every device and the judge of the global model cut the same way
HELD_OUT = 0.2  # of all images, never trained on by anybody
LOCAL_HELD_OUT = 0.1  # of a share, for the device's own evaluation
SMALLEST_SHARE = 10  # images
DEFAULTS = TrainingSettings(epochs=5, learning_rate=0.05, momentum=0.9, batch_size=16)


class Digits(TorchTask):
    """Digits on one device, which takes share number ``share`` (from 0) of ``shares``."""

    def __init__(self, share: int | str = 0, shares: int | str = 1) -> None:
        images, labels = read_digits()
        parts = split(len(labels), *_checked_share(share, shares, len(labels)))
        held_out, training, local = (TensorDataset(images[list(part)], labels[list(part)]) for part in parts)
        super().__init__(make_model, training, local, defaults=DEFAULTS)
        self._global_held_out = held_out

    def evaluate_held_out(self, weights: Arrays) -> Evaluation:
        """Measure a model on the images that no device trains on."""
        load_arrays(self._model, weights)
        return self.measure(self._global_held_out)


def make_model() -> nn.Module:
    """Return a small convolutional network: two layers of convolution, one linear layer, 10 classes."""
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
    """Return the images, float32 of shape (1797, 1, 8, 8) from 0 to 1, and their labels, int64.

    Raises:
        ConfigurationError: scikit-learn is not installed.
    """
    try:
        # Its file only: importing scikit-learn would take a second and 100 MB of a small device's memory.
        path = importlib.metadata.distribution("scikit-learn").locate_file(FILE)
    except importlib.metadata.PackageNotFoundError as error:
        message = "task 'digits' reads the images that scikit-learn ships, and that is not installed"
        raise ConfigurationError(message) from error
    table = np.loadtxt(str(path), delimiter=",", dtype=np.float32)
    images = torch.from_numpy(table[:, :-1] / BRIGHTEST).reshape(-1, 1, 8, 8)
    return images, torch.from_numpy(table[:, -1].astype(np.int64))


def split(count: int, share: int, shares: int) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Return the indices that are held out for all, and one share's for training and for evaluation.

    Python's own generator, since its shuffle has given the same order in every version.
    """
    order = list(range(count))
    random.Random(SPLIT_SEED).shuffle(order)  # noqa: S311 - a split, no secret
    held_out = round(count * HELD_OUT)
    own = order[held_out + share :: shares]
    local = max(1, round(len(own) * LOCAL_HELD_OUT))
    return order[:held_out], own[local:], own[:local]


def _checked_share(share: int | str, shares: int | str, count: int) -> tuple[int, int]:
    try:
        number, total = int(share), int(shares)
    except ValueError as error:
        message = f"task 'digits' takes whole numbers for share and shares: {error}"
        raise ConfigurationError(message) from error
    most = round(count * (1 - HELD_OUT)) // SMALLEST_SHARE
    if not 0 <= number < total <= most:
        message = f"task 'digits' has no share {number} of {total}: 1 to {most} shares, numbered from 0"
        raise ConfigurationError(message)
    return number, total
